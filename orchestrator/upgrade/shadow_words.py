"""Which releases are shadowed, and what is said of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.records import Change
from repo_store.manifest import Shadow

SERVED = frozenset({"committed", "reverted", "unchanged"})


def served_before(ledger: Ledger, change: Change) -> bool:
    """Whether this release of the module has been in service: then it is a way back, which no shadow may hold up."""
    after = change.after
    return after is not None and any(
        view.outcome in SERVED
        and any(
            c.after is not None
            and (c.name, c.after.package, c.after.tree_id) == (change.name, after.package, after.tree_id)
            for c in view.changes
        )
        for view in ledger.transactions.values()
    )


def why_not(change: Change, ledger: Ledger, *, host: bool) -> str:
    """Why a release that asks for a shadow gets none; empty: it does. `host`: whether its host shadows at all."""
    if change.before is None:
        return "nothing of it is in service yet, with which it could be compared"
    if not change.before.enabled:
        return f"{change.name} is out of service and handles nothing"
    if not host:
        return "livetag.toml of this host says shadow = false"
    if served_before(ledger, change):
        return "it has been in service before, and a way back may differ from what it takes back"
    return ""


def to_come(change: Change, shadow: Shadow) -> str:
    """What a plan says of a shadow."""
    before = change.before.version if change.before is not None else "the version in service"
    return (
        f"first handles {_messages(shadow.messages)} beside {before}, unheard; {_may_differ(shadow.max_mismatch)}. Waits up to "
        f"{shadow.seconds:g} s for them"
    )


def _may_differ(count: int) -> str:
    return f"{count} may differ" if count else "none may differ"


def _messages(count: int) -> str:
    return f"{count} live message{'s' if count != 1 else ''}"


def begun(name: str, shadow: Shadow) -> str:
    """A shadow begins."""
    return f"{name}: shadowing {_messages(shadow.messages)}, for up to {shadow.seconds:g} s"


def passed(name: str, handled: int, differ: int, figures: str) -> str:
    """A shadow has been what it was to be."""
    return f"{name}: shadowed {_messages(handled).replace('live ', '')}, {differ} differ{'s' if differ == 1 else ''}; {figures}"


def took(times_s: Sequence[Sequence[float]], before: str, after: str) -> str:
    """How long both took for the same messages: `1.1.0 takes 4 µs, p99 9 µs (1.0.0: 3 µs, p99 8 µs)`."""
    old, new = (f"{_at(t, 0.5)}, p99 {_at(t, 0.99)}" if t else "" for t in times_s)
    return f"{after} takes {new} ({before}: {old})" if new else f"{before} takes {old or 'no time'} for each"


def _at(times_s: Iterable[float], share: float) -> str:
    ordered = sorted(times_s)
    us = ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"


def differs(before: str, differ: int, handled: int, shadow: Shadow, first: str) -> str:
    """It handles messages in another way."""
    what = "1 message" if differ == 1 else f"{differ} messages"
    return (
        f"it differs from {before} on {what} of {handled} (shadow.max_mismatch = {shadow.max_mismatch}). The first: {first}. If "
        "that is meant, raise max_mismatch, or take [shadow] out"
    )


def too_few(recorded: int, shadow: Shadow) -> str:
    """There was not enough to compare."""
    return (
        f"too few messages for its shadow: {recorded} of {shadow.messages} in {shadow.seconds:g} s, and no measurement is no "
        "pass. Lower shadow.messages in module.toml, or send traffic"
    )


def too_slow(handled: int, recorded: int, shadow: Shadow, figures: str) -> str:
    """It could not keep up."""
    return (
        f"its shadow could not keep up: it has handled {handled} of {recorded} messages, of {shadow.messages} to be handled in "
        f"{shadow.seconds:g} s; {figures}"
    )
