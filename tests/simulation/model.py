"""What the records on the disk amount to, and what the refs ask for: written anew, and small, so that it can be wrong
only in other ways than the ledger and the plan are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.overrides import Override
from orchestrator.upgrade.records import (
    Breached,
    Change,
    Committed,
    Confirmed,
    Degraded,
    Entry,
    HostStarted,
    HostStopped,
    Inconclusive,
    Lifted,
    Planned,
    Prepared,
    Quarantined,
    Record,
    RolledBack,
    StartDied,
    Unchanged,
)
from repo_store.manifest import AppManifest
from repo_store.release import TagRef
from tests.simulation.refs import Origin

Key = tuple[str, str]


@dataclass
class DiskModel:
    """Fed with each record as it reaches the disk."""

    fail: Callable[[str], None]
    table: dict[str, Entry] = field(default_factory=dict)
    tables: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(0, {})])  # seq → name → commit
    phase: dict[int, str] = field(default_factory=dict)
    changes: dict[int, tuple[Change, ...]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)  # seq of the decision → outcome
    quarantine: set[Key] = field(default_factory=set)
    died: Counter[Key] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    probations: Probations = field(init=False)
    seq: int = 0
    running: bool = False

    def __post_init__(self) -> None:
        self.probations = Probations(self.fail, self.table, self.seen)

    @property
    def ways_back(self) -> set[int]:
        """The transactions that put back what breached its probation."""
        return self.probations.ways_back

    @property
    def unfinished(self) -> int | None:
        return next((txn for txn, phase in self.phase.items() if phase in {"planned", "prepared"}), None)

    def take(self, record: Record) -> None:  # noqa: C901, PLR0912  # one line for each kind
        fact = record.fact
        self.seq += 1
        if record.seq != self.seq:
            self.fail(f"record {record.seq} follows {self.seq - 1}")
        self.seen[type(fact).__name__] += 1
        self.probations.before(fact)
        if isinstance(fact, Planned):
            self._planned(fact)
        elif isinstance(fact, Prepared):
            self._move(fact.txn, {"planned"}, "prepared")
        elif isinstance(fact, Committed):
            self._move(fact.txn, {"prepared"}, "committed")
            self._put(self.changes[fact.txn], record.seq)
            self.ended[record.seq] = "reverted" if fact.txn in self.ways_back else "committed"
        elif isinstance(fact, RolledBack):
            self._move(fact.txn, {"planned", "prepared"}, "rolled back")
            self.ended[record.seq] = "rolled_back"
            self.seen[f"RolledBack {fact.fault}"] += 1
            if fact.fault == "died" and fact.txn not in self.ways_back:
                self.died.update(self._keys(fact.txn))
        elif isinstance(fact, Confirmed):
            self._move(fact.txn, {"committed"}, "confirmed")
            for change in self.changes[
                fact.txn
            ]:  # what has come into service is trusted again, also by being enabled
                if change.after is not None:
                    self.died.pop((change.after.package, change.after.commit_id), None)
        elif isinstance(fact, Unchanged):
            self._put(fact.changes, record.seq)
            self.ended[record.seq] = "unchanged"
        elif isinstance(fact, Quarantined):
            self.quarantine.add((fact.package, fact.commit_id))
        elif isinstance(fact, Lifted):
            self.quarantine.discard((fact.package, fact.commit_id))
            self.died.pop((fact.package, fact.commit_id), None)
        elif isinstance(fact, StartDied):
            self.seen["StartDied named"] += bool(fact.releases)
        elif isinstance(fact, (HostStarted, HostStopped)):
            self.running = isinstance(fact, HostStarted)
        self.probations.after(fact, self.changes)

    def _planned(self, fact: Planned) -> None:
        if self.unfinished is not None:
            self.fail(f"transaction {fact.txn} begins while {self.unfinished} is unfinished")
        self.phase[fact.txn] = "planned"
        self.seen["rollback by a person"] += fact.reverts is not None and not fact.who.startswith("livetag, ")
        self.changes[fact.txn] = fact.changes
        for change in fact.changes:
            before, after = change.before, change.after
            if self.table.get(change.name) != before:
                self.fail(f"transaction {fact.txn} changes {change.name} from what does not serve")
            moves = after is not None and (before is None or before.commit_id != after.commit_id)
            if moves and after is not None and (after.package, after.commit_id) in self.quarantine:
                self.fail(f"transaction {fact.txn} tries {after.tag} again, which is in quarantine")

    def _keys(self, txn: int) -> set[Key]:
        return {
            (c.after.package, c.after.commit_id)
            for c in self.changes[txn]
            if c.after is not None and c.brings_code
        }

    def _move(self, txn: int, allowed: set[str], phase: str) -> None:
        if self.phase.get(txn) not in allowed:
            self.fail(f"transaction {txn} goes from {self.phase.get(txn)} to {phase}")
        self.phase[txn] = phase

    def _put(self, changes: tuple[Change, ...], seq: int) -> None:
        for change in changes:
            if change.after is None:
                self.table.pop(change.name, None)
            else:
                self.table[change.name] = change.after
        self.tables.append((seq, {n: e.commit_id for n, e in self.table.items()}))

    def live_at(self, seq: int) -> dict[str, str]:
        """Module → commit, as of that record."""
        return next(live for at, live in reversed(self.tables) if at <= seq)


@dataclass
class Probations:
    """What was confirmed last, what is in probation, and whether it goes back to just that."""

    fail: Callable[[str], None]
    table: dict[str, Entry]
    seen: Counter[str]
    confirmed: dict[str, Entry] = field(default_factory=dict)
    open: dict[int, set[str]] = field(default_factory=dict)
    breached: set[int] = field(default_factory=set)
    degraded: set[int] = field(default_factory=set)
    ways_back: set[int] = field(default_factory=set)

    def before(self, fact: object) -> None:  # noqa: C901  # one case for each kind
        """Look at a record while the table is as it was."""
        if isinstance(fact, Planned):
            touched = {change.name for change in fact.changes}
            going = {txn for txn in self.breached - self.degraded if txn in self.open}
            if fact.who == IN_PROBATION:
                self._goes_back(fact, going)
            elif any(self.open[txn] & touched for txn in going) and "deaths" not in fact.who:
                self.fail(f"transaction {fact.txn} comes between a breach and its way back")
        elif isinstance(fact, Unchanged):
            for change in fact.changes:
                if change.before is not None and self.confirmed.get(change.name) == change.before:
                    self._confirm(change.name, change.after)
        elif isinstance(fact, (Inconclusive, Breached, Degraded)) and fact.txn not in self.open:
            self.seen["judged too late"] += 1  # taken over in that moment; it means nothing then
        elif isinstance(fact, Breached):
            self.breached.add(fact.txn)
        elif isinstance(fact, Degraded):
            self.degraded.add(fact.txn)
            if fact.txn not in self.breached:
                self.fail(f"transaction {fact.txn} is degraded, and has breached nothing")

    def _goes_back(self, fact: Planned, going: set[int]) -> None:
        self.ways_back.add(fact.txn)
        if fact.reverts not in going:
            self.fail(f"transaction {fact.txn} takes back {fact.reverts}, which is not to go back")
            return
        for name in self.open[fact.reverts] & self.table.keys():
            now, passed = self.table[name], self.confirmed.get(name)
            back = next((change for change in fact.changes if change.name == name), None)
            after = back.after if back is not None else now
            if (after is None) != (passed is None):
                self.fail(f"{name} goes back to {after}, and {passed} had passed")
            elif after is not None and passed is not None and Change(name, passed, after).brings_code:
                self.fail(f"{name} goes back to {after.tag}, and {passed.tag} had passed")

    def after(self, fact: object, changes: Mapping[int, tuple[Change, ...]]) -> None:
        """Look at a record when the table has it."""
        if isinstance(fact, Committed):
            covered = {change.name for change in changes[fact.txn]}
            for txn, names in list(self.open.items()):
                if names & covered:
                    covered |= self.open.pop(txn)
            self.open[fact.txn] = covered
            self.seen["went back"] += fact.txn in self.ways_back
        elif isinstance(fact, Confirmed):
            self.seen["passed"] += fact.judged.startswith("passed")
            for name in self.open.pop(fact.txn, ()):
                self._confirm(name, self.table.get(name))

    def _confirm(self, name: str, entry: Entry | None) -> None:
        if entry is None:
            self.confirmed.pop(name, None)
        else:
            self.confirmed[name] = entry


@dataclass
class Wanted:
    """What one module should be."""

    package: str
    commit: str
    config: Mapping[str, object]
    also: frozenset[str] = frozenset()
    enabled: bool = True

    @classmethod
    def of(cls, entry: Entry) -> Wanted:
        return cls(entry.package, entry.commit_id, entry.config, frozenset(entry.also), entry.enabled)


def best_tags(origin: Origin, quarantine: set[Key]) -> dict[str, TagRef]:
    """Package → its highest tag whose commit is not in quarantine for it."""
    best: dict[str, TagRef] = {}
    for ref in origin.tags.values():
        version = ref.tag.version
        key = (ref.tag.package, ref.commit_id or "")
        if key in quarantine or version.pre is not None:
            continue
        if ref.tag.package not in best or version > best[ref.tag.package].tag.version:
            best[ref.tag.package] = ref
    return best


def desired(
    origin: Origin, quarantine: set[Key], table: Mapping[str, Entry], overrides: list[Override]
) -> dict[str, Wanted]:
    """Module → what should serve; what is not named should not."""
    best = best_tags(origin, quarantine)
    staying = {name: Wanted.of(entry) for name, entry in table.items()}
    if "app" not in best:
        asked = {p: Wanted(p, ref.commit_id or "", {}) for p, ref in best.items()}
        wanted = {**_without_names_of(asked, staying), **asked}
    else:
        app_commit = best["app"].commit_id or ""
        composition = origin.commits[app_commit].app
        assert isinstance(composition, AppManifest), "a composition that cannot be read is in force"
        wanted, as_it_is = {}, set()
        for name, spec in composition.modules.items():
            package = spec.package or name
            ref = best.get(package)
            commit = ref.commit_id or "" if ref is not None else app_commit
            if ref is None and (package, app_commit) in quarantine:
                as_it_is.add(name)
                continue
            wanted[name] = Wanted(package, commit, spec.config, frozenset(spec.also), spec.enabled)
        left = {name: each for name, each in staying.items() if name in as_it_is}
        wanted.update(_without_names_of(wanted, left))
    for override in overrides:
        _lay(override, wanted, staying, best, origin)
    return wanted


def _without_names_of(asked: Mapping[str, Wanted], staying: Mapping[str, Wanted]) -> dict[str, Wanted]:
    """What stays as it is, but for the names that another module is to have."""
    taken = frozenset(asked).union(*(each.also for each in asked.values()))
    return {name: replace(each, also=each.also - taken) for name, each in staying.items()}


def _lay(  # noqa: C901  # one case for each command
    o: Override,
    wanted: dict[str, Wanted],
    staying: dict[str, Wanted],
    best: dict[str, TagRef],
    origin: Origin,
) -> None:
    if o.what == "unload":
        wanted.pop(o.module, None)
    elif o.what == "load" and o.module not in wanted:
        ref = best.get(o.value)
        if ref is not None:
            wanted[o.module] = Wanted(o.value, ref.commit_id or "", {})
        elif o.module in staying:
            wanted[o.module] = staying[o.module]
    elif o.what in {"enable", "disable"} and o.module in wanted:
        wanted[o.module].enabled = o.what == "enable"
    elif o.what == "swap" and o.module in wanted:
        tag = origin.tags.get(f"{wanted[o.module].package}/v{o.value}")
        if tag is not None:
            wanted[o.module].commit = tag.commit_id or ""
        elif o.module in staying:
            wanted[o.module].commit = staying[o.module].commit
    elif o.what in {"bind", "unbind"}:
        for name, each in wanted.items():
            each.also = each.also - {o.value} | ({o.value} if (o.what, name) == ("bind", o.module) else set())
