"""The way back of what a composition or a command changed: a higher app tag, or the commands that undo it (DESIGN §9). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.reconfigure import Command
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.states import Verb
from repo_store.release import APP, RefMap, parse_tag


def composition_before(view: TransactionView, refs: RefMap) -> tuple[str, str] | None:
    """The composition (tag, commit id) that a transaction replaced; None if there was none.

    A journal from before it was recorded leaves the next lower app tag.
    """
    if view.app_before is not None or view.app is not None:
        return view.app_before
    mine = next(
        (tag for name in view.trigger.split() if (tag := parse_tag(name)) and tag.package == APP), None
    )
    if mine is None:
        return None
    lower = [ref for ref in refs.values() if ref.tag.package == APP and ref.tag.version < mine.version]
    best = max(lower, key=lambda ref: ref.tag.version, default=None)
    return (best.tag.name, best.commit_id or "") if best is not None else None


def composed(view: TransactionView) -> bool:
    """Whether a composition asked for the transaction."""
    return view.app is not None or any(name.startswith(f"{APP}/") for name in view.trigger.split())


def undoing(view: TransactionView, ledger: Ledger, who: str, why: str) -> list[Command]:
    """The commands that take back what the transaction of a command did, as far as it still is so."""
    return [
        command
        for change in view.changes
        for command in _undone(change, view.changes, who, why)
        if _still(change, ledger)
    ]


def _still(change: Change, ledger: Ledger) -> bool:
    """Whether what the transaction did is in the table yet, whatever its tag is called by now."""
    entry, after = ledger.table.get(change.name), change.after
    if entry is None or after is None:
        return entry is None and after is None
    mine = (after.tree_id, after.enabled, set(after.also))
    return mine == (entry.tree_id, entry.enabled, set(entry.also))


def _undone(change: Change, all_: Sequence[Change], who: str, why: str) -> Iterator[Command]:
    name, before, after = change.name, change.before, change.after
    if before is None:
        yield Command(Verb.UNLOAD, name, who=who, why=why)
        return
    if after is None:
        yield Command(Verb.LOAD, name, before.package, disabled=not before.enabled, who=who, why=why)
        return
    tag = parse_tag(before.tag)
    if before.commit_id != after.commit_id and tag is not None:
        yield Command(Verb.SWAP, name, str(tag.version), who=who, why=why)
    if before.enabled != after.enabled:
        yield Command(Verb.ENABLE if before.enabled else Verb.DISABLE, name, who=who, why=why)
    for bound in sorted(set(before.also) - set(after.also)):
        yield Command(Verb.BIND, name, bound, who=who, why=why)  # takes it from whoever got it
    for bound in sorted(set(after.also) - set(before.also)):
        if not any(c.before is not None and bound in c.before.also for c in all_):
            yield Command(Verb.UNBIND, "", bound, who=who, why=why)
