"""Ticks of `@every`: due times that are kept over a swap and never pile up (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.runtime.clock import Clock, Timer


class Timers:
    """Calls `fire(name)` once per period for each named timer, on the injected clock."""

    __slots__ = ("_clock", "_due", "_fire", "_period_s", "_timers")

    def __init__(self, clock: Clock, fire: Callable[[str], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._period_s: Mapping[str, float] = {}
        self._due: dict[str, float] = {}
        self._timers: dict[str, Timer] = {}

    def set(self, period_s: Mapping[str, float]) -> None:
        """Run exactly these timers; one that ran before under the same name and period keeps its due time."""
        kept = {n: self._due[n] for n, s in period_s.items() if self._period_s.get(n) == s and n in self._due}
        self.stop()
        self._period_s = dict(period_s)
        for name, seconds in period_s.items():
            self._schedule(name, kept.get(name, self._clock.now() + seconds))

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers, self._due, self._period_s = {}, {}, {}

    def _schedule(self, name: str, due: float) -> None:
        self._due[name] = due
        self._timers[name] = self._clock.call_at(due, lambda: self._tick(name))

    def _tick(self, name: str) -> None:
        period_s, now = self._period_s[name], self._clock.now()
        missed = int(
            (now - self._due[name]) / period_s
        )  # a late loop skips periods, it does not make them up
        self._schedule(name, self._due[name] + (missed + 1) * period_s)
        self._fire(name)
