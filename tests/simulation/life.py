"""One run of a host in a world, from its start to its stop or its death; all of it the product's own code."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.control.config import Deployment
from orchestrator.control.host import _Host
from orchestrator.control.operations import Operations
from orchestrator.control.server import Operation
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.durability import Write
from orchestrator.runtime.errors import ModuleError
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.checks import Environment
from orchestrator.upgrade.durable_store import DurableStore
from orchestrator.upgrade.image import newest_id
from orchestrator.upgrade.incoming import Incoming
from orchestrator.upgrade.journal import Journal, ModuleImage, Ticket
from orchestrator.upgrade.needed import needed_commits, needed_trees
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.planner import Planner
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Entry,
    Fact,
    Planned,
    Prepared,
    Record,
    RolledBack,
)
from orchestrator.upgrade.recovery import Recovered, bring_back, close_the_past
from orchestrator.upgrade.source import terms_of
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.manifest import HostConfig, HostSection, ModuleManifest, TrialSection
from tests.simulation.disk import Disk, VirtualFile, VirtualWriter
from tests.simulation.durable import Numbered, Unit, numbered
from tests.simulation.loop import VirtualClock, VirtualLoop
from tests.simulation.modules import Counter
from tests.simulation.refs import VirtualRepository
from tests.simulation.source import VirtualSource
from tests.simulation.watch import Watch, Watcher
from tests.simulation.witness import Witness

if TYPE_CHECKING:
    from tests.simulation.world import World

TURNS_MAX = 60_000
UNSEEN = 0.3  # of the deaths: nothing is left that tells whose code ran
CONFIG = HostConfig(host=HostSection(drain_s=3.0, settle_s=5.0))


class VirtualJournal(Journal):
    """Tells the watch of what is appended, too."""

    def __init__(self, life: Life, file: VirtualFile) -> None:
        self._life = life
        super().__init__(file, life.clock.wall, 30.0, life.make_writer)

    def append(self, fact: Fact, image: Sequence[ModuleImage] = (), writes: Sequence[Write] = ()) -> Ticket:
        ticket = super().append(fact, image, writes)
        self._life.note_append(fact)
        return ticket

    def put(self, writes: Sequence[Write], number: int) -> None:
        super().put(writes, number)
        self._life.writer.overtake()
        self._life.note_put()


class VirtualUpgrader(Upgrader):
    """The real one; what it tells the other modules has to be on disk (DESIGN P6)."""

    watch: Watch

    def announce(self, group: Group) -> None:
        for change in group.changes:
            if self.watch.model.table.get(change.name) != change.after:
                self.watch.fail(f"{change.name} is told to have changed, and the disk does not have it")
        super().announce(group)


class NoProof:
    """Nothing is proven gone: that walks the heap, and is the business of other tests."""

    def begin(self, _left: object) -> None:
        """It is taken to be gone."""

    async def stop(self) -> None:
        """There is nothing under way."""


class Life:
    """What one run of the host holds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng: random.Random = world.rng
        self.watch: Watch = world.watch
        self.loop = VirtualLoop(world.rng, world.now, TURNS_MAX)
        self.clock = VirtualClock(self.loop)
        self.disk = Disk(world.rng, self.loop, self._crashes)
        self.dies_in = world.drawing.aim()  # writes of durable modules; 0: not so
        self.appended: dict[int, str] = {}
        self.planned: dict[int, tuple[Change, ...]] = {}
        self.becoming: dict[int, set[Numbered]] = {}
        self.starting = self.stopping = self.serving = False
        self.clean = False
        self.over = self.finished = False
        self.busy: set[asyncio.Task[None]] = set()
        self.producers: set[asyncio.Task[None]] = set()
        self.death = ""
        self._host = _Host(Deployment(Path("/nowhere")), CONFIG)
        self.box = self._host._box = Witness(world.page, self.loop)

    # -- for the watchers -------------------------------------------------------------------------------------

    async def clock_sleep(self, seconds: float) -> None:
        """About so long, as drawn."""
        await sleep_until(self.clock, self.loop.time() + seconds * self.rng.random() * 2)

    def poisonous(self, src: int, n: int) -> bool:
        return self.world.poison > 0 and (src + n) % self.world.poison == 0

    async def ask_another(self, module: Counter, name: str) -> None:
        """A unit waits for another module."""
        others = [other for other in self.world.modules if other != name]
        with suppress(ModuleError):
            other = self.rng.choice(others)
            kept = self.app.keeps(other)
            count: int = await module.ask(other, "total", {}, timeout_s=1.0, returns=int)
            if kept and self.app.keeps(other) and not self.loop.dead:
                self.watch.put_back.discard(other)
                self.watch.units.answered(other, count)

    def forward(self, module: Counter, name: str, src: int, n: int, unit: Unit) -> None:
        """Some messages make more of them, one hop far."""
        names = self.world.modules
        if src < 100 or n % 3:
            return
        target = names[(names.index(self.world.root(name)) + 1) % len(names)]
        mine = self.world.source_of(name)
        number = self.watch.next_number(mine, target)
        with suppress(ModuleError):
            module.send(target, "tell", {"epoch": self.watch.epoch, "src": mine, "n": number})
            self.watch.accepted(mine, target)
            if self.app.keeps(name) and self.app.keeps(target):
                unit.sent.append(((self.watch.epoch, mine, target), number))

    # -- death ------------------------------------------------------------------------------------------------

    def die(self, how: str) -> None:
        """SIGKILL, now: nothing after this reaches the disk or is seen."""
        if self.loop.dead or self.world.over:
            return
        in_flight = self.writer.in_flight() if self.serving or self.starting else ()
        if in_flight and self.rng.random() < 0.5:
            lines = [item.line for item in in_flight if item.line is not None]
            self.world.platter.take(lines, [write for item in in_flight for write in item.writes])
        self.death = how
        model = self.watch.model
        phase = model.phase.get(model.unfinished, "") if model.unfinished is not None else ""
        place = "starting" if self.starting else "stopping" if self.stopping else phase or "between"
        if not phase and any(p == "committed" for p in model.phase.values()) and place == "between":
            place = "committed"
        self.world.coverage[f"crash {place}"] += 1
        self.watch.note(f"DIES {how} ({place})")
        self.loop.dead = True
        if self.world.witness.random() < UNSEEN:
            self.box.tells_nothing()

    def _crashes(self, side: str, record: Record) -> bool:
        if self.loop.dead or not self.world.crash_due(side, record):
            return False
        self.writer.forget()
        self.die(f"{side} {type(record.fact).__name__} is on disk")
        return side == "before"

    def note_append(self, fact: Fact) -> None:
        if isinstance(fact, Planned):
            self.planned[fact.txn] = fact.changes
        if isinstance(fact, (Planned, Prepared, Committed, RolledBack)):
            self.appended[fact.txn] = type(fact).__name__
        if isinstance(fact, Prepared) and self.serving and self.world.era >= 2:
            for name in self._becoming_durable(fact.txn):  # else next to nothing waits in the switch
                self.world.bursts += 1
                self.produce(100 + self.world.bursts, name, 20, 0.0002)
        if isinstance(fact, Committed) and self.serving:
            for name in self._becoming_durable(fact.txn):
                self._note_waiting(fact.txn, name)

    def _becoming_durable(self, txn: int) -> list[str]:
        trees = self.world.origin.trees
        return [
            change.name
            for change in self.planned[txn]
            if change.before is not None and change.after is not None and change.name in self.app.modules
            if trees[change.after.tree_id].durable and not trees[change.before.tree_id].durable
        ]

    def _note_waiting(self, txn: int, name: str) -> None:
        """What waits for a module that becomes durable is on disk with the decision, or the next death would lose it."""
        waits = numbered(name, (message.body for message in self.app.modules[name].mailbox.queue))
        self.becoming.setdefault(txn, set()).update(waits)
        self.world.coverage["becomes durable"] += 1
        if waits and not self.world.over:
            self.world.coverage["waited for it"] += 1
            self.dies_in = self.world.drawing.aim_at_switch() or self.dies_in

    def note_put(self) -> None:
        """The writer is a thread, and a kill comes at any moment: so also with just this on disk, and nothing after it."""
        if not self.dies_in or not self.serving or self.loop.dead or self.world.over:
            return
        self.dies_in -= 1
        if not self.dies_in:
            self.writer.hurry()
            self.die("right after a write of a durable module")

    def make_writer(self, journal: Journal) -> VirtualWriter:
        self.writer = VirtualWriter(journal, self.disk, self.loop)
        return self.writer

    # -- the run ----------------------------------------------------------------------------------------------

    async def main(self, script: Callable[[Life], Awaitable[None]]) -> None:
        """Start, do what the script says, stop."""
        await self._start()
        try:
            await script(self)
        finally:
            if not self.loop.dead:
                await self._stop()

    def bring(self, folder: Path, entry: Entry, manifest: ModuleManifest, _limits: TrialSection) -> Incoming:
        spec = self.world.origin.trees[folder.name]
        txn = 0 if self.starting else self.book.ledger.next_txn
        eye = Watcher(self, entry.name, folder.name, spec, txn)
        config = {**entry.config, "eye": eye}
        source = VirtualSource(self, spec)
        return Incoming(source, manifest.limits, config, manifest.durable, terms=terms_of(manifest))

    async def _start(self) -> None:
        """As `_Host._serve` does, without sockets, signals and threads."""
        world, self.starting, self.disk.at_once = self.world, True, True
        self.journal = VirtualJournal(self, VirtualFile(world.platter, self.disk))
        self.book = Book(self.journal, self.box)
        last = self.box.last()
        assert last is None or last.recorded <= self.book.ledger.seq, "noted as on disk, and is not"
        close_the_past(self.book, "0", last, self.box.run)
        self.disk.at_once = False
        self.box.begin()
        images, stored = self.journal.load_images(), self.journal.load_stored()
        self.repository = VirtualRepository(world.origin, self.rng)
        self.repository.on_history = self.watch.history
        await self.repository.sweep(needed_trees(self.book.ledger))
        await self.repository.let_go(needed_commits(self.book.ledger))
        first = max(newest_id(images) + 1, stored.newest_id + 1, int(self.clock.wall() * 1e6))
        self.app = Application(self.clock, first_message_id=first, ahead=DurableStore(self.journal))
        self.app.ownership.begin()
        self.recovered: Recovered = await bring_back(
            self.app, self.book, self.repository, images, CONFIG.trial, self.box, self.bring, stored
        )
        self._settling = asyncio.ensure_future(self._host._settle(self.app, self.book))
        planner = Planner(self.app, self.repository, Environment("3.11.0", {}), prereleases=False)
        self.upgrader = VirtualUpgrader(
            self.app,
            self.repository,
            planner,
            self.book,
            CONFIG.trial,
            kept=self.recovered.kept,
            bring=self.bring,
        )
        self.upgrader.watch = self.watch
        self.upgrader.retirements = NoProof()  # type: ignore[assignment]
        failed = self.recovered.failed
        self.operations: Mapping[str, Operation] = Operations(
            self.app, self.upgrader, CONFIG, failed, self._told_to_stop
        ).table()
        self.upgrader.probations.resume()
        self._running = asyncio.ensure_future(self.upgrader.run())
        self._watching = asyncio.ensure_future(self._watch_probations())
        self.starting, self.serving = False, True
        self.upgrader.look()

    async def _watch_probations(self) -> None:
        if self.world.era >= 3:  # worlds without are as they were
            await self.upgrader.probations.run()

    def _told_to_stop(self, *, restart: bool) -> None:
        """Nobody does in a world."""

    async def _stop(self) -> None:
        """As `_Host._serve` does at its end."""
        self.stopping, self.serving = True, False
        for task in self.busy - self.producers:
            task.cancel()
        if self.producers:  # what they send is accepted, or it is not: they must know
            await asyncio.wait(self.producers)
        await self.upgrader.leave(self._running)
        self._settling.cancel()
        self._watching.cancel()
        self.disk.at_once = True
        await self._host._save(self.app, self.book)
        await self.upgrader.stop()
        self.clean = self._host._exit_code == 0
        self.box.close()
        self.journal.close()

    # -- what the script does ---------------------------------------------------------------------------------

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Beside the script."""

        async def run() -> None:
            await work

        task = asyncio.ensure_future(run())
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)
        return task

    def tags_moved(self, *, whole: bool) -> None:
        """The monitor sees it after a while; a push that is over says so."""
        self.loop.call_later(self.rng.random() * 0.3, lambda: self.upgrader.look(push_over=whole))

    def command(self, op: str, **arguments: object) -> None:
        """A person types a command; nobody waits for the answer."""

        async def ask() -> None:
            try:
                answer = await self.operations[op](arguments, lambda _event: None)
            except Refused as error:
                answer = f"refused: {error}"
            self.watch.note(f"{op} {arguments} → {str(answer)[:200]}")
            self._check_told(answer)

        self.spawn(ask())

    def _check_told(self, answer: object) -> None:
        """What is reported as done is on disk (DESIGN P6)."""
        txn = answer.get("transaction") if isinstance(answer, dict) else None
        if isinstance(txn, int) and self.watch.model.phase.get(txn) not in {"committed", "confirmed"}:
            self.watch.fail(f"transaction {txn} is reported as done, and is not on disk")

    def produce(self, src: int, target: str, count: int, every_s: float) -> None:
        """Somebody outside sends numbered messages, each once the one before was accepted."""

        async def send() -> None:
            epoch = self.watch.epoch
            for _ in itertools.repeat(None, count):
                n = self.watch.next_number(src, target)
                with suppress(ModuleError):
                    kept = self.app.keeps(target)
                    await self.app.send(target, "tell", {"epoch": epoch, "src": src, "n": n}, timeout_s=1.0)
                    if not self.loop.dead:
                        self.watch.accepted(src, target, epoch)
                        if kept and self.app.keeps(target):
                            self.watch.put_back.discard(target)
                            self.watch.units.owed.add(((epoch, src, target), n))
                await self.clock_sleep(every_s)
                if self.stopping:
                    return

        task = self.spawn(send())
        self.producers.add(task)
        task.add_done_callback(self.producers.discard)

    def _out_of_service(self, names: Sequence[str]) -> bool:
        """Nothing can be said of what is not loaded."""
        return any(n in self.book.ledger.table and n not in self.app.modules for n in names)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way, and nothing due."""
        if not self.serving or self.busy or self.upgrader.will_look_again:
            return False
        if any(
            view.inconclusive is None and view.degraded is None and not self._out_of_service(view.probation)
            for view in self.book.ledger.in_probation
        ):
            return False
        return all(
            p.unit is None and p.outbox.empty and (not p.mailbox.queue or p.resting is not None)
            for p in self.app.modules.values()
        )
