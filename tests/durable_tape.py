"""Lives over a disk in memory that keeps every queued write by itself: each of its prefixes is what some kill leaves."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from livetag import Module
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.durability import Write
from orchestrator.runtime.loader import Loaded
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.durable_rows import Stored, read_rows, write_rows
from orchestrator.upgrade.durable_store import DurableStore
from orchestrator.upgrade.incoming import Code, Incoming
from orchestrator.upgrade.journal import Item, Journal
from orchestrator.upgrade.journal_file import (
    _DURABLE,
    _SCHEMA,
    Line,
    ModuleImage,
    read_images,
    read_records,
    write_lines,
)
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Committed, Entry, Record
from orchestrator.upgrade.recovery import Recovered, bring_back, close_the_past
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Limits, ModuleManifest, TrialSection
from tests.durable_kit import Life, until

NOWHERE = Path("memory")
Classes = dict[str, tuple[type[Module[Any]], bool, Limits]]  # by tree: the class, is it durable, its limits


class Tape:
    """The disk: the items that the queue held, in order, one by one; and the same as a database."""

    def __init__(self, copied_from: sqlite3.Connection | None = None) -> None:
        self.connection = _connect()
        if copied_from is not None:
            copied_from.backup(self.connection)
        else:
            self.connection.executescript(_SCHEMA + _DURABLE)
        self.items: list[tuple[Sequence[Line], tuple[int, bytes], Sequence[Write]]] = []

    def records(self) -> list[Record]:
        return read_records(self.connection, NOWHERE)

    def write(self, lines: Sequence[Line], head: tuple[int, bytes], writes: Sequence[Write] = ()) -> None:
        self.items.append((lines, head, writes))
        write_lines(self.connection, lines, head, writes)

    def images(self, saved: dict[str, int]) -> dict[str, ModuleImage]:
        return read_images(self.connection, NOWHERE, saved)

    def stored(self) -> Stored:
        return read_rows(self.connection)

    def close(self) -> None:
        self.connection.close()


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


class OneByOne:
    """A writer without a thread, that writes each item alone, so many turns of the loop after it was queued."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._backlog: list[Item] = []
        self._due = False
        self._closed = False
        self.lag = 0  # turns of the loop; 0: at once

    def wake(self) -> None:
        batch, _ = self._journal.take_batch()
        self._backlog += batch
        if not self.lag:
            self._write(len(self._backlog))
        elif not self._due and self._backlog:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn, self.lag)

    def _turn(self, left: int) -> None:
        if left > 1:
            asyncio.get_running_loop().call_soon(self._turn, left - 1)
            return
        self._due = False
        self._write(1)
        if self._backlog:
            self.wake()

    def _write(self, count: int) -> None:
        batch, self._backlog = self._backlog[:count], self._backlog[count:]
        for item in batch:
            self._journal.write_batch([item])

    def join(self, timeout_s: float) -> None:
        del timeout_s
        self.lag = 0
        if not self._closed:
            self.wake()
            self._closed = True
            self._journal.close_file()


class ClassSource:
    """A version that is a class of the test."""

    def __init__(self, cls: type[Module[Any]]) -> None:
        self._cls = cls

    async def try_out(self, *_: object) -> TrialReport:
        return TrialReport(b"", {})

    async def load(self) -> Code:
        # A load of no module: whose steps they are must be known, so that records find them.
        return Code(Blueprint(self._cls), Loaded(NOWHERE, (), "class"), self._cls.__name__)


