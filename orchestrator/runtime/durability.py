"""What durable modules write, in one order, and who waits until it is on disk (DESIGN §7, "a durable unit").

All writes of all durable modules go into one queue, first in, first out; whatever a kill leaves is a prefix of it. So a
module may go on with what is not on disk yet, as long as nothing of it leaves the durable modules: what does leave waits
here, in order. The disk itself is behind a narrow port: the journal's database in a host, nothing in a test.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from orchestrator.runtime.clock import Clock, Timer
from orchestrator.runtime.errors import DurabilityLost

STATE_BYTES_MAX = (
    64 * 1024
)  # of `self.state` of a durable module, as msgpack: it is written whole (DESIGN §7)
WAIT_S = 30.0  # a disk that takes nothing for so long has failed


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One write. A struct: each durable unit makes some, and a named tuple costs three times as much."""


class StateRow(Row, frozen=True):
    """`self.state` of a module, whole."""

    module: str
    package: str
    version: int
    data: bytes


class RecordRow(Row, frozen=True):
    """A record of a Table, with the version of its schema; without data: it is deleted. `key` is msgpack."""

    module: str
    table: str
    key: bytes
    version: int
    data: bytes | None


class InboxRow(Row, frozen=True):
    """A message that a module has accepted."""

    row: int
    module: str
    data: bytes


class InboxGone(Row, frozen=True):
    """It was handled, or is a dead letter."""

    row: int


class LetterRow(Row, frozen=True):
    """A dead letter."""

    number: int
    module: str
    data: bytes
    reason: str
    at: float


class LetterGone(Row, frozen=True):
    """It was given again, or dropped."""

    number: int


class Forget(Row, frozen=True):
    """Everything that is kept of a module but its dead letters; with `tables`: the records of these alone."""

    module: str
    tables: tuple[str, ...] | None = None


Write = StateRow | RecordRow | InboxRow | InboxGone | LetterRow | LetterGone | Forget


class WriteAhead(Protocol):
    """The disk, as durable modules see it."""

    def listen(self, reached: Callable[[int], None], failed: Callable[[str], None]) -> None:
        """Tell, on the event loop: all up to a number is on disk; nothing more will be, and why."""

    def queue(self, writes: Sequence[Write], number: int) -> bool:
        """Take writes that are on disk together or not at all; True: they are there. Raises DurabilityLost."""

    def wake(self) -> None:
        """Have the writer look; costs some 60 µs if it sleeps."""

    def finish(self) -> None:
        """Block until all that was queued is on disk, and it has been told."""

    def give_up(self, wait_s: float) -> None:
        """The disk has taken nothing for so long: it has failed, and that is told."""


class Nowhere:
    """The disk of a test: what is queued is there at once."""

    def listen(self, reached: Callable[[int], None], failed: Callable[[str], None]) -> None:
        """It never fails, and is never late."""

    def queue(self, writes: Sequence[Write], number: int) -> bool:  # noqa: ARG002  # the shape of the port
        return True

    def wake(self) -> None:
        """Nobody sleeps."""

    def finish(self) -> None:
        """It is finished."""

    def give_up(self, wait_s: float) -> None:
        """It never is late."""


