"""What the journal says, folded: the release table, transactions, quarantine, pins. Pure: no I/O, no clock.

`fold(records)` is how a start learns where it stands, `ledger.apply(record)` how a running host keeps up;
both give the same value. A record that does not fit those before it raises IllegalTransition and changes
nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod
from types import MappingProxyType
from typing import TypeVar

from orchestrator.upgrade import orders as signed
from orchestrator.upgrade import overrides as by_hand
from orchestrator.upgrade import records as facts
from orchestrator.upgrade.errors import IllegalTransition
from orchestrator.upgrade.noted import IN_PROBATION, Quarantine, TagPin
from orchestrator.upgrade.overrides import Hold, Override, OverrideKey
from orchestrator.upgrade.phases import UNFINISHED, Phase, Signal, advance
from orchestrator.upgrade.records import Change, Entry, Record
from orchestrator.upgrade.starts import ReleaseKey, Starts
from orchestrator.upgrade.transaction_view import TransactionView

__all__ = ["Ledger", "Quarantine", "ReleaseKey", "TagPin", "TransactionView", "fold"]


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _nothing() -> Mapping[_Key, _Value]:
    return MappingProxyType({})


def _copy(given: Mapping[_Key, _Value]) -> dict[_Key, _Value]:
    """At once, where dict() asks a MappingProxyType for key after key: 4 ms for 50,000 tags, on the event loop."""
    return given.copy() if isinstance(given, MappingProxyType) else dict(given)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything the journal says, up to record `seq`.

    `table` is in service, `confirmed` is what an automatic way back returns to. `deaths` counts the host's
    deaths inside a release's transaction or probation, `starts` those right after a start. `images` are the
    modules whose saved state was not used yet, `rollback` what was asked for and has not ended. `overrides`
    and `holds` are what persons changed by hand, `app` the composition (tag, commit id) in force. `running`
    says that the last host to start has not said that it stopped.

    What grows with time is `transactions`: about 2 kB each, most of it the releases before and after, for what was in
    service once is what a rollback, the history and the steps of an older schema need. A tag costs 0.3 kB while it is
    there, however often it moves.
    """

    seq: int = 0
    table: Mapping[str, Entry] = field(default_factory=_nothing)
    confirmed: Mapping[str, Entry] = field(default_factory=_nothing)
    quarantine: Mapping[ReleaseKey, Quarantine] = field(default_factory=_nothing)
    deaths: Mapping[ReleaseKey, int] = field(default_factory=_nothing)
    starts: Starts = Starts()  # noqa: RUF009  # a frozen value
    transactions: Mapping[int, TransactionView] = field(default_factory=_nothing)
    probations: tuple[int, ...] = ()  # the transactions whose probation still covers a module, oldest first
    unfinished: TransactionView | None = None
    next_txn: int = 1
    tags: Mapping[str, TagPin] = field(default_factory=_nothing)
    orders: Mapping[str, tuple[signed.Order, ...]] = field(default_factory=_nothing)
    refusals: Mapping[str, signed.Refusal] = field(default_factory=_nothing)
    images: frozenset[str] = frozenset()
    overrides: Mapping[OverrideKey, Override] = field(default_factory=_nothing)
    holds: Mapping[str, Hold] = field(default_factory=_nothing)
    imports: tuple[Record, ...] = ()
    refused: tuple[Record, ...] = ()  # tags that were nobody's order, as they were seen
    app: tuple[str, str] | None = None
    rollback: facts.RollbackAsked | None = None
    running: bool = False
    stopped_clean: bool = False

    def apply(self, *records: Record) -> "Ledger":
        """Return the ledger after these records; raises IllegalTransition if one does not follow.

        Copies the tables, so several at once cost little more than one.
        """
        draft = _Draft(self)
        for record in records:
            draft.take(record)
        return draft.ledger()

    @property
    def in_probation(self) -> tuple[TransactionView, ...]:
        """The committed transactions whose probation still covers a module, oldest first."""
        return tuple(self.transactions[txn] for txn in self.probations)

    @property
    def going_back(self) -> tuple[TransactionView, ...]:
        """Those that were breached and have to go back; not those that cannot."""
        return tuple(v for v in self.in_probation if v.breach is not None and v.degraded is None)


def fold(records: Iterable[Record]) -> Ledger:
    """Return what the records say, all of them from the first; raises IllegalTransition naming the record."""
    draft = _Draft(Ledger())
    for record in records:
        draft.take(record)
    return draft.ledger()


