"""A real host that is made to die, fail or wait at a named point, and the restart that has to put it right.

The harness is that of `livetag selftest`; here it runs on modules that say which code and config of theirs is loaded.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from orchestrator.control.client import ControlError
from orchestrator.control.selftest import scenario as harness
from orchestrator.control.selftest.checks import derived_equals_journal
from orchestrator.control.selftest.scratch import Scratch, Served
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.ledger import Ledger
from tests.git_fixtures import clean_environment
from tests.stories.deployment import Deployment, wait_until

__all__ = ["Scenario", "Served", "Victim", "kinds", "run", "voice"]

TRAP = "trap"  # a file in the deployment: where it lies, the releases that look for it fail
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
        return {
            name: f"{entry.version} {entry.config.get('mood', '-')}" for name, entry in ledger.table.items()
        }

    def remembers(self, images: Mapping[str, ModuleImage]) -> None:
        """Their states are what other tests are about."""

    def go_further(self, tag: str) -> None:
        module = tag.partition("/")[0]
        self.write(module, voice("further"))
        self.release(tag, message="further")
        pushed = self.push("main", tag, force=True)
        assert pushed.returncode == 0, pushed.stderr
        assert self.ask(module, "loaded").startswith("further")


Scenario: TypeAlias = harness.Scenario[Victim]


def run(victim: Victim, scenario: Scenario, plan: str) -> str:
    """As the harness runs it, with a victim that was made ready before: that is done once, and copied.

    A start that has something to do is waited for until it has done it, or died of it; a push that took its tags back,
    until the host has seen that: it records it in a look of its own, which may come after the push has ended.
    """
    end = harness.run(victim, replace(scenario, ready=lambda _victim: None), plan)
    if end == "lived" and scenario.drive is not None and scenario.quarantines:
        wait_until(lambda: victim.dead or _seen(victim, scenario.tags), "the host sees the tags", 40.0)
        if victim.dead:
            victim.buried()
            return "died"
    if end == "lived" and scenario.drive is None and scenario.new != scenario.old:
        wait_until(lambda: victim.dead or _serves(victim, scenario.new), "the new serves", 40.0)
        wait_until(lambda: victim.dead or _told(victim), "Git says it", 40.0)
        if victim.dead:
            victim.buried()
            return "died"
    return end


def _serves(victim: Victim, new: Served) -> bool:
    try:
        return victim.serves() == new
    except ControlError:
        return False  # it is dying, which the caller looks for


def _seen(victim: Victim, tags: Collection[str]) -> bool:
    """Whether the journal says of these tags whether they are there, or will say nothing more."""
    try:
        there = set(victim.tags()).intersection(tags)
        return there == _pinned(victim).intersection(tags) or harness.rests(victim.status())
    except ControlError:
        return False


def _pinned(victim: Victim) -> set[str]:
    newest = {}
    with closing(sqlite3.connect(f"file:{victim.place.journal}?mode=ro", uri=True)) as journal:
        facts = journal.execute("SELECT CAST(fact AS TEXT) FROM journal ORDER BY seq")
        for fact in map(json.loads, (text for (text,) in facts)):
            if fact["kind"] == "TagMoved":
                newest[fact["tag"]] = fact.get("object_id")
    return {tag for tag, object_id in newest.items() if object_id is not None}


def _told(victim: Victim) -> bool:
    try:
        return derived_equals_journal(victim) or harness.rests(victim.status())
    except ControlError:
        return False


def kinds(victim: Victim) -> list[str]:
    """What kinds of fact the journal of a running host holds, oldest first."""
    with closing(sqlite3.connect(f"file:{victim.place.journal}?mode=ro", uri=True)) as journal:
        rows = journal.execute("SELECT json_extract(CAST(fact AS TEXT), '$.kind') FROM journal ORDER BY seq")
        return [row[0] for row in rows]


def voice(version: str) -> str:
    """A module that says which code and which config of it is loaded, and tells what its state has seen."""
    return f"""
        import asyncio
        from livetag import Module, handles

        class Voice(Module):
            def initial_state(self):
                return {{"asked": 0, "notes": []}}

            @handles
            def loaded(self) -> str:
                self.state["asked"] += 1
                return {version!r} + " " + self.config.get("mood", "-")

            @handles
            def told(self) -> dict:
                return self.state

            @handles
            def note(self, number: int) -> None:
                self.state["notes"].append(number)

            @handles
            async def brood(self, seconds: float) -> None:
                await asyncio.sleep(seconds)

            @handles
            def drop(self) -> None:
                raise ValueError("dropped")
    """
