"""An event loop whose time is a number: nothing sleeps, a timer's moment is jumped to, and the seed says what is late."""

from __future__ import annotations

import asyncio
import heapq
import inspect
import random
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from types import SimpleNamespace
from typing import Any

from orchestrator.runtime.own_work import OwnWork
from orchestrator.runtime.retirement import Remains

LATE_S = 0.0005  # a timer may fire so much after its time; so timers of one moment come in any order
TICK_S = 0.000_001  # each look at the clock costs so much: what is bounded by time ends, in virtual time too


class Deadlock(Exception):
    """Nothing is scheduled, and what was waited for has not come."""


class Endless(Exception):
    """More turns of the loop than a life may have."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks as asyncio does; only time, and what runs beside the loop, are its own."""

    def __init__(self, rng: random.Random, start_s: float, turns_max: int) -> None:
        super().__init__()
        self._now = start_s
        self._rng = rng
        self._clock_resolution = 1e-9
        self._turns_left = turns_max
        self.dead = False  # the process was killed: not one more callback
        self.errors: list[str] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def perf_counter(self) -> float:
        """As of `time`: time passes by being looked at."""
        self._now += TICK_S
        return self._now

    def pass_time(self, seconds: float) -> None:
        """The machine is busy for so long."""
        self._now += seconds

    def _run_once(self) -> None:
        """One turn, as asyncio's own; but instead of waiting it jumps to the next timer."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._turns_left -= 1
        if self._turns_left < 0:
            raise Endless("the world does not come to rest")
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise Deadlock("nothing is scheduled, and somebody waits")
            self._now = max(self._now, timers[0].when())
        while timers and timers[0].when() <= self._now:
            ready.append(heapq.heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
                if self.dead:
                    return

    def _write_to_self(self) -> None:
        """Nobody calls from another thread while we wait."""

    def call_at(  # type: ignore[override]  # typeshed's names for the arguments' types are of 3.11
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        late = self._rng.random() * LATE_S
        return super().call_at(when + late, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # a thread's work is done here, after a while
        self, _executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.create_future()
        if (
            isinstance(func, OwnWork) and func.function is Remains
        ):  # it walks the heap for all that is of a version, which is the business of other tests
            func, args = SimpleNamespace, ()

        def work() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:  # noqa: BLE001  # it goes to the one who waits
                done.set_exception(error)

        self.call_later(self._rng.random() * 0.01, work)
        return done

    def live_until(self, over: Callable[[], bool]) -> None:
        """Turn until `over` says so, or the process was killed. Raises Deadlock, Endless."""
        asyncio.events._set_running_loop(self)
        try:
            while not self.dead and not over():
                self._run_once()
        finally:
            asyncio.events._set_running_loop(None)

    def throw_away(self) -> None:
        """End as a killed process does: no task hears of it."""
        self.dead = True
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        asyncio.events._set_running_loop(self)  # what a coroutine's `finally` asks for
        try:
            closed: set[asyncio.Task[Any]] = set()
            while left := asyncio.all_tasks(self) - closed:  # a `finally` may start one more
                closed |= left
                for task in left:
                    _close(task)
        finally:
            asyncio.events._set_running_loop(None)
        self._ready.clear()  # type: ignore[attr-defined]
        self.close()

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {type(error).__name__}: {error}")


def _close(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with (
        suppress(BaseException),
        warnings.catch_warnings(),
    ):  # a dead process raises nothing, and warns of nothing
        warnings.simplefilter("ignore")
        _close_given(task.get_coro())


def _close_given(coroutine: Any) -> None:
    """Close a coroutine, and those it was given: one that never ran keeps them (from Python 3.12 on) until it is freed."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for given in inspect.getcoroutinelocals(coroutine).values():
            if inspect.iscoroutine(given):
                _close_given(given)
    coroutine.close()


class VirtualClock:
    """The clock of one application in a world: the loop's time, and a time of day that goes with it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.now: Callable[[], float] = loop.time

    def wall(self) -> float:
        return 1_000_000.0 + self._loop.time()

    def call_at(self, when_s: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self._loop.call_at(when_s, callback)