class Staged:
    """A repository whose releases are classes."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes

    async def staged(self, entry: Entry) -> tuple[Path, ModuleManifest]:
        _, durable, limits = self.classes[entry.tree_id]
        return NOWHERE, ModuleManifest(durable=durable, limits=limits)

    def bring(self, _folder: Path, entry: Entry, manifest: ModuleManifest, _trial: TrialSection) -> Incoming:
        source = ClassSource(self.classes[entry.tree_id][0])
        return Incoming(source, manifest.limits, entry.config, manifest.durable)


class TapeLife(Life):
    """One run of the host over a tape."""

    def __init__(self, tape: Tape, classes: Classes) -> None:
        self.tape = tape
        self.classes = classes
        self.staged = Staged(classes)
        self.writer: OneByOne
        self.journal = Journal(tape, time.time, 10.0, self._writer)
        self.book = Book(self.journal)
        self.recovered = Recovered()
        self._versions = itertools.count(len(classes) + 1)

    def _writer(self, journal: Journal) -> OneByOne:
        self.writer = OneByOne(journal)
        return self.writer

    async def begin(self) -> None:
        close_the_past(self.book, "0")
        stored = self.journal.load_stored()
        self.app = Application(first_message_id=stored.newest_id + 1, ahead=DurableStore(self.journal))
        self.recovered = await bring_back(
            self.app,
            self.book,
            self.staged,  # type: ignore[arg-type]  # all of it that a start asks for
            self.journal.load_images(),
            TrialSection(),
            bring=self.staged.bring,
            stored=stored,
        )

    async def put(
        self,
        modules: Mapping[str, type[Module[Any]]],
        durable: Collection[str] = (),
        *,
        mailbox: int = 1000,
        names: Mapping[str, str] | None = None,
        failed_since: float | None = None,
    ) -> Any:
        """Put classes into service, in one transaction; `mailbox`: the limit of each.

        `failed_since`: they are the way back of what serves since then, and handle again what that failed on.
        """
        participants = []
        for name, cls in modules.items():
            tree, limits = f"{name}-{next(self._versions)}", Limits(pause_ms=5000.0, mailbox_messages=mailbox)
            self.classes[tree] = (cls, name in durable, limits)
            bound = tuple(n for n, module in (names or {}).items() if module == name)
            after = Entry(
                name, name, "1.0.0", f"{name}/{tree}", tree, tree, "",
                state_version=cls.state_version, also=bound,
            )  # fmt: skip
            participants.append(self._participant(Change(name, self.book.ledger.table.get(name), after)))
            if failed_since is not None:
                participants[-1].give_again("1.0.0", failed_since)
        outcome = await self._transact(participants)
        assert outcome.result == "committed", outcome.reason
        return outcome

    def _participant(self, change: Change) -> Participant:
        if change.after is None:
            return Participant(self.app, change, None)
        _, durable, limits = self.classes[change.after.tree_id]
        manifest = ModuleManifest(durable=durable, limits=limits)
        incoming = self.staged.bring(NOWHERE, change.after, manifest, TrialSection())
        return Participant(self.app, change, incoming, self.recovered.kept.get(change.name))

    async def settled(self) -> None:
        """As of any life; of what is disabled or stopped the mailbox waits."""

        def idle() -> bool:
            for proxy in self.app.modules.values():
                waits = len(proxy.mailbox) if proxy.held is None else 0
                if proxy.unit is not None or waits or not proxy.outbox.empty:
                    return False
            return self.app.durability.on_disk == self.app.durability.number

        await until(idle)

    def offer(self, name: str, type_: str, **body: Any) -> None:
        """Send from outside without waiting for the disk."""
        self.app.modules[name].accept(self.app.message(type_, body, ""))

    @property
    def position(self) -> int:
        """How many items are on disk."""
        return len(self.tape.items)

    async def close(self) -> None:
        self.writer.lag = 0
        self.writer.wake()
        for proxy in self.app.modules.values():
            await proxy.close("the test is over")
            if proxy.implementation is not None:
                await proxy.implementation.stop()
        self.journal.close()


@asynccontextmanager
async def living(tape: Tape, classes: Classes) -> AsyncIterator[TapeLife]:
    it = TapeLife(tape, classes)
    await it.begin()
    try:
        yield it
    finally:
        await it.close()


def prefixes(tape: Tape, first: int) -> Iterator[tuple[int, Tape]]:
    """Each prefix of the tape from `first` items on, as the disk that a kill leaves; all in one batch is the same."""
    so_far = Tape()
    for count in range(len(tape.items) + 1):
        if count >= first:
            yield count, Tape(so_far.connection)
        if count < len(tape.items):
            so_far.write(*tape.items[count])
    so_far.close()


def same_in_one_batch(tape: Tape, start: int, count: int) -> None:
    """A batch leaves on disk what its items one by one do."""
    one, many = Tape(), Tape()
    for each in tape.items[: start + count]:
        one.write(*each)
    for each in tape.items[:start]:
        many.write(*each)
    write_rows(many.connection, [w for item in tape.items[start : start + count] for w in item[2]])
    for table in ("durable_state", "durable_record", "durable_inbox", "durable_letter"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2, 3"  # noqa: S608  # names of ours
        assert one.connection.execute(query).fetchall() == many.connection.execute(query).fetchall(), table
    one.close()
    many.close()


Story = Callable[[TapeLife], Awaitable[None]]
Check = Callable[[TapeLife, int], Awaitable[None]]


@contextmanager
def at_prefix(count: int, tape: Tape) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        last = [
            [f"{type(w).__name__} {astuple(w)[:3]}" for w in writes]
            or [str(line.record.fact)[:100] for line in lines]
            for lines, _, writes in tape.items[max(0, count - 3) : count + 2]
        ]
        raise AssertionError(
            f"after a kill with {count} items on disk: {error!r}\naround it: {last}"
        ) from error


async def kill_at_each(story: Story, check: Check, *, lag: int) -> None:
    """Live the story once; then, for each prefix of what it queued, live on from there, come to rest, and check."""
    classes: Classes = {}
    tape = Tape()
    first = 0
    async with living(tape, classes) as it:
        it.writer.lag = lag
        await story(it)
        await it.settled()
        await check(it, len(tape.items))
        first = (
            next(
                n
                for n, item in enumerate(tape.items)
                if any(isinstance(line.record.fact, Committed) for line in item[0])
            )
            + 1
        )
    whole = len(tape.items)
    for start in range(first, whole, 10):
        same_in_one_batch(tape, start, min(12, whole - start))
    for count, after in prefixes(tape, first):
        with at_prefix(count, tape):
            async with living(after, classes) as again:
                await again.settled()
                await check(again, count)
    tape.close()
