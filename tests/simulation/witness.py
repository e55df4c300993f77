"""The black box of a world: what the last host was doing outlives it, as far as it had noted it."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.upgrade.black_box import BlackBox, Evidence
from tests.simulation.loop import VirtualLoop


class Witness(BlackBox):
    """The black box on a page of the world: what a process that is dead would still note is not on it."""

    def __init__(self, page: dict[str, Any], loop: VirtualLoop) -> None:
        super().__init__()
        self._page = page
        self._loop = loop
        self.open = False

    def last(self) -> Evidence | None:
        if not self._page:
            return None
        running = self._page["running"]
        module, doing = running[-1] if running else (None, "")
        page = self._page
        return Evidence(
            page["pid"],
            module,
            doing,
            page["ended"],
            page["in_doubt"],
            page["loaded"],
            page["run"],
            recorded=page["recorded"],
        )

    def begin(self) -> None:
        self.open = True
        self._write()

    def tells_nothing(self) -> None:
        """What killed the host was a thread that a module had left behind: no unit of anybody was running."""
        self._page.update(running=[])

    def _write(self, *, ended: bool = False) -> None:
        if self.open and not self._loop.dead:
            self._page.update(
                pid=os.getpid(),
                run=self.run,
                running=list(self._running),
                ended=ended,
                in_doubt=self._in_doubt,
                loaded=self._loaded,
                recorded=self._recorded,
            )
