"""Who sees everything in a world: each message, each switch, each record; and says at once what must not be."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.upgrade.records import (
    Committed,
    Fact,
    HostStarted,
    ImageSaved,
    Planned,
    Record,
    RolledBack,
    images_used,
)
from repo_store.history import DeploymentEntry
from tests.simulation.durable import Unit, Units
from tests.simulation.model import DiskModel
from tests.simulation.modules import Counter, Poison, Spec

if TYPE_CHECKING:
    from tests.simulation.life import Life

TRACE_KEPT = 60


@dataclass
class Mirror:
    """What a module must have counted: all its messages, and those of each sender while it had a Table."""

    total: int = 0
    rows: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Mirror:
        return Mirror(self.total, dict(self.rows))


Line = tuple[int, int, str]
"""Messages of one run's one sender to one target: epoch, sender, target."""


class Watch:
    """One per world: it outlives the crashes."""

    def __init__(self, *, keep_all: bool = False) -> None:
        self.problems: list[str] = []
        self.trace: deque[str] = deque(maxlen=None if keep_all else TRACE_KEPT)
        self._digest = hashlib.blake2b(digest_size=12)
        self.model = DiskModel(self.fail)
        self.epoch = 1
        self.sent: dict[Line, int] = {}
        self.last: dict[Line, int] = {}
        self.skipped: set[tuple[Line, int]] = set()
        self.handled = 0
        self.mirrors: dict[str, Mirror] = {}
        self.saved: dict[str, Mirror] = {}
        self.units = Units(self)
        self.put_back: set[str] = set()  # by a start, and nothing that came after it is on disk yet
        self.floor: dict[str, int] = {}  # module → the transaction whose version must handle, or a later one
        self.life: Life | None = None
        self.muted = False  # what a killed process would still do while it is taken apart is nothing

    # -- telling ----------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.muted:
            return
        at = f"{self.life.loop.time():.6f} " if self.life is not None else ""
        self._digest.update((at + text).encode())
        self.trace.append(at + text)

    def fail(self, text: str) -> None:
        if self.muted:
            return
        self.note(f"WRONG: {text}")
        self.problems.append(text)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    # -- the disk ---------------------------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """A record has reached the disk."""
        fact = record.fact
        shown = "HostStarted" if isinstance(fact, HostStarted) else repr(fact)
        self.note(f"disk {record.seq} {shown}")
        self.model.take(record)
        self._check_decision(fact)
        if isinstance(fact, ImageSaved):
            for name in fact.modules:
                self.saved[name] = self.mirror(name).copy()
        for name in images_used(fact):
            self.saved.pop(name, None)

    def _check_decision(self, fact: Fact) -> None:
        """A start decides nothing that was not decided; and nobody is at fault who is not."""
        life = self.life
        if life is None:
            return
        if life.serving:  # what the start has queued for those that came back is before it
            self.put_back -= life.app.modules.keys()
        if isinstance(fact, Planned) and not fact.overrides and not life.world.composed:
            gone = [change.name for change in fact.changes if change.after is None]
            if gone and not fact.who.startswith("livetag, "):  # what was added in a probation leaves with it
                self.fail(f"{gone} leave, and nobody has asked for it: a missing tag never unloads")
        if isinstance(fact, Committed) and life.starting and fact.txn not in life.planned:
            self.fail(f"a start commits transaction {fact.txn}, which was not committed when the host died")
        if isinstance(fact, Committed):
            if life.starting:
                self.put_back |= {change.name for change in self.model.changes[fact.txn]}
            self.units.owed |= life.becoming.pop(fact.txn, set())
        if isinstance(fact, RolledBack) and fact.fault == "release" and fact.txn not in self.model.ways_back:
            changes = self.model.changes[fact.txn]
            trees = [c.after.tree_id for c in changes if c.after is not None]
            # What comes back to a state that is newer than it has nobody who knows the way down.
            away = any(c.before is None or c.name in life.recovered.failed for c in changes)
            returns = away and "No migration leads" in fact.reason
            returns = returns or "step leads from version" in fact.reason  # of a Table kept aside
            if not returns and not any(life.world.origin.trees[tree].bad for tree in trees if tree):
                self.fail(f"transaction {fact.txn} blames good releases: {fact.reason}")

    def killed(self, kept: Mapping[str, Mirror]) -> None:
        """What was in memory is gone; each begins with what it has on disk (`kept`), with what a clean stop left, or anew."""
        self.epoch += 1
        self.mirrors = {**{name: mirror.copy() for name, mirror in self.saved.items()}, **kept}

    def new_mirror(self) -> Mirror:
        return Mirror()

    def mirror(self, name: str) -> Mirror:
        return self.mirrors.setdefault(name, Mirror())

    # -- messages ---------------------------------------------------------------------------------------------

    def accepted(self, src: int, target: str, epoch: int | None = None) -> None:
        line = (epoch or self.epoch, src, target)
        self.sent[line] = self.sent.get(line, 0) + 1

    def next_number(self, src: int, target: str) -> int:
        return self.sent.get((self.epoch, src, target), 0) + 1

    def came(self, line: Line, n: int) -> None:
        """A message is handled: the next of its line, or what was skipped is a dead letter."""
        last = self.last.get(line, 0)
        if n <= last:
            self.fail(f"message {n} of {line} is handled twice, or late: {last} was before")
        self.skipped.update((line, missed) for missed in range(last + 1, n))
        self.last[line] = n
        self.handled += 1

    # -- history ----------------------------------------------------------------------------------------------

    def history(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> None:
        """What is to be written to Git: never more than what is on disk."""
        for entry in entries:
            if self.model.ended.get(entry.seq) != entry.outcome:
                self.fail(f"history tells of record {entry.seq} as {entry.outcome}; the disk does not")
        newest = self.life.book.ledger.seq if self.life is not None else self.model.seq
        if dict(live) != self.model.live_at(newest):
            self.fail("history tells of another table than the journal")


class Watcher:
    """The eye of one loaded version."""

    def __init__(self, life: Life, name: str, tree: str, spec: Spec, txn: int) -> None:
        self.life = life
        self.watch = life.watch
        self.name = name
        self.tree = tree
        self.spec = spec
        self.txn = txn  # that brings it; 0: the start of the host
        self.served = False
        self.stopped = 0
        self.begun = 0
        self.unit: Unit

    # -- hooks ------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        fault = self.spec.fault
        await self.life.clock_sleep(self.spec.slow_s)
        if fault == "prepare":
            raise Poison("it cannot prepare")
        if fault == "prepare hangs":
            await self.life.clock_sleep(100.0)
        if fault == "deadly":
            self.life.die(f"{self.name} in prepare()")

    def take_over(self) -> None:
        if self.life.loop.dead:
            return
        if self.txn and self.watch.model.phase.get(self.txn) not in {"prepared", "committed", "confirmed"}:
            self.watch.fail(f"{self.name} takes over in transaction {self.txn} before PREPARED is on disk")
        if self.spec.fault == "take_over":
            raise Poison("it cannot take over")
        if self.spec.fault == "overruns":
            self.life.loop.pass_time(10.0)

    async def stop(self) -> None:
        self.stopped += 1
        if self.stopped > 1 and not self.life.loop.dead:
            self.watch.fail(f"{self.name} of transaction {self.txn} is stopped twice")

    # -- messages ---------------------------------------------------------------------------------------------

    def begin(self, module: Counter, epoch: int, src: int, n: int) -> None:
        if self.life.loop.dead:
            return
        line = (epoch, src, self.name)
        self.watch.came(line, n)
        self.unit = self.watch.units.begin(self.name, line, n)
        self._check_served(module)
        self._check_count(module, src)
        if module.token != self.name:
            self.watch.fail(f"{self.name} handles a message without what it had handed over")
        if self.spec.fault == "deadly later":
            self.life.die(f"{self.name} at a message")
        self.begun += 1
        if 0 < self.spec.sour < self.begun:
            self.watch.skipped.add((line, n))
            raise Poison("it has gone sour")
        if self.life.poisonous(src, n):
            module.note(src)
            self.watch.skipped.add((line, n))  # it must be a dead letter now
            raise Poison("a message that nobody can take")

    async def work(self, module: Counter, n: int) -> None:
        await self.life.clock_sleep(self.spec.slow_s)
        if n % 5 == 0:
            await self.life.ask_another(module, self.name)

    def end(self, module: Counter, epoch: int, src: int, n: int) -> None:
        if self.life.loop.dead:
            return
        self._check_served(module)
        self.watch.note(f"{self.name} of {self.txn} handled {(epoch, src, n)}")
        mirror = self.watch.mirror(self.name)
        module.count()
        mirror.total += 1
        module.note(src)
        if module.row:
            mirror.rows[src] = mirror.rows.get(src, 0) + 1
        self.unit.done, self.unit.row = True, bool(module.row)
        self.life.forward(module, self.name, src, n, self.unit)

    def _check_count(self, module: Counter, src: int) -> None:
        mirror = self.watch.mirror(self.name)
        if module.counted != mirror.total:
            self.watch.fail(f"{self.name} has counted {module.counted}, not {mirror.total}")
        rows = module.kept(src)
        if rows is not None and rows != mirror.rows.get(src, 0):
            self.watch.fail(f"{self.name} has {rows} of {src} in its Table, not {mirror.rows.get(src, 0)}")

    def _check_served(self, module: Counter) -> None:
        """One message, one version; and none of an old one after one of a new one (DESIGN P1)."""
        watch, proxy = self.watch, self.life.app.modules.get(self.name)
        if proxy is None or proxy.implementation is None or proxy.implementation.instance is not module:
            watch.fail(f"a message is handled by a version of {self.name} that does not serve")
        if self.txn < watch.floor.get(self.name, 0):
            watch.fail(
                f"{self.name} of transaction {self.txn} handles after transaction {watch.floor[self.name]} began"
            )
        if self.served or not self.txn:
            return
        self.served = True
        appended = self.life.appended.get(self.txn)
        if appended != "Committed":
            watch.fail(f"{self.name} serves by transaction {self.txn}, of which the journal has {appended}")
        for change in self.life.planned[self.txn]:
            if change.after is None or change.brings_code:
                watch.floor[change.name] = self.txn
