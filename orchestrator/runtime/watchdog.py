"""The watchdog: finds a handler that does not return, and interrupts it (DESIGN §7, "a handler that does not return").

A thread asks the event loop for a sign of life. If none comes for `stall_s`, it sends a signal to the main thread, whose
handler raises `Stalled` there, but only if author code of a unit is on the stack, and of the same unit as a quarter of
the time before: a process that was stopped and goes on, or a unit that has just begun, is never hit.
C code cannot be stopped this way; then it is said who holds the loop.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from types import FrameType

from loguru import logger

from orchestrator.runtime.errors import Stalled
from orchestrator.runtime.message import Message
from orchestrator.runtime.pump import Pump

SIGNAL = signal.SIGUSR2
LOOKS = 4  # per stall_s

_UNITS = frozenset({Pump._unit.__code__, Pump.answer_at_once.__code__})  # noqa: SLF001  # where units run


class Watchdog:
    """Watches the running event loop of the main thread. Elsewhere it does nothing: only there a signal arrives."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._alive_at = time.monotonic()
        self._suspect: Message | None = None  # the unit that was on the stack at the last look
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(SIGNAL, self._look)
        self._thread = threading.Thread(target=self._watch, name="livetag-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and give the signal back."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        signal.signal(SIGNAL, signal.SIG_IGN)  # one may still be on its way

    def _watch(self) -> None:
        main = threading.main_thread().ident
        said = False
        while not self._ended.wait(self._stall_s / LOOKS):
            try:
                self._loop.call_soon_threadsafe(self._alive)
            except RuntimeError:  # the loop is closed
                return
            late_s = time.monotonic() - self._alive_at
            if late_s < self._stall_s * (LOOKS - 1) / LOOKS or main is None:
                said = False
                continue
            signal.pthread_kill(main, SIGNAL)
            if late_s > 3 * self._stall_s and not said:
                said = True
                logger.critical(
                    "the event loop has not turned for {:.0f} s: {}", late_s, where_it_stands(main)
                )

    def _alive(self) -> None:
        self._alive_at = time.monotonic()
        self._suspect = None

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """Interrupt, in the main thread, the unit whose author code runs now, if it was here at the last look too."""
        message = _unit_on_stack(frame)
        suspect, self._suspect = self._suspect, message
        late_s = time.monotonic() - self._alive_at
        if message is not None and message is suspect and late_s >= self._stall_s:
            self._suspect = None
            raise Stalled(
                f"it did not return for {late_s:.1f} s (stall_s = {self._stall_s:g}) and was interrupted"
            )


def _unit_on_stack(frame: FrameType | None) -> Message | None:
    """The message of the innermost unit whose author code runs now; None if the framework's own code does."""
    inner: FrameType | None = None
    while frame is not None:
        if frame.f_code in _UNITS:
            authors = inner is not None and not str(inner.f_globals.get("__name__")).startswith(
                "orchestrator."
            )
            message = frame.f_locals.get("message")
            return message if authors and isinstance(message, Message) else None
        inner, frame = frame, frame.f_back
    return None


def where_it_stands(thread: int) -> str:
    """The line at which a thread is, for a report: `counter/__init__.py line 12 in tick`."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # the only way to see another thread
    if frame is None:
        return "at no line that can be seen"
    return f"at {frame.f_code.co_filename} line {frame.f_lineno} in {frame.f_code.co_name}"
