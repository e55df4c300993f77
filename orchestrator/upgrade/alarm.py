"""A deadline for synchronous author code in the switch: the only code that runs while the service is paused.

A timer signal raises `Overrun` in the main thread while, and only while, the guarded block runs (DESIGN §7.5). One
system call; no thread has to be woken inside the pause.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.runtime.errors import Overrun

AGAIN_S = 0.05  # author code that swallows the first Overrun gets another


@contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    """Raise Overrun inside the block once it has run for `seconds`. Outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if armed:  # a signal that was on its way when the block ended must not hit what follows
            raise Overrun(f"interrupted after {seconds * 1000:g} ms")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