class Durability:
    """The queue as the event loop sees it: what is open, what is queued, what is on disk. One for an application."""

    __slots__ = (
        "_ahead",
        "_clock",
        "_depth",
        "_failing",
        "_first_row",
        "_next_row",
        "_open",
        "_then",
        "_timer",
        "_wake_asked",
        "failed",
        "number",
        "on_disk",
    )

    def __init__(self, clock: Clock, ahead: WriteAhead | None = None) -> None:
        self._clock = clock
        self._ahead: WriteAhead = ahead or Nowhere()
        self.failed: str | None = None  # why nothing more is written
        self.number = 0  # of what was queued last
        self.on_disk = 0  # the highest number that is on disk, with all before it
        self._next_row = 1
        self._first_row = 0
        self._open: list[Write] = []
        self._depth = 0
        self._then: deque[tuple[int, Callable[[str | None], None]]] = deque()
        self._failing: list[Callable[[str], None]] = []
        self._wake_asked = False
        self._timer: Timer | None = None
        self._ahead.listen(self._reached, self._fail)

    # -- writing -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """What is added up to the matching `end` is on disk together, or not at all."""
        self._depth += 1

    def end(self) -> int:
        """Queue what was added; returns the number to wait for, also where there was nothing to write."""
        self._depth -= 1
        if self._depth:
            return self.number + 1
        if self._open:
            writes, self._open = self._open, []
            self.put(writes)
        return self.number

    def add(self, write: Write) -> None:
        """One write: part of what is open, else on its own."""
        if self._depth:
            self._open.append(write)
        else:
            self.put([write])

    def put(self, writes: Sequence[Write]) -> None:
        """Queue writes that belong together; of none, the place in the queue. After a failure nothing is taken."""
        if self.failed is not None:
            return
        self.number += 1
        try:
            there = self._ahead.queue(writes, self.number)
        except DurabilityLost as error:
            self._fail(str(error))
            return
        if there:
            self._reached(self.number)
            return
        if not self._wake_asked:  # once in a turn of the loop: waking costs 60 µs, which many units share
            self._wake_asked = True
            asyncio.get_running_loop().call_soon(self._wake)
        if self._timer is None:
            self._timer = self._clock.call_at(self._clock.now() + WAIT_S, self._late(self.on_disk))

    def next_row(self) -> int:
        """A place in an inbox: higher than all before it, so that order is kept over a restart."""
        self._next_row += 1
        return self._next_row - 1

    def rows_before_all(self, count: int) -> int:
        """The first of so many places that come before all there are, one after the other."""
        self._first_row -= count
        return self._first_row

    def go_on_from(self, first: int, last: int) -> None:
        """These are the first and the last row that are on disk from an earlier run."""
        self._first_row = min(self._first_row, first)
        self._next_row = max(self._next_row, last + 1)

    def _wake(self) -> None:
        self._wake_asked = False
        self._ahead.wake()

    def _late(self, before: int) -> Callable[[], None]:
        def ring() -> None:
            self._timer = None
            if self.on_disk == before and self.on_disk < self.number:
                self._ahead.give_up(WAIT_S)
            elif self.on_disk < self.number:
                self._timer = self._clock.call_at(self._clock.now() + WAIT_S, self._late(self.on_disk))

        return ring

    # -- waiting -----------------------------------------------------------------------------------------------

    def then(self, number: int, callback: Callable[[str | None], None]) -> None:
        """Call it when all up to a number is on disk (None), or when it will not be (why). In order; now, if it is so."""
        if self.failed is not None or (number <= self.on_disk and not self._then):
            callback(self.failed)
        else:
            self._then.append((number, callback))

    async def reached(self, number: int) -> None:
        """Return when all up to a number is on disk. Raises DurabilityLost."""
        if number <= self.on_disk:
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(error: str | None) -> None:
            if told.done():
                return
            if error is None:
                told.set_result(None)
            else:
                told.set_exception(DurabilityLost(error))

        self.then(number, tell)
        await told

    async def settled(self) -> None:
        """Return when all that was queued up to now is on disk. Raises DurabilityLost."""
        await self.reached(self.number)

    def finish(self) -> None:
        """Block until all that was queued is on disk, and what waited for it has left: for the stop of the host."""
        if self.on_disk < self.number:
            self._ahead.finish()

    def on_failure(self, callback: Callable[[str], None]) -> None:
        """Call it once when the disk has failed."""
        self._failing.append(callback)

    def _reached(self, number: int) -> None:
        self.on_disk = max(self.on_disk, number)
        while self._then and self._then[0][0] <= self.on_disk:
            self._then.popleft()[1](None)
        if self.on_disk == self.number and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, text: str) -> None:
        if self.failed is not None:
            return
        self.failed = text
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for callback in self._failing:
            callback(text)
        while self._then:
            self._then.popleft()[1](text)
