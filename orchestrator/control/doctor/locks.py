"""Lock files in the repository: left by a Git that was killed, or by a power cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.control.doctor.findings import Case, Finding
from repo_store.locks import STALE_S, age_s, git_at_work, locks, remove_stale

LOOK_S = 6.0  # a Git that finds a ref locked waits 2 s for it, and counts as at work
AGAIN_S = 0.02


def left(case: Case) -> Iterator[Finding]:
    """Whether one keeps a ref from ever moving. While a Git is at work that may hold it, none counts as left."""
    store = case.deployment.store
    found = _seen_at_rest(store)
    if not found:
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


def _seen_at_rest(store: Path) -> list[Path]:
    """The locks at a moment without a Git at work: a host that cannot write tries again and again, each for a moment."""
    until = time.monotonic() + LOOK_S
    while found := locks(store):
        if not git_at_work(store):
            return found
        if time.monotonic() > until:
            return []
        time.sleep(AGAIN_S)
    return []


def _remove(store: Path) -> str:
    gone = remove_stale(store)
    if not gone:
        return "left the locks: a git has begun to work"
    return f"removed {', '.join(map(str, gone))}"
