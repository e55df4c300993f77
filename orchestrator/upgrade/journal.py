"""The journal: the single source of truth of what was decided (DESIGN section 7, "Journal" and step 6).

Invariants, which the tests cite by number:
 1. Order: records are on disk in the order of their `append`, numbered from 1 without a gap; whatever a crash
    leaves is a prefix of it.
 2. Durable: what a ticket has acknowledged is on disk, synced, and is there after any kill.
 3. Off the pause: `append` numbers and queues, no more: it does not touch the disk and wakes nobody.
 4. Group commit: all that waits when the writer looks goes in one SQLite transaction, with one sync.
 5. Chain: the digest of a record covers the one before it, so an edited, missing, reordered or torn record is
    found at open (JournalCorrupt), and so is a cut end, by the head kept beside it.
 6. Image and fact are one: the rows of an image are in the transaction of its ImageSaved, and leave in
    that of its ImageUsed, or of the COMMITTED of the module that came back with it.
 7. No second try: after a failed write nothing more is taken; all that waited and all that comes gets
    JournalFailed. A failed sync may have dropped the data that a retry would report as safe.
 8. What `append` returns equals what a reopen reads.
 9. Only its owner reads it: mode 0600.
10. One queue: what durable modules write stands in it with the facts; a batch holds each of their writes whole.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import NamedTuple, Protocol

from loguru import logger

from orchestrator.runtime.clock import look_away
from orchestrator.runtime.durability import Write
from orchestrator.upgrade.durable_rows import Stored
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal_file import (
    GENESIS,
    Line,
    ModuleImage,
    file_identity,
    make_line,
    open_file,
    read_again,
    read_images,
    read_stored,
    same_file,
    still_saved,
    write_lines,
)
from orchestrator.upgrade.journal_writer import Writer, WriterThread
from orchestrator.upgrade.records import Fact, ImageSaved, Record

__all__ = ["Journal", "JournalFile", "ModuleImage", "Ticket"]


class JournalFile(Protocol):
    """Where the batches go. What `write` was given is on disk, synced, once it has returned; or nobody knows."""

    def records(self) -> list[Record]: ...
    def write(
        self, lines: Sequence[Line], head: tuple[int, bytes], writes: Sequence[Write] = (), /
    ) -> None: ...
    def images(self, saved: dict[str, int], /) -> dict[str, ModuleImage]: ...
    def stored(self) -> Stored: ...
    def close(self) -> None: ...


class SqliteFile:
    """The journal's file on a real disk, open for one writer."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises JournalCorrupt, JournalFailed."""
        self._path = path
        self.connection = open_file(path)
        self._identity = file_identity(path)

    def records(self) -> list[Record]:
        return read_again(self._path)  # its own connection: the other one is the writer's

    def write(self, lines: Sequence[Line], head: tuple[int, bytes], writes: Sequence[Write] = ()) -> None:
        if not same_file(self._path, self._identity):
            raise JournalFailed(
                f"{self._path} was removed or replaced while the host runs, so what it writes would be lost"
            )
        if writes:
            write_lines(self.connection, lines, head, writes)
        else:
            write_lines(self.connection, lines, head)

    def images(self, saved: dict[str, int]) -> dict[str, ModuleImage]:
        connection = open_file(self._path)  # its own: the other one is the writer's
        try:
            return read_images(connection, self._path, saved)
        finally:
            connection.close()

    def stored(self) -> Stored:
        return read_stored(self._path)

    def close(self) -> None:
        self.connection.close()


class Ticket:
    """The promise that one record will be on disk."""

    __slots__ = ("_future", "_wake", "record")

    def __init__(self, record: Record, wake: Callable[[], None]) -> None:
        self.record = record
        self._wake = wake
        self._future: Future[Record] = Future()
        self._future.set_running_or_notify_cancel()  # a waiter that gives up must not cancel the write

    @property
    def done(self) -> bool:
        """Whether it is decided: on disk, or failed."""
        return self._future.done()

    @property
    def durable(self) -> bool:
        """Whether it is on disk."""
        return self._future.done() and self._future.exception() is None

    async def wait(self) -> Record:
        """Return the record once it is on disk; raises JournalFailed if that cannot be said.

        Wakes the writer. Cancelling the wait does not take the record back.
        """
        if not self.done:
            self._wake()
        return await asyncio.wrap_future(self._future)

    def wait_blocking(self, timeout_s: float) -> Record:
        """As `wait`, for threads; raises TimeoutError after `timeout_s` seconds."""
        if not self.done:
            self._wake()
        try:
            return self._future.result(timeout_s)
        except FutureTimeout as error:
            raise TimeoutError(f"record {self.record.seq} was not on disk after {timeout_s:g} s") from error

    def _resolve(self, error: JournalFailed | None) -> None:
        if error is None:
            self._future.set_result(self.record)
        else:
            self._future.set_exception(error)


