"""What must not be thrown away: commits that are held against `git gc`, and their stage folders (DESIGN §4). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.records import Entry

SERVED_KEPT = 50  # transactions whose releases stay staged and held, so that a way back costs nothing


def needed_trees(ledger: Ledger) -> set[str]:
    """The trees whose stage folders are kept."""
    return {entry.tree_id for entry in _needed(ledger)}


def needed_commits(ledger: Ledger) -> set[str]:
    """The commits that `refs/keep/*` holds: what the refs alone would let go."""
    return {entry.commit_id for entry in _needed(ledger)}


def _needed(ledger: Ledger) -> Iterator[Entry]:
    """What serves, is confirmed, comes into service, served last, and what left a state that waits for its return."""
    yield from ledger.table.values()
    yield from ledger.confirmed.values()
    views = list(ledger.transactions.values())
    served = [view for view in views if view.outcome in {"committed", "reverted"}][-SERVED_KEPT:]
    unfinished = [ledger.unfinished] if ledger.unfinished is not None else []
    for view in (*served, *unfinished):
        for change in view.changes:
            yield from (entry for entry in (change.before, change.after) if entry is not None)
    away = set(ledger.images) - ledger.table.keys()
    for view in reversed(views if away else []):
        for change in view.changes:
            if change.name in away and change.after is None and change.before is not None:
                away.discard(change.name)
                yield change.before
