"""The disk of a world: the journal's batches reach it late, or not at all, and a crash leaves a prefix of them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.runtime.durability import Write
from orchestrator.upgrade.durable_rows import TABLES, Stored, read_rows, write_rows
from orchestrator.upgrade.errors import JournalCorrupt
from orchestrator.upgrade.journal import Item, Journal
from orchestrator.upgrade.journal_file import GENESIS, Line, ModuleImage, chain
from orchestrator.upgrade.records import ImageSaved, Record, decode_fact, images_used
from tests.simulation.loop import VirtualLoop

Crash = Callable[[str, Record], bool]
"""Asked at each side of each write, of each record of it: does the host die here?"""


@dataclass
class Platter:
    """What is on the disk: it alone outlives a crash."""

    lines: list[tuple[int, float, bytes, bytes]] = field(default_factory=list)
    images: dict[str, ModuleImage] = field(default_factory=dict)
    told: Callable[[Record], None] = lambda _record: None
    rows: sqlite3.Connection | None = None  # of durable modules, once there was one

    def take(self, lines: Sequence[Line], writes: Sequence[Write] = ()) -> None:
        """A batch, whole."""
        if writes:
            self._take_rows(writes)
        for line in lines:
            record = line.record
            self.lines.append((record.seq, record.at, line.data, record.digest))
            if isinstance(record.fact, ImageSaved):
                self.images.update({each.name: each for each in line.images})
            for name in images_used(record.fact):
                self.images.pop(name, None)
            self.told(record)

    def _take_rows(self, writes: Sequence[Write]) -> None:
        if self.rows is None:
            self.rows = sqlite3.connect(":memory:", isolation_level=None)
            self.rows.executescript(TABLES)
        self.rows.execute("BEGIN")
        write_rows(self.rows, writes)
        self.rows.execute("COMMIT")

    def stored(self) -> Stored:
        """What durable modules have, read as a start reads it."""
        return Stored() if self.rows is None else read_rows(self.rows)

    def close(self) -> None:
        if self.rows is not None:
            self.rows.close()


class DiskFailed(OSError):
    """The virtual disk has had enough."""


class VirtualFile:
    """A JournalFile over a platter."""

    def __init__(self, platter: Platter, disk: Disk) -> None:
        self._platter = platter
        self._disk = disk

    def records(self) -> list[Record]:
        """Read back, with the chain verified by the function that made it."""
        previous, found = GENESIS, []
        for expected, (seq, at, data, digest) in enumerate(self._platter.lines, start=1):
            if seq != expected or chain(previous, seq, at, data) != digest:
                raise JournalCorrupt(f"record {expected}", expected)
            found.append(Record(seq, at, decode_fact(data), digest))
            previous = digest
        return found

    def write(self, lines: Sequence[Line], head: tuple[int, bytes], writes: Sequence[Write] = ()) -> None:
        last = self._platter.lines[-1] if self._platter.lines else (0, 0.0, b"", GENESIS)
        assert (last[0], last[3]) == head
        self._disk.written(self._platter, lines, writes)

    def images(self, saved: dict[str, int]) -> dict[str, ModuleImage]:
        assert {n: i.saved_seq for n, i in self._platter.images.items()} == saved
        return dict(self._platter.images)

    def stored(self) -> Stored:
        return self._platter.stored()

    def close(self) -> None:
        """Nothing to let go of."""


class Disk:
    """How the disk behaves: slow, broken, or in the way of a crash. `at_once`: who writes now waits for it blocking."""

    def __init__(self, rng: random.Random, loop: VirtualLoop, crash: Crash) -> None:
        self._rng = rng
        self._loop = loop
        self._crash = crash
        self.slow_s = 0.004
        self.broken = False
        self.breaks_at = ""  # it breaks when such a record is to be written
        self.at_once = False

    def written(self, platter: Platter, lines: Sequence[Line], writes: Sequence[Write]) -> None:
        """The moment that decides: on disk, or not; and whether anybody hears of it."""
        if self._loop.dead:
            raise DiskFailed("the process is dead")
        kinds = {type(line.record.fact).__name__ for line in lines}
        self.broken = self.broken or self.breaks_at in kinds
        before = any(self._crash("before", line.record) for line in lines)
        if before or (self.broken and self._rng.random() < 0.7):
            self._failed("was not written")
        platter.take(lines, writes)
        if self.broken or any(self._crash("after", line.record) for line in lines):
            self._failed("was written, and could not be synced")

    def _failed(self, what: str) -> None:
        raise DiskFailed(f"the batch {what}")

    def happens(self, chance: float) -> bool:
        return self._rng.random() < chance

    def delay_s(self) -> float:
        return self.slow_s * self._rng.random()


class VirtualWriter:
    """Drives a journal on the event loop: one batch after the other, each after a while."""

    def __init__(self, journal: Journal, disk: Disk, loop: VirtualLoop) -> None:
        self._journal = journal
        self._disk = disk
        self._loop = loop
        self._writing: Sequence[Item] = ()
        self._asked = False

    def wake(self) -> None:
        if self._loop.dead:
            if (
                self._journal.failed is None
            ):  # what the killed process still writes in this turn must not be waited for
                self._journal.give_up(0.0)
            return
        if self._disk.at_once:
            self._finish()
            self._take()
            self._finish()
        elif not self._asked and not self._writing:
            self._asked = True
            self._loop.call_soon(self._begin)

    def overtake(self) -> None:
        """The writer is a thread: it may take what there is in the middle of a turn of the loop, and end it there, too."""
        if self._disk.at_once or self._loop.dead:
            return
        if self._writing:
            if self._disk.happens(0.05):
                self._end()
        elif self._asked and self._disk.happens(0.3):
            self._begin()

    def hurry(self) -> None:
        """All that there is reaches the disk now."""
        self._finish()
        self._take()
        self._finish()

    def join(self, timeout_s: float) -> None:
        """The last wake wrote all there was."""

    def forget(self) -> None:
        """The batch under way has met its fate."""
        self._writing = ()

    def in_flight(self) -> Sequence[Item]:
        return self._writing

    def _take(self) -> None:
        self._asked = False
        self._writing, _last = self._journal.take_batch()

    def _begin(self) -> None:
        if self._writing or self._loop.dead:
            return
        self._take()
        if self._writing:
            self._loop.call_later(self._disk.delay_s(), self._end)

    def _end(self) -> None:
        if self._writing and not self._loop.dead:
            self._finish()
            self._begin()

    def _finish(self) -> None:
        batch, self._writing = self._writing, ()
        if batch:
            self._journal.write_batch(batch)