class Item(NamedTuple):
    """What waits for the writer: a record, what durable modules write, or both; `number` is of a write without a record."""

    line: Line | None
    ticket: Ticket | None
    writes: Sequence[Write] = ()
    number: int = 0
    finished: threading.Event | None = None


class Journal:
    """An open journal. All methods may be called from any thread; one process per file."""

    def __init__(
        self,
        file: JournalFile,
        clock: Callable[[], float],
        write_timeout_s: float = 30.0,
        start_writer: Callable[[Journal], Writer] = WriterThread,
    ) -> None:
        """Read and verify all of the file; `start_writer` makes what brings the batches to it."""
        self._file = file
        self._clock = clock
        self._write_timeout_s = write_timeout_s
        #: What was read to verify it, for the one who folds it, and then no more: the ledger keeps what is needed.
        self._read: list[Record] | None = file.records()
        self._saved: dict[str, int] = {}  # images: module → seq of its ImageSaved
        still_saved(self._saved, self._read)
        last = self._read[-1] if self._read else None
        self._tail = (last.seq, last.digest) if last else (0, GENESIS)  # of what was appended
        self._head = self._tail  # of what is on disk
        self._lock = threading.Lock()  # held for a few instructions only, never over a write
        self._waiting: list[Item] = []
        self._number = 0  # of the last durable write that was queued
        self._tell: Callable[[int, str | None], None] = lambda _number, _failure: None
        self._failure: str | None = None
        self._closing = False
        self._writer = start_writer(self)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float], write_timeout_s: float = 30.0) -> Journal:
        """Open or make the journal at `path` and verify all of it; `clock` gives unix seconds.

        Raises JournalCorrupt naming the record that cannot be trusted, JournalFailed if it cannot be opened.
        """
        file = SqliteFile(path)
        try:
            return cls(file, clock, write_timeout_s)
        except BaseException:
            file.close()
            raise

    def records(self) -> list[Record]:
        """Return what is on disk now, oldest first; read anew but for the first time. Raises JournalCorrupt, JournalFailed."""
        with self._lock:
            found, self._read = self._read, None
        return self._file.records() if found is None else found

    @property
    def failed(self) -> str | None:
        """Why nothing more is taken, or None."""
        return self._failure

    def append(self, fact: Fact, image: Sequence[ModuleImage] = (), writes: Sequence[Write] = ()) -> Ticket:
        """Give the fact its number and queue it; it is written after the next `wake` (or wait).

        `image` goes with ImageSaved, one for each of its modules; `writes`, of durable modules, with any fact.
        Raises JournalFailed once the journal has failed or is closed, and TypeError, ValueError or OverflowError for
        a fact that would not read back.
        """
        named = fact.modules if isinstance(fact, ImageSaved) else ()
        if sorted(named) != sorted(each.name for each in image):
            raise ValueError(f"the images given do not match the fact {fact!r}")
        with self._lock:
            if self._failure is not None:
                raise JournalFailed(self._failure)
            seq, digest = self._tail
            line = make_line(digest, seq + 1, self._clock(), fact, image)
            ticket = Ticket(line.record, self.wake)
            self._tail = (line.record.seq, line.record.digest)
            self._waiting.append(Item(line, ticket, writes))
        return ticket

    # -- what durable modules write ----------------------------------------------------------------------------

    def put(self, writes: Sequence[Write], number: int) -> None:
        """Queue what a durable module writes, whole; `listen` tells the number. Raises JournalFailed as `append`."""
        with self._lock:
            if self._failure is not None:
                raise JournalFailed(self._failure)
            self._number = number
            self._waiting.append(Item(None, None, writes, number))

    def listen(self, tell: Callable[[int, str | None], None]) -> None:
        """Call it, from the writer's thread or another, with the number that is on disk, or once with why none will be."""
        self._tell = tell

    def finish(self) -> tuple[str | None, int]:
        """Block until all that `put` has taken is on disk, or failed: returns why, and the number."""
        done = threading.Event()
        with self._lock:
            number = self._number
            if self._failure is not None:
                return self._failure, number
            self._waiting.append(Item(None, None, finished=done))
        self.wake()
        if not done.wait(self._write_timeout_s):
            self.give_up(self._write_timeout_s)
        return self._failure, number

    def give_up(self, wait_s: float) -> None:
        """A write has not ended for so long: take nothing more (invariant 7)."""
        self._fail(_what_failed(None, f"it did not end within {wait_s:g} s"))

    def load_stored(self) -> Stored:
        """Return what durable modules have on disk. Raises JournalCorrupt."""
        return self._file.stored()

    # -- waiting for the disk ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the writer look. This costs the caller some 60 µs, so it is done after the pause."""
        self._writer.wake()

    async def write(self, fact: Fact, image: Sequence[ModuleImage] = ()) -> Record:
        """Append, and return once it is on disk; raises JournalFailed."""
        return await self.durable(self.append(fact, image))

    async def durable(self, ticket: Ticket) -> Record:
        """Return the record once it is on disk, or raise JournalFailed: at the latest when the deadline has passed."""
        waiting = asyncio.ensure_future(ticket.wait())
        try:
            await asyncio.wait([waiting], timeout=self._write_timeout_s)
            if not waiting.done():
                raise self._stuck(ticket)
            return waiting.result()
        finally:
            waiting.add_done_callback(look_away)
            waiting.cancel()

    def write_now(self, fact: Fact, image: Sequence[ModuleImage] = ()) -> Record:
        """As `write`, but blocks the calling thread: for start and stop, never beside serving modules."""
        return self.durable_now(self.append(fact, image))

    def durable_now(self, ticket: Ticket) -> Record:
        """As `durable`, but blocks the calling thread."""
        try:
            return ticket.wait_blocking(self._write_timeout_s)
        except TimeoutError:
            raise self._stuck(ticket) from None

    def load_images(self) -> dict[str, ModuleImage]:
        """Return the images not used yet, by module; raises JournalCorrupt if one is not as it was saved."""
        with self._lock:
            saved = dict(self._saved)
        return self._file.images(saved)

    def close(self) -> None:
        """Write what waits, then let go of the file. Safe to call twice, and after a failure."""
        with self._lock:
            self._closing = True
        self.wake()
        self._writer.join(self._write_timeout_s)
        self._fail("the journal is closed: the host is stopping. Try again once it runs.", meant=True)

    # -- for the writer, the only one that touches the file ----------------------------------------------------

    def take_batch(self) -> tuple[Sequence[Item], bool]:
        """All that waits, and whether nothing comes after it."""
        with self._lock:
            batch, self._waiting, last = self._waiting, [], self._closing
        return batch, last or self._failure is not None

    def close_file(self) -> None:
        """The writer has ended."""
        self._file.close()

    def write_batch(self, batch: Sequence[Item]) -> None:
        """Bring a batch to the file and tell who waits for it; whatever fails, nothing is taken any more."""
        lines = [item.line for item in batch if item.line is not None]
        writes = [write for item in batch for write in item.writes]
        try:
            if writes:
                self._file.write(lines, self._head, writes)
            elif lines:
                self._file.write(lines, self._head)
        except Exception as error:  # noqa: BLE001 - whatever it was, the answer is invariant 7
            text = _what_failed(self._head[0] + 1 if lines else None, str(error))
            _tell_all(batch, JournalFailed(self._fail(text)))
            return
        if lines:
            last = lines[-1].record
            self._head = (last.seq, last.digest)
            with self._lock:
                self._read = None
                still_saved(self._saved, [line.record for line in lines])
        _tell_all(batch, None)
        number = max(item.number for item in batch)
        if number:
            self._tell(number, None)

    def _stuck(self, ticket: Ticket) -> JournalFailed:
        reason = f"it did not end within {self._write_timeout_s:g} s"
        return JournalFailed(self._fail(_what_failed(ticket.record.seq, reason)))

    def _fail(self, text: str, *, meant: bool = False) -> str:
        """Take nothing more, from now on; return the reason that stands (the first one).

        It is logged here: whoever meets it may be a command or a probation, which tells nobody who reads the log.
        """
        with self._lock:
            first, self._failure = self._failure is None, self._failure or text
            text = self._failure
            dropped, self._waiting = self._waiting, []
        _tell_all(dropped, JournalFailed(text))
        if first:
            if not meant:
                logger.error("no more upgrades until the host is restarted: {}", text)
            self._tell(0, text)
        self.wake()  # so that the writer sees it and ends
        return text


def _tell_all(batch: Sequence[Item], error: JournalFailed | None) -> None:
    for item in batch:
        if item.ticket is not None:
            item.ticket._resolve(error)  # noqa: SLF001 - a ticket is half of the journal
        if item.finished is not None:
            item.finished.set()


def _what_failed(seq: int | None, reason: str) -> str:
    """`seq` None: it was what durable modules had done."""
    what = f"record {seq}" if seq is not None else "what durable modules did"
    return (
        f"the journal could not write {what}: {reason}. Whether it is on disk is known only at the "
        "next start; what serves now serves on, and nothing more is recorded or deployed. Repair the disk (room, "
        "errors, the file itself), then restart the host."
    )
