"""Failures of the moment: what is tried again, and when (DESIGN §4: after 1, 10 and 60 s, then quarantine).

What brings no code has nothing that could be put in quarantine. If it fails for what a module is (its state, its
prepare()), it then rests until a plan asks for something else; if only for the moment, it is tried on every 60 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.plan import Group

DELAYS_S = (1.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Attempt:
    failures: int
    due: float
    reason: str
    keys: tuple[Key, ...]


Changed = tuple[Key, ...] | tuple[str, ...]


def _of(group: Group) -> Changed:
    """What a group is known by: its releases, or, where it has none, what its changes lead to."""
    return group.keys or tuple(f"{change.name}: {change.after}" for change in group.changes)


class Retries:
    """How often each group failed for a reason of the moment. Times are the injected clock's seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._attempts: dict[Changed, _Attempt] = {}

    def failed(self, group: Group, reason: str, fault: Fault = "moment") -> float | None:
        """Count a failure; returns the seconds until the next try, None if there is none: quarantine it, if it has keys."""
        before = self._attempts.get(_of(group))
        failures = before.failures + 1 if before is not None else 1
        if failures <= len(DELAYS_S) or (not group.keys and fault == "moment"):
            delay = DELAYS_S[min(failures, len(DELAYS_S)) - 1]
        elif group.keys:
            self._attempts.pop(group.keys, None)
            return None
        else:
            delay = math.inf
        self._attempts[_of(group)] = _Attempt(failures, self._now() + delay, reason, group.keys)
        return delay if delay < math.inf else None

    def due(self, group: Group) -> bool:
        """Whether the group may be tried now."""
        attempt = self._attempts.get(_of(group))
        return attempt is None or attempt.due <= self._now()

    def all_pending(self) -> dict[Key, str]:
        """Releases that wait for another try, and why the last one failed."""
        return {key: attempt.reason for attempt in self._attempts.values() for key in attempt.keys}

    def forget(self, group: Group) -> None:
        self._attempts.pop(_of(group), None)

    def keep_only(self, groups: Iterable[Group]) -> None:
        """Forget what is no longer wished for."""
        wished = {_of(group) for group in groups}
        for left in [each for each in self._attempts if each not in wished]:
            del self._attempts[left]

    @property
    def next_due(self) -> float | None:
        return min((a.due for a in self._attempts.values() if a.due < math.inf), default=None)
