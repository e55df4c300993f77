"""The disk of durable modules: the journal's own queue and writer, behind the port of the runtime (DESIGN §7.6).

Facts and durable writes are in one queue, so a unit of a new version can never be on disk without the COMMITTED that
brought that version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from orchestrator.runtime.durability import Write
from orchestrator.runtime.errors import DurabilityLost
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal import Journal


class DurableStore:
    """The journal as durable modules see it. Made on the event loop that it calls back."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._reached: Callable[[int], None] = lambda _number: None
        self._failed: Callable[[str], None] = lambda _text: None

    def listen(self, reached: Callable[[int], None], failed: Callable[[str], None]) -> None:
        """Called on the loop: once for each batch that is on disk, and once when there will be none any more."""
        self._reached, self._failed = reached, failed
        self._journal.listen(self._tell)

    def _tell(self, number: int, failure: str | None) -> None:
        with suppress(RuntimeError):  # the loop was closed: the host has stopped
            if failure is None:
                self._loop.call_soon_threadsafe(self._reached, number)
            else:
                self._loop.call_soon_threadsafe(self._failed, failure)

    def queue(self, writes: Sequence[Write], number: int) -> bool:
        """Raises DurabilityLost once the journal has failed."""
        try:
            self._journal.put(writes, number)
        except JournalFailed as error:
            raise DurabilityLost(str(error)) from None
        return False

    def wake(self) -> None:
        self._journal.wake()

    def finish(self) -> None:
        """Blocks the loop: for the stop of the host."""
        failure, number = self._journal.finish()
        if failure is None:
            self._reached(number)
        else:
            self._failed(failure)

    def give_up(self, wait_s: float) -> None:
        self._journal.give_up(wait_s)
