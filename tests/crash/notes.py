"""Modules that note what they are told: good releases, broken ones, and ones that end the host as they come into service."""

from __future__ import annotations

from pathlib import Path

from tests.crash.model import DURABLE, MODULES
from tests.crash.victim import Victim

CODE = """
    import os, signal
    from livetag import Module, handles

    {broken}

    class Notes(Module):
        def initial_state(self):
            return {{"notes": []}}

        async def prepare(self):
            if {lethal}:
                try:
                    with open({lock!r}) as lock:
                        here = lock.read().strip() == str(os.getpid())
                except OSError:
                    here = False
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)

        @handles
        def note(self, n: int) -> int:
            self.state["notes"].append(n)
            return {number}

        @handles
        def told(self) -> dict:
            return {{"number": {number}, "notes": self.state["notes"]}}

        @handles
        def drop(self) -> None:
            raise ValueError("dropped")
"""


def make_base(path: Path) -> Victim:
    """Both modules in service in one version, stopped cleanly."""
    base = Victim(path)
    base.calm()
    base.start()
    for module in MODULES:
        toml = f"durable = {str(module == DURABLE).lower()}\n"
        base.write(module, {"__init__.py": code(base, 1, "good"), "module.toml": toml})
    tags = [f"{module}/v1.1.0" for module in MODULES]
    base.release(*tags)
    assert base.push("main", *tags).returncode == 0
    base.stop()
    return base


def code(deployment: Victim, number: int, kind: str) -> str:
    broken = "raise RuntimeError('not today')" if kind == "broken" else ""
    return CODE.format(
        number=number, broken=broken, lethal=kind == "lethal", lock=str(deployment.path / "host.lock")
    )
