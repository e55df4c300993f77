"""Time in a test: it passes when the test says so."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable

from orchestrator.runtime.clock import Timer

WALL_S = 1_000_000_000.0  # the time of day at which a test begins


class FakeClock:
    """A clock that stands until the test advances it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return WALL_S + self._now

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (when_s, next(self._order), timer))
        return timer

    async def advance(self, seconds: float, settle: Callable[[], Awaitable[None]]) -> None:
        """Let time pass: each timer rings at its own time, and what it starts ends before the next."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when_s, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when_s)
            timer.ring()
            await settle()
        self._now = end


class _FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def ring(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
