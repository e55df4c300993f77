"""Lock files in the repository: left by a Git that was killed, or by a power cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.control.doctor.findings import Case, Finding
from repo_store.locks import STALE_S, age_s, git_at_work, locks, remove_stale


def left(case: Case) -> Iterator[Finding]:
    """Whether one keeps a ref from ever moving. While a Git is at work that may hold it, none counts as left."""
    store = case.deployment.store
    found = locks(store)
    if not found or git_at_work(store):
        yield Finding("locks", True, "no lock file was left in the repository")
        return
    names = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
    what = f"{names}: a git that was killed left it, and until it is gone no push or deployment can move that ref"
    if min(map(age_s, found)) < STALE_S:
        todo = "In a minute, when none can be at work: livetag doctor --repair. A running host removes it itself then."
        yield Finding("locks", False, what, todo)
    else:
        todo = "Have it removed: livetag doctor --repair."
        yield Finding("locks", False, what, todo, lambda: _remove(store))


def _remove(store: Path) -> str:
    gone = remove_stale(store)
    if not gone:
        return "left the locks: a git has begun to work"
    return f"removed {', '.join(map(str, gone))}"
