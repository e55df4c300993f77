"""Lives of a host's runtime over one real journal: durable modules, a disk that can be stopped, and kills."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.application import Application
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.retirement import Remains
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.durable_rows import Stored
from orchestrator.upgrade.durable_store import DurableStore
from orchestrator.upgrade.image import left_image, take_image
from orchestrator.upgrade.incoming import Incoming, KeptState
from orchestrator.upgrade.journal import Item, Journal
from orchestrator.upgrade.journal_file import write_lines
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Entry, HostStopped, ImageSaved, Planned
from orchestrator.upgrade.recovery import Recovered, bring_back, close_the_past
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.rewired import Rewired
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import Limits, ModuleManifest, TrialSection
from tests.swapping import FolderSource

LIMITS = Limits(pause_ms=5000.0, mailbox_messages=20_000)

COUNTER = """
    from typing import Any
    from livetag import Module, Table, handles

    class Counter(Module[dict[str, Any]]):
        seen: Table[int, int] = Table(version=1)

        def initial_state(self):
            return {"total": 0, "got": []}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            self.state["got"].append(n)
            self.seen[n] = self.state["total"]
            if n < 0:
                raise ValueError("below zero")
            if target := self.config.get("to"):
                self.send(target, "add", {"n": n})
            return self.state["total"]

        @handles
        def total(self) -> int:
            return self.state["total"]

        @handles
        def got(self) -> list[int]:
            return self.state["got"]
"""


class Disk:
    """The journal's writer in the test's hand: it can be held before its next batch, and it counts them."""

    def __init__(self, *, one_by_one: bool = False) -> None:
        self.one_by_one = one_by_one
        self._free = threading.Event()
        self._free.set()
        self.lock = threading.Lock()
        self.batches = 0
        self.fails: Exception | None = None
        self.watch: Callable[[Sequence[Any], Sequence[Any]], None] | None = None  # sees each batch before it
        self.seen: Exception | None = None

    def write(self, connection: Any, lines: Any, head: Any, writes: Sequence[Any] = ()) -> None:
        self._free.wait(20)
        with self.lock:
            if self.fails is not None:
                raise self.fails
            self.batches += 1
            if self.watch is not None:
                self._look(lines, writes)
            write_lines(connection, lines, head, writes)

    def _look(self, lines: Sequence[Any], writes: Sequence[Any]) -> None:
        try:
            if self.watch is not None:
                self.watch(lines, writes)
        except Exception as error:  # noqa: BLE001  # told to the test, not to the writer
            self.seen = self.seen or error

    def hold(self) -> None:
        """Nothing reaches the disk from now on."""
        self._free.clear()

    def go_on(self) -> None:
        self._free.set()


class OneByOne(Journal):
    """A journal whose writer takes each write as it comes: what is two writes is two batches, with a moment between."""

    def take_batch(self) -> tuple[Sequence[Item], bool]:
        with self._lock:
            batch, self._waiting = self._waiting[:1], self._waiting[1:]
            last = not self._waiting and (self._closing or self._failure is not None)
        if batch:
            self.wake()
        return batch, last


class Releases(Repository):
    """A repository whose releases are staged already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder, lambda *_: b"")
        self.folder = folder

    async def staged(self, entry: Entry) -> tuple[Path, ModuleManifest]:
        return self.folder / entry.tree_id, self.manifest(entry)

    def manifest(self, entry: Entry) -> ModuleManifest:
        return ModuleManifest(durable=entry.tree_id.endswith("durable"), limits=LIMITS)


