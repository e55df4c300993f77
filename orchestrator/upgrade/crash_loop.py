"""What ends a crash loop: whose fault a death right after a start was, and what serves instead. Pure.

A death with evidence (whose code ran) counts for that release, and the second in a row quarantines it, as in a transaction.
One before any module's code had run is no module's doing, and counts for nothing. Of another nobody knows whose it is: after
the third in a row the newest release that has never lasted is taken to be the cause. A person, a service manager and a kernel
short of memory kill a good host too, and at a slow start always in somebody's code: so what has lasted through a start is
given twice as many, and so is, where nothing says whose code ran, what has served for a while since its switch. What is
quarantined so is not loaded again: what served before it comes back, by the journal alone, before any module code is loaded;
where nothing served before, the host starts without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.noted import AFTER_DEATHS
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import Change, Entry, Quarantined, StartDied
from orchestrator.upgrade.starts import ReleaseKey
from orchestrator.upgrade.transaction_view import TransactionView

DEATHS_MAX = 2  # the second death of the host in a release's hands quarantines it
UNEXPLAINED_MAX = 3
PATIENCE = 2  # so many times as often for what has lasted before


def key_of(entry: Entry) -> ReleaseKey:
    """What quarantine and deaths are counted by."""
    return entry.package, entry.commit_id


def start_died(
    before: Ledger, now: Ledger, ran: tuple[str, str] | None, *, no_module: bool
) -> StartDied | None:
    """What is to be recorded of a host that died before it had settled; None: nothing is.

    `before` is the ledger that it left, `now` the one in which its unfinished transaction and its probations were
    counted; `ran` is the module whose code it ran, and what that did. `no_module`: it left with an error of its own, or
    died before it had run code of any module, so that no module can have ended it.
    """
    if not before.running or not before.starts.settling or no_module:
        return None
    entry = before.table.get(ran[0]) if ran is not None else None
    if ran is not None and entry is not None:
        key = key_of(entry)
        if now.deaths.get(key, 0) > before.deaths.get(key, 0):
            return None  # counted already: it was in probation
        return StartDied((key,), f"{entry.name} {entry.version} was {ran[1]}")
    if not before.starts.quiet or now.deaths != before.deaths:
        return None  # a transaction had begun in it, or a probation answers for it
    return StartDied((), "no module's code was running")


def fatal_releases(ledger: Ledger) -> Iterator[Quarantined]:
    """The releases that are quarantined now, for what they did to the host."""
    live = {key_of(entry) for entry in ledger.table.values()}
    for key, deaths in ledger.deaths.items():
        if deaths >= DEATHS_MAX and not _settled(ledger, key, fatal=key in live):
            reason = f"the host died {deaths} times while this release was coming into service"
            yield _quarantined(ledger, key, reason, fatal=key in live)
    for key, deaths in ledger.starts.deaths.items():
        lasted = key in ledger.starts.proven
        if deaths >= DEATHS_MAX * (PATIENCE if lasted else 1) and not _settled(ledger, key, fatal=True):
            reason = (
                f"the host died {deaths} times in a row right after its start, while code of this release ran"
            )
            yield _quarantined(ledger, key, reason, fatal=True)
    if ledger.starts.unexplained >= UNEXPLAINED_MAX:
        tolerant = ledger.starts.unexplained < UNEXPLAINED_MAX * PATIENCE
        reason = (
            f"the host died {ledger.starts.unexplained} times in a row right after its start; what it did is not known, "
            "and this is the newest release that has never lasted through a start"
        )
        for key in _newest_unproven(ledger, ledger.starts.served if tolerant else frozenset()):
            yield _quarantined(ledger, key, reason, fatal=True)


def _settled(ledger: Ledger, key: ReleaseKey, *, fatal: bool) -> bool:
    held = ledger.quarantine.get(key)
    return held is not None and (held.fatal or not fatal)


def _quarantined(ledger: Ledger, key: ReleaseKey, reason: str, *, fatal: bool) -> Quarantined:
    package, commit_id = key
    names = [
        n for n, pin in ledger.tags.items() if pin.commit_id == commit_id and n.startswith(f"{package}/")
    ]
    return Quarantined(package, commit_id, max(names, default=""), reason, fatal)


def _newest_unproven(ledger: Ledger, spared: frozenset[ReleaseKey]) -> list[ReleaseKey]:
    """What the newest transaction brought that serves and has never lasted; it moved together, so it goes together.

    What a person or a verdict has quarantined meanwhile is not spared: until its rollback is committed it still serves.
    """
    ended = {key for key, held in ledger.quarantine.items() if held.fatal}
    unproven = {key_of(e) for e in ledger.table.values()} - ledger.starts.proven - spared - ended
    for view in _committed(ledger):
        keys = {key_of(c.after) for c in view.changes if c.after is not None} & unproven
        if keys:
            return sorted(keys)
    return []


def not_loaded(ledger: Ledger) -> Mapping[str, str]:
    """The modules of the table that are not to be loaded, with the reason."""
    found = {}
    for name, entry in ledger.table.items():
        held = ledger.quarantine.get(key_of(entry))
        if held is not None and held.fatal:
            found[name] = (
                f"{name} {entry.version} is not loaded: {held.reason}. Nothing served in its place before. Push a new "
                f"version; or, once the cause is gone: livetag retry {held.tag or entry.tag}, and livetag restart."
            )
    return found


def ways_back(ledger: Ledger) -> list[tuple[TransactionView, tuple[Change, ...]]]:
    """For each fatal release in service: the transaction that brought it, and what puts back what it moved.

    Modules that moved together go back together; one that nothing served in place of before stays. So does a name that
    another module has by now: two of one name would end each start of the host.
    """
    found: list[tuple[TransactionView, tuple[Change, ...]]] = []
    gone: set[str] = set()
    table = dict(ledger.table)
    for name in sorted(not_loaded(ledger)):
        entry = ledger.table[name]
        view = next((v for v in _committed(ledger) if _brought(v, entry, ledger)), None)
        if view is None or name in gone:
            continue
        changes = tuple(
            Change(c.name, ledger.table[c.name], _composed_as(c, ledger.table[c.name]))
            for c in view.changes
            if c.name not in gone and _still_there(c, ledger)
        )
        gone.update(change.name for change in changes)
        found.append((view, tuple(without_taken_names(changes, table))))
    return found


def without_taken_names(changes: Sequence[Change], table: dict[str, Entry]) -> Iterator[Change]:
    """What goes back leaves each name with the module that has it in the table, which is brought up to that."""
    back = {change.name for change in changes}
    taken = {*table, *(also for entry in table.values() if entry.name not in back for also in entry.also)}
    for change in changes:
        after = change.after
        if after is not None:
            free = tuple(also for also in after.also if also not in taken)
            after = table[change.name] = msgspec.structs.replace(after, also=free)
            taken.update(free)
        yield Change(change.name, change.before, after)


def put_back_from(ledger: Ledger, module: str) -> tuple[str, float] | None:
    """What a start has put the module back from while it was in probation: its version, and since when it had served.

    What that failed on is handled again, as after any other breach. At a later start there is nothing left of it.
    """
    last = next((v for v in _committed(ledger) if any(c.name == module for c in v.changes)), None)
    if last is None or last.who != AFTER_DEATHS or last.reverts is None:
        return None
    taken_back = ledger.transactions[last.reverts]
    before = next(change.before for change in last.changes if change.name == module)
    if taken_back.phase is not Phase.COMMITTED or before is None:
        return None
    return before.version, taken_back.began(ledger.transactions)


def _committed(ledger: Ledger) -> Iterator[TransactionView]:
    views = sorted(ledger.transactions.values(), key=lambda view: view.id, reverse=True)
    return (view for view in views if view.outcome in {"committed", "reverted"})


def _brought(view: TransactionView, entry: Entry, ledger: Ledger) -> bool:
    """Whether the transaction brought that release, in place of one that may serve again."""
    return any(
        c.name == entry.name
        and c.after is not None
        and key_of(c.after) == key_of(entry)
        and _still_there(c, ledger)
        for c in view.changes
    )


def _still_there(change: Change, ledger: Ledger) -> bool:
    """Whether what it brought serves, and what it replaced was another release that is no longer suspected."""
    now, before, after = ledger.table.get(change.name), change.before, change.after
    if now is None or before is None or after is None or key_of(now) != key_of(after):
        return False
    return key_of(before) != key_of(after) and key_of(before) not in ledger.quarantine


def _composed_as(change: Change, now: Entry) -> Entry | None:
    """The release before, under the composition of now unless that came with the release."""
    before, after = change.before, change.after
    if before is None or after is None or now == after:
        return before
    return msgspec.structs.replace(before, config=now.config, also=now.also, enabled=now.enabled)
