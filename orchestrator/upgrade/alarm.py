"""A deadline for author code that runs on the event loop, where one endless loop would stop the whole service.

A timer signal raises `Overrun` in the main thread while, and only while, the guarded block runs (DESIGN §7.5). One
system call; no thread has to be woken inside the pause.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Generic, TypeVar

from orchestrator.runtime.errors import Overrun

T = TypeVar("T")
AGAIN_S = 0.05  # author code that swallows the first Overrun gets another


@contextmanager
def interrupt_after(seconds: float, *, patient: bool = False) -> Iterator[None]:
    """Raise Overrun inside the block once it has run for `seconds`. Outside the main thread it does nothing.

    `patient`: once more before it does. A process that was stopped is not at fault for the time, and goes on at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    armed, patience = True, patient

    def ring(_number: int, _frame: FrameType | None) -> None:
        nonlocal patience
        if patience:
            patience = False
        elif armed:  # a signal that was on its way when the block ended must not hit what follows
            raise Overrun(f"interrupted after {seconds * 1000:g} ms")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stepwise(Generic[T]):
    """Awaits a coroutine and raises Overrun in it when one step, from an await to the next, takes `seconds`.

    They may be asked for at each step.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        seconds: float | Callable[[], float],
        *,
        patient: bool = False,
    ) -> None:
        self._coroutine = coroutine
        self._seconds = seconds
        self._patient = patient

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)  # Any: what a future yields to its task
        while True:
            try:
                seconds = self._seconds() if callable(self._seconds) else self._seconds
                with interrupt_after(seconds, patient=self._patient):
                    waited_for = step()
            except StopIteration as done:
                value: T = done.value
                return value
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001  # a cancellation is the coroutine's to answer
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)


async def stepwise(
    coroutine: Coroutine[Any, Any, T], seconds: float | Callable[[], float], *, patient: bool = False
) -> T:
    """Run the coroutine; no step of it can hold the event loop for longer than `seconds`. Raises Overrun."""
    return await Stepwise(coroutine, seconds, patient=patient)