class Life:
    """One run of the host."""

    has_probations = False  # if so, nobody watches them; a death in one counts

    def __init__(self, folder: Path, path: Path, disk: Disk) -> None:
        self.path = path
        self.disk = disk
        self.releases = Releases(folder / "stage")
        self.journal = (OneByOne if disk.one_by_one else Journal).open(path, time.time, 10.0)
        self.book = Book(self.journal)
        self.recovered = Recovered()
        self._txns = itertools.count(1)
        self.left: list[Remains] = []  # by the last transaction, unloaded and not proven gone

    async def begin(self) -> None:
        close_the_past(self.book, "0")
        stored = self.journal.load_stored()
        self.app = Application(first_message_id=stored.newest_id + 1, ahead=DurableStore(self.journal))
        images = self.journal.load_images()
        self.recovered = await bring_back(
            self.app, self.book, self.releases, images, TrialSection(), stored=stored
        )

    # -- upgrades ------------------------------------------------------------------------------------------------

    async def deploy(
        self,
        version: str,
        modules: Mapping[str, str],
        *,
        durable: Collection[str] = (),
        configs: Mapping[str, dict[str, object]] | None = None,
        state_version: int = 1,
        enabled: bool = True,
        back_from: tuple[str, float] | None = None,
    ) -> Outcome:
        """Put these versions into service, in one transaction; module → code.

        `back_from`: they are the way back of this version, in service since this time.
        """
        participants = []
        for name, code in modules.items():
            tree = f"{name}{version.replace('.', '_')}{'durable' if name in durable else 'memory'}"
            package = self.releases.folder / tree / name
            package.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").write_text(textwrap.dedent(code))
            after = Entry(
                name, name, version, f"{name}/v{version}", version, tree, "",
                config=(configs or {}).get(name, {}), state_version=state_version, enabled=enabled,
            )  # fmt: skip
            participants.append(self._participant(Change(name, self.book.ledger.table.get(name), after)))
            if back_from is not None:
                participants[-1].give_again(*back_from)
        return await self._transact(participants)

    def _participant(self, change: Change) -> Participant:
        kept = self.recovered.kept.get(change.name)
        if change.after is None:
            return Participant(self.app, change, None)
        manifest = self.releases.manifest(change.after)
        folder = self.releases.folder / change.after.tree_id
        source = FolderSource(folder, change.after, manifest, change.after.config, TrialSection())
        return Participant(
            self.app, change, Incoming(source, LIMITS, change.after.config, manifest.durable), kept
        )

    async def remove(self, name: str, back_from: tuple[str, float] | None = None) -> Outcome:
        participant = self._participant(Change(name, self.book.ledger.table[name], None))
        if back_from is not None:
            participant.give_again(*back_from)
        return await self._transact([participant])

    async def back_to(self, name: str, before: Entry) -> Outcome:
        """Return to a release that served before."""
        return await self._transact([self._participant(Change(name, self.book.ledger.table[name], before))])

    async def enable(self, name: str, *, enabled: bool) -> Outcome:
        before = self.book.ledger.table[name]
        after = Entry(**{**{f: getattr(before, f) for f in before.__struct_fields__}, "enabled": enabled})
        return await self._transact([Rewired(self.app, Change(name, before, after))])

    async def _transact(self, participants: list[Participant]) -> Outcome:
        planned = Planned(self.book.ledger.next_txn, tuple(p.change for p in participants), "test", "test")
        transaction = UpgradeTransaction(
            self.app,
            planned,
            participants,
            self.book,
            patience_s=0.0,
            on_probation=lambda: self.has_probations,
        )
        outcome = await transaction.run()
        for p in participants:
            if outcome.result == "committed" and (image := await left_image(p)) is not None:
                self.recovered.kept[p.name] = KeptState(
                    image.state_version, image.state, (), image.tables, stored=p.was_durable
                )
        self.left = await transaction.retire(outcome)
        return outcome

    # -- what there is -------------------------------------------------------------------------------------------

    def stored(self) -> Stored:
        """What a kill now would leave on disk."""
        return self.journal.load_stored()

    async def settled(self) -> None:
        """Return when all modules are idle and all is on disk."""

        def idle() -> bool:
            busy = any(
                p.unit is not None or len(p.mailbox) or not p.outbox.empty for p in self.app.modules.values()
            )
            durability = self.app.durability
            return not busy and durability.on_disk == durability.number

        def left() -> str:
            held = {
                name: f"a unit {p.unit is not None}, {len(p.mailbox)} wait, outbox empty {p.outbox.empty}"
                for name, p in self.app.modules.items()
            }
            return f"{held}; on disk {self.app.durability.on_disk} of {self.app.durability.number}"

        await until(idle, what=left)

    @property
    def letters(self) -> list[DeadLetter]:
        return list(self.app.letters)

    # -- the end -------------------------------------------------------------------------------------------------

    def killed(self, folder: Path) -> Path:
        """What the disk holds now, as a kill would leave it: the journal of the next life."""
        after = folder / f"killed-{time.monotonic_ns()}.db"
        if self.journal.failed is not None:  # its writer ends, and to close the file moves the -wal into it
            self.journal.close()
        with self.disk.lock:
            for suffix in ("", "-wal"):
                source = Path(f"{self.path}{suffix}")
                if source.exists():
                    shutil.copy(source, f"{after}{suffix}")
        return after

    async def stopped(self) -> None:
        """A clean stop, as the host does it."""
        images = take_image(self.app, self.book.ledger.table)
        self.book.write_now(ImageSaved(tuple(sorted(i.name for i in images))), images)
        self.book.write_now(HostStopped(clean=True))

    async def close(self) -> None:
        self.disk.go_on()
        for proxy in self.app.modules.values():
            await proxy.close("the test is over")
            if proxy.implementation is not None:
                await proxy.implementation.stop()
                if proxy.implementation.loaded is not None:
                    proxy.implementation.loaded.unload()
        await asyncio.to_thread(self.journal.close)


@asynccontextmanager
async def life(
    folder: Path, path: Path | None = None, disk: Disk | None = None, *, sweeps: bool = True
) -> AsyncIterator[Life]:
    """A host's life over the journal at `path`; nothing is stopped cleanly unless the test does it."""
    patch = pytest.MonkeyPatch()
    if not sweeps:
        patch.setattr("orchestrator.runtime.table_sweep.Sweep.start", lambda _sweep: None)
    held = disk or Disk()
    patch.setattr("orchestrator.upgrade.journal.write_lines", held.write)
    it = Life(folder, path or folder / "journal.db", held)
    try:
        await it.begin()
        try:
            yield it
        finally:
            await it.close()
    finally:
        await asyncio.to_thread(it.journal.close)
        patch.undo()


async def until(
    condition: Callable[[], object], within_s: float = 10.0, what: Callable[[], str] = lambda: ""
) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what()}"
        await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let the loop turn: whatever could happen without the disk has happened."""
    for _ in range(count):
        await asyncio.sleep(0)
