"""Failures of the moment: what is tried again, and when (DESIGN §4: after 1, 10 and 60 s, then quarantine)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.plan import Group

DELAYS_S = (1.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Attempt:
    failures: int
    due: float
    reason: str


class Retries:
    """How often each group failed for a reason of the moment. Times are the injected clock's seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._attempts: dict[tuple[Key, ...], _Attempt] = {}

    def failed(self, group: Group, reason: str) -> float | None:
        """Count a failure; returns the seconds until the next try, None if there is none: quarantine it."""
        before = self._attempts.get(group.keys)
        failures = before.failures + 1 if before is not None else 1
        if failures > len(DELAYS_S):
            self._attempts.pop(group.keys, None)
            return None
        delay = DELAYS_S[failures - 1]
        self._attempts[group.keys] = _Attempt(failures, self._now() + delay, reason)
        return delay

    def due(self, group: Group) -> bool:
        """Whether the group may be tried now."""
        attempt = self._attempts.get(group.keys)
        return attempt is None or attempt.due <= self._now()

    def all_pending(self) -> dict[Key, str]:
        """Releases that wait for another try, and why the last one failed."""
        return {key: attempt.reason for keys, attempt in self._attempts.items() for key in keys}

    def forget(self, group: Group) -> None:
        self._attempts.pop(group.keys, None)

    def keep_only(self, groups: set[tuple[Key, ...]]) -> None:
        """Forget what is no longer wished for."""
        for keys in [k for k in self._attempts if k not in groups]:
            del self._attempts[keys]

    @property
    def next_due(self) -> float | None:
        return min((a.due for a in self._attempts.values()), default=None)