class _Draft:
    """A ledger while records are taken: plain dicts, so that a fold over many records stays linear."""

    # Without a __weakref__: singledispatchmethod of Python 3.13.0 keeps every other object for ever (gh-127750).
    __slots__ = (
        "app", "confirmed", "deaths", "holds", "images", "imports", "next_txn", "orders", "overrides", "probations",
        "quarantine", "refusals", "refused", "rollback", "running", "seq", "starts", "stopped_clean", "table", "tags",
        "transactions", "unfinished",
    )  # fmt: skip

    def __init__(self, base: Ledger) -> None:
        self.seq = base.seq
        self.table = _copy(base.table)
        self.confirmed = _copy(base.confirmed)
        self.quarantine = _copy(base.quarantine)
        self.deaths = _copy(base.deaths)
        self.starts = base.starts
        self.transactions = _copy(base.transactions)
        self.unfinished = base.unfinished.id if base.unfinished else None
        self.probations = set(base.probations)
        self.next_txn = base.next_txn
        self.tags = _copy(base.tags)
        self.orders = _copy(base.orders)
        self.refusals = _copy(base.refusals)
        self.images = set(base.images)
        self.overrides = _copy(base.overrides)
        self.holds = _copy(base.holds)
        self.imports = list(base.imports)
        self.refused = list(base.refused)
        self.app = base.app
        self.rollback = base.rollback
        self.running = base.running
        self.stopped_clean = base.stopped_clean

    def ledger(self) -> Ledger:
        """Return what was taken so far as one immutable value."""
        return Ledger(
            seq=self.seq,
            table=MappingProxyType(self.table),
            confirmed=MappingProxyType(self.confirmed),
            quarantine=MappingProxyType(self.quarantine),
            deaths=MappingProxyType(self.deaths),
            starts=self.starts,
            transactions=MappingProxyType(self.transactions),
            probations=tuple(sorted(self.probations)),
            unfinished=None if self.unfinished is None else self.transactions[self.unfinished],
            next_txn=self.next_txn,
            tags=MappingProxyType(self.tags),
            orders=MappingProxyType(self.orders),
            refusals=MappingProxyType(self.refusals),
            images=frozenset(self.images),
            overrides=MappingProxyType(self.overrides),
            holds=MappingProxyType(self.holds),
            imports=tuple(self.imports),
            refused=tuple(self.refused),
            app=self.app,
            rollback=self.rollback,
            running=self.running,
            stopped_clean=self.stopped_clean,
        )

    def take(self, record: Record) -> None:
        """Take the next record; on IllegalTransition the draft is not to be used further."""
        try:
            self._check_order(record)
            self._take(record.fact, record)
            self.starts = self.starts.after(record.fact, self.table, record.at)
        except IllegalTransition as error:
            kind = type(record.fact).__name__
            raise IllegalTransition(
                f"record {record.seq} ({kind}) does not fit the journal: {error}"
            ) from None
        self.seq = record.seq

    def _check_order(self, record: Record) -> None:
        if record.seq != self.seq + 1:
            raise IllegalTransition(f"it follows record {self.seq}")

    @singledispatchmethod
    def _take(self, fact: facts.Fact, record: Record) -> None:
        raise IllegalTransition(f"nothing is known about {fact!r} at {record.at}")

    @_take.register
    def _planned(self, fact: facts.Planned, record: Record) -> None:
        if self.unfinished is not None:
            raise IllegalTransition(f"transaction {self.unfinished} is unfinished")
        self._claim(fact.txn)
        self.transactions[fact.txn] = TransactionView.begun(fact, record, self.app)
        self.unfinished = fact.txn

    @_take.register
    def _prepared(self, fact: facts.Prepared, record: Record) -> None:
        self._move(fact.txn, Signal.ALL_VOTED, record)

    @_take.register
    def _committed(self, fact: facts.Committed, record: Record) -> None:
        view = self._move(
            fact.txn,
            Signal.SWITCHED,
            record,
            lambda view: replace(
                view,
                outcome="committed",
                pause_us=fact.pause_us,
                held_messages=fact.held_messages,
                predicted_us=fact.predicted_us,
            ),
        )
        self._put(self.table, view.changes)
        if view.app is not None:
            self.app = view.app if view.app[0] else None  # empty texts: the first one was put back
        signed.carry(self.orders, view.changes, view.app and self.app)
        self.images.difference_update(fact.images_used)
        self._take_over_probations(view)
        self._revert(view.reverts)
        if view.who == IN_PROBATION and view.reverts is not None:
            for txn in self.transactions[view.reverts].covers:
                self.transactions[txn] = replace(self.transactions[txn], outcome="reverted")
        self._end_rollback(view.trigger.split())

    def _revert(self, txn: int | None) -> None:
        """Mark the transaction as put back, once the last of its modules is: `--only` puts back one of them."""
        view = self.transactions.get(txn) if txn is not None else None
        if view is None:
            return
        ways_back = [t for t in self.transactions.values() if t.reverts == txn and t.outcome == "committed"]
        back = {change.name for way in ways_back for change in way.changes}
        if all(change.name in back or change.name not in self.table for change in view.changes):
            self.transactions[view.id] = replace(view, outcome="reverted")

    @_take.register
    def _rolled_back(self, fact: facts.RolledBack, record: Record) -> None:
        view = self._move(
            fact.txn,
            Signal.FAILED,
            record,
            lambda view: replace(
                view,
                outcome="rolled_back",
                reason=fact.reason,
                fault=fact.fault,
                pause_us=fact.pause_us,
                held_messages=fact.held_messages,
                mismatches=fact.mismatches,
                predicted_us=fact.predicted_us,
            ),
        )
        # What a way back of a probation leads to has passed before: it is not suspected.
        if fact.fault == "died" and view.who != IN_PROBATION:
            self._count_deaths(change.after for change in view.changes if change.brings_code)

    @_take.register
    def _confirmed(self, fact: facts.Confirmed, record: Record) -> None:
        view = self._move(
            fact.txn,
            Signal.PROBATION_PASSED,
            record,
            lambda view: replace(view, reason=fact.reason or view.reason, judged=fact.judged),
        )
        for name in view.probation:
            entry = self.table.get(name)
            if entry is None:
                self.confirmed.pop(name, None)
            else:
                self.confirmed[name] = entry
                self.deaths.pop((entry.package, entry.commit_id), None)
        self._end_probation(fact.txn)

    @_take.register(facts.Inconclusive)
    @_take.register(facts.Breached)
    @_take.register(facts.Degraded)
    def _found(self, fact: facts.Inconclusive | facts.Breached | facts.Degraded, record: Record) -> None:
        view = self.transactions.get(fact.txn)
        if view is None or view.phase is not Phase.COMMITTED:
            raise IllegalTransition(f"transaction {fact.txn} is in no probation")
        self.transactions[fact.txn] = view.found(fact, record.at)

    @_take.register
    def _unchanged(self, fact: facts.Unchanged, record: Record) -> None:
        self._claim(fact.txn)
        for change in fact.changes:
            if change.before is not None and self.confirmed.get(change.name) == change.before:
                self._put(self.confirmed, (change,))  # the same code by another tag is as good as it was
        self._put(self.table, fact.changes)
        signed.carry(self.orders, fact.changes, None)
        self.transactions[fact.txn] = TransactionView.renamed(fact, record)
        self._end_rollback(change.after.tag for change in fact.changes if change.after is not None)

    @_take.register
    def _quarantined(self, fact: facts.Quarantined, record: Record) -> None:
        key = (fact.package, fact.commit_id)
        self.quarantine[key] = Quarantine(
            *key, fact.tag, fact.reason, record.at, record.seq, fact.fatal, fact.paste
        )

    @_take.register
    def _lifted(self, fact: facts.Lifted, record: Record) -> None:  # noqa: ARG002 - one shape for all
        self.quarantine.pop((fact.package, fact.commit_id), None)
        if self.rollback is not None:
            self.rollback = self.rollback.without(fact.package, fact.commit_id)
        self.deaths.pop((fact.package, fact.commit_id), None)  # another chance is a whole one

    @_take.register
    def _rollback_asked(self, fact: facts.RollbackAsked, record: Record) -> None:  # noqa: ARG002
        self.rollback = fact

    @_take.register
    def _overridden(self, fact: facts.Overridden, record: Record) -> None:
        by_hand.begin(self.overrides, fact, record.at, record.seq)

    @_take.register
    def _override_ended(self, fact: facts.OverrideEnded, record: Record) -> None:  # noqa: ARG002
        by_hand.end(self.overrides, fact)

    @_take.register
    def _held(self, fact: facts.Held, record: Record) -> None:
        self.holds[fact.module] = Hold(fact.module, fact.who, fact.why, record.at)

    @_take.register
    def _unheld(self, fact: facts.Unheld, record: Record) -> None:  # noqa: ARG002
        self.holds.pop(fact.module, None)

    @_take.register
    def _state_imported(self, fact: facts.StateImported, record: Record) -> None:  # noqa: ARG002
        self.imports.append(record)

    @_take.register
    def _tag_moved(self, fact: facts.TagMoved, record: Record) -> None:  # noqa: ARG002
        if fact.object_id is None:
            self.tags.pop(fact.tag, None)
        else:
            self.tags[fact.tag] = TagPin(fact.object_id, fact.commit_id)

    @_take.register
    def _tag_accepted(self, fact: facts.TagAccepted, record: Record) -> None:  # noqa: ARG002
        signed.accept(self.orders, fact)

    @_take.register
    def _tag_refused(self, fact: facts.TagRefused, record: Record) -> None:
        signed.refuse(self.refusals, fact, record.at)
        if fact.reason:
            self.refused.append(record)

    @_take.register
    def _host_started(self, fact: facts.HostStarted, record: Record) -> None:  # noqa: ARG002
        if self.running and not (fact.copied or fact.rebooted):
            # It died. What was in probation is suspect, unless nothing served in its place before: to take that out of
            # service helps nobody, and what ends each start is counted by `starts`. An unfinished transaction is counted
            # when recovery writes its RolledBack, so that it is counted once.
            views = (self.transactions[txn] for txn in self.probations)
            suspects = {
                n for v in views if v.inconclusive is None for n in v.probation if n in self.confirmed
            }
            self._count_deaths(self.table.get(name) for name in sorted(suspects))
        self.running = True
        self.stopped_clean = False

    @_take.register(facts.StartDied)
    @_take.register(facts.Settled)
    @_take.register(facts.Served)
    def _start_only(self, fact: facts.Fact, record: Record) -> None:
        """For `starts` alone."""

    @_take.register
    def _host_stopped(self, fact: facts.HostStopped, record: Record) -> None:  # noqa: ARG002
        self.running = False
        self.stopped_clean = fact.clean

    @_take.register
    def _image_saved(self, fact: facts.ImageSaved, record: Record) -> None:  # noqa: ARG002
        self.images.update(fact.modules)

    @_take.register
    def _image_used(self, fact: facts.ImageUsed, record: Record) -> None:  # noqa: ARG002
        self.images.difference_update(fact.modules)

    def _end_rollback(self, tags: Iterable[str]) -> None:
        if self.rollback is not None and not self.rollback.tags.keys().isdisjoint(tags):
            self.rollback = None

    def _claim(self, txn: int) -> None:
        if txn in self.transactions:
            raise IllegalTransition(f"transaction {txn} exists already")
        self.next_txn = max(self.next_txn, txn + 1)

    def _move(
        self,
        txn: int,
        signal: Signal,
        record: Record,
        change: Callable[[TransactionView], TransactionView] = lambda view: view,
    ) -> TransactionView:
        """Advance the transaction's phase by the table; the time of its decision is the record's."""
        if txn not in self.transactions:
            raise IllegalTransition(f"there is no transaction {txn}")
        old = self.transactions[txn]
        view = replace(change(old), phase=advance(old.phase, signal))
        if old.phase in UNFINISHED and view.phase not in UNFINISHED:
            view = replace(view, ended_at=record.at, ended_seq=record.seq)
            self.unfinished = None
        self.transactions[txn] = view
        return view

    @staticmethod
    def _put(table: dict[str, Entry], changes: Iterable[Change]) -> None:
        for change in changes:
            if change.after is None:
                table.pop(change.name, None)
            else:
                table[change.name] = change.after

    def _take_over_probations(self, view: TransactionView) -> None:
        """Make a transaction that touches a module in probation answer for all modules of that probation."""
        names, covers = {change.name for change in view.changes}, list[int]()
        for txn in sorted(self.probations):
            covered = self.transactions[txn]
            if names.intersection(covered.probation):
                names.update(covered.probation)
                covers += [*covered.covers, txn]
                self._end_probation(txn)
        self.transactions[view.id] = replace(view, probation=tuple(sorted(names)), covers=tuple(covers))
        self.probations.add(view.id)

    def _end_probation(self, txn: int) -> None:
        self.transactions[txn] = replace(self.transactions[txn], probation=())
        self.probations.discard(txn)

    def _count_deaths(self, entries: Iterable[Entry | None]) -> None:
        """Count one death for each release, however many modules are made from it."""
        # In order: what a start records next must be the same in every process.
        for key in sorted({(entry.package, entry.commit_id) for entry in entries if entry is not None}):
            self.deaths[key] = self.deaths.get(key, 0) + 1
