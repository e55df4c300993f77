"""A real host that is made to die, fail or wait at a named point, and the restart that has to put it right.

The harness is that of `livetag selftest`; here it runs on modules that say which code and config of theirs is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from orchestrator.control.selftest import scenario as harness
from orchestrator.control.selftest.checks import check
from orchestrator.control.selftest.scenario import run
from orchestrator.control.selftest.scratch import Scratch, Served
from orchestrator.upgrade.ledger import Ledger
from tests.git_fixtures import clean_environment
from tests.stories.deployment import Deployment

__all__ = ["Scenario", "Served", "Victim", "check", "run", "table_of", "voice"]

SETTLE_S = 0.3  # a start of a victim has lasted after this


class Victim(Scratch, Deployment):
    """A deployment whose host and hooks have their failpoints on."""

    def __init__(self, path: Path, like: Deployment | None = None) -> None:
        Deployment.__init__(self, path, like)
        Scratch.__init__(self, self.place, self.work.path, self.log, clean_environment())
        self.place.config_file.write_text(f"[host]\nsettle_s = {SETTLE_S}\n")

    def serves(self) -> Served:
        """What the code in service says, module by module."""
        return {name: self.ask(name, "loaded") for name in self.status()["modules"]}

    def table_of(self, ledger: Ledger) -> Served:
        return table_of(ledger)

    def go_further(self, tag: str) -> None:
        module = tag.partition("/")[0]
        self.write(module, voice("further"))
        self.release(tag, message="further")
        pushed = self.push("main", tag, force=True)
        assert pushed.returncode == 0, pushed.stderr
        assert self.ask(module, "loaded").startswith("further")


Scenario: TypeAlias = harness.Scenario[Victim]


def table_of(ledger: Ledger) -> Served:
    """The release table in the words of `Victim.serves`."""
    return {name: f"{entry.version} {entry.config.get('mood', '-')}" for name, entry in ledger.table.items()}


def voice(version: str) -> str:
    """A module that says which code and which config of it is loaded, and counts."""
    return f"""
        from livetag import Module, handles

        class Voice(Module):
            def initial_state(self):
                return {{"asked": 0}}

            @handles
            def loaded(self) -> str:
                self.state["asked"] += 1
                return {version!r} + " " + self.config.get("mood", "-")
    """
