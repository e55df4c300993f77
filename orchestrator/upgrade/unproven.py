"""What of a committed transaction has still to prove itself, and what leads back to what has. Pure (DESIGN §7.7).

A module is unproven while what serves is other code, or has another config, than what passed its probation last. So what
goes back to that needs no probation, nor does what only changes names; and a start of the host finds the same again. What
comes first has none either: there is nothing to go back to, so nothing that a probation could decide.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchestrator.runtime.figures import Terms
from orchestrator.upgrade.crash_loop import key_of, not_loaded, without_taken_names
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.records import Change, Entry, Quarantined
from repo_store.release import APP


def unproven(ledger: Ledger, view: TransactionView, terms: Mapping[str, Terms]) -> tuple[str, ...]:
    """The modules of the probation that are to be watched; `terms` are what each version in service asks for itself."""
    if not has_way_back(ledger, view):
        return ()
    return tuple(
        name for name in view.probation if _is_unproven(ledger, name) and terms.get(name, Terms()).seconds
    )


def _is_unproven(ledger: Ledger, name: str) -> bool:
    now = ledger.table.get(name)
    return now is not None and Change(name, ledger.confirmed.get(name), now).brings_code


def has_way_back(ledger: Ledger, view: TransactionView) -> bool:
    """Whether anything of the probation has passed one before."""
    return any(name in ledger.confirmed for name in view.probation)


def changes_back(ledger: Ledger, view: TransactionView) -> tuple[Change, ...]:
    """What puts every module of the probation back to what passed last; one that it added is removed.

    Names, and whether it is in service, stay as they are now, unless a composition of the probation has changed them.
    """
    composed = _composition(ledger, view) is not None
    changes = []
    for name in view.probation:
        now, passed = ledger.table.get(name), ledger.confirmed.get(name)
        back = _back(now, passed, composed)
        if back != now:
            changes.append(Change(name, now, back))
    return tuple(without_taken_names(changes, dict(ledger.table))) if composed else tuple(changes)


def _back(now: Entry | None, passed: Entry | None, composed: bool) -> Entry | None:
    if now is None or passed is None or composed:
        return passed
    return msgspec.structs.replace(passed, also=now.also, enabled=now.enabled)


def composition_back(ledger: Ledger, view: TransactionView) -> tuple[str, str] | None:
    """The composition that is in force after the way back; None: it stays as it is; empty texts: there was none."""
    first = _composition(ledger, view)
    return (first.app_before or ("", "")) if first is not None else None


def at_fault(ledger: Ledger, view: TransactionView, reason: str) -> list[Quarantined]:
    """What a breach puts in quarantine: all that the probation has brought, and nothing that has passed."""
    passed = {key_of(entry) for entry in ledger.confirmed.values()}
    live = [ledger.table[name] for name in view.probation if _is_unproven(ledger, name)]
    keys = {key_of(entry): entry.tag for entry in live if key_of(entry) not in passed}
    if _composition(ledger, view) is not None and ledger.app is not None:
        keys[APP, ledger.app[1]] = ledger.app[0]
    return [
        Quarantined(package, commit_id, tag, reason)
        for (package, commit_id), tag in sorted(keys.items())
        if (package, commit_id) not in ledger.quarantine
    ]


def ended_the_host(ledger: Ledger) -> list[tuple[TransactionView, str]]:
    """The probations of which a release is not loaded any more, as it ended the host, each with the reason.

    Their modules go back to what was confirmed, not to what served in between and never passed.
    """
    lethal = not_loaded(ledger).keys()
    found = []
    for view in ledger.in_probation:
        names = [name for name in view.probation if name in lethal]
        welcome = all(
            c.after is None or key_of(c.after) not in ledger.quarantine for c in changes_back(ledger, view)
        )
        if names and has_way_back(ledger, view) and welcome:
            found.append((view, ledger.quarantine[key_of(ledger.table[names[0]])].reason))
    return found


def _composition(ledger: Ledger, view: TransactionView) -> TransactionView | None:
    """The first transaction of the probation that came with a composition."""
    chain = (ledger.transactions[txn] for txn in (*view.covers, view.id))
    return next((each for each in chain if each.app is not None), None)
