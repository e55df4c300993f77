"""Time as a thing that is passed in: deadlines come from here, so a test can own them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from orchestrator.runtime.errors import ModuleError

T = TypeVar("T")


class Timer(Protocol):
    """A scheduled call that can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Seconds that only grow (`now`), the time of day (`wall`), and calls at a given `now`."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer: ...


class LoopClock:
    """The clock of the running event loop."""

    __slots__ = ("_loop", "now", "wall")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self.wall: Callable[[], float] = time.time  # each message asks: no call of ours around it

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_at(when_s, callback)


async def sleep_until(clock: Clock, when_s: float) -> None:
    """Return once `clock.now()` has reached `when_s`."""
    reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reach() -> None:
        if not reached.done():
            reached.set_result(None)

    timer = clock.call_at(when_s, reach)
    try:
        await reached
    finally:
        timer.cancel()


async def within(clock: Clock, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """What `work` returns or raises, if it ends within `seconds`.

    Raises ModuleError if it ends by a CancelledError or GeneratorExit of its own, TimeoutError if it does not end: the work is
    cancelled, but not waited for, since author code may swallow that.
    """
    task = asyncio.get_running_loop().create_task(work)
    over = asyncio.get_running_loop().create_task(sleep_until(clock, clock.now() + seconds))
    try:
        await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
        if task.cancelled():  # by itself: a caller who is cancelled does not come here
            raise ModuleError("the author's code raised CancelledError")
        if task.done():
            if isinstance(
                error := task.exception(), GeneratorExit
            ):  # here it would be taken for the end of the caller
                raise ModuleError("the author's code raised GeneratorExit") from error
            return task.result()
        raise TimeoutError(f"not done in {seconds:g} s")
    finally:
        over.cancel()
        task.add_done_callback(
            look_away
        )  # done already, if the caller was cancelled in the turn in which it ended
        task.cancel()


def look_away(work: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; what it raises now is not an error that was forgotten."""
    if not work.cancelled():
        work.exception()
