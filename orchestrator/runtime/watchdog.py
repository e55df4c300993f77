"""The watchdog: finds author code that does not return, and interrupts it (DESIGN §7, "a handler that does not return").

A thread asks the event loop for a sign of life. If none comes for `stall_s`, it sends a signal to the main thread, whose
handler raises `Stalled` there, but only if author code that the framework called is on the stack, and the same call as a
quarter of the time before: a process that was stopped and goes on, or a unit that has just begun, is never hit.
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

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import Stalled
from orchestrator.runtime.guard import Guarded
from orchestrator.runtime.places import place_on_stack
from orchestrator.runtime.pump import Pump
from orchestrator.runtime.reader import Reader
from orchestrator.runtime.table_store import TableStore
from orchestrator.runtime.upcasts import Upcasting
from orchestrator.runtime.whose import unit_on_stack

SIGNAL = signal.SIGUSR2
LOOKS = 4  # per stall_s

#: Where the framework calls author code, and answers for whatever it raises: units, their tasks, intakes.
_CALLS = frozenset(
    {
        Pump._unit.__code__,  # noqa: SLF001
        Pump.answer_at_once.__code__,
        Guarded.send.__code__,
        Guarded.throw.__code__,
        Reader._run.__code__,  # noqa: SLF001
        Upcasting._walk.__code__,  # noqa: SLF001
    }
)
#: The same with code of the framework's between: a record that the sweep takes up.
_CALLS_FAR = frozenset({TableStore.bring_up_swept.__code__})


class Watchdog:
    """Watches the running event loop of the main thread, and units that are long under way.

    Elsewhere than in the main thread it interrupts nothing: only there a signal arrives.
    """

    def __init__(self, stall_s: float, app: Application) -> None:
        self._stall_s = stall_s
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._alive_at = time.monotonic()
        self._suspect: FrameType | None = (
            None  # the call of author code that was on the stack at the last look
        )
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
                    "the event loop has not turned for {:.0f} s, and no module works: {}",
                    late_s,
                    who_holds(main),
                )

    def _alive(self) -> None:
        self._alive_at = time.monotonic()
        self._suspect = None
        self._app.overdue.look(self._stall_s)

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """Interrupt, in the main thread, the author code that runs now, if it was here at the last look too."""
        call = _call_on_stack(frame)
        suspect, self._suspect = self._suspect, call
        late_s = time.monotonic() - self._alive_at
        if call is not None and call is suspect and late_s >= self._stall_s:
            self._suspect = None
            raise Stalled(
                f"it did not return for {late_s:.1f} s (stall_s = {self._stall_s:g}) and was interrupted"
            )


def _call_on_stack(frame: FrameType | None) -> FrameType | None:
    """The frame of the framework's innermost call of author code that runs now; None if the framework's own code does."""
    inner: FrameType | None = None
    author_code = False
    while frame is not None:
        if frame.f_code in _CALLS:
            return frame if inner is not None and not _is_frameworks(inner) else None
        if frame.f_code in _CALLS_FAR:
            return frame if author_code else None
        author_code = author_code or not _is_frameworks(frame)
        inner, frame = frame, frame.f_back
    return None


def _is_frameworks(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("orchestrator.")


def who_holds(thread: int) -> str:
    """The unit and the line at which a thread is, for a report: `counter in 'tick' at counter/__init__.py line 12 in tick`."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # the only way to see another thread
    unit = unit_on_stack(frame)
    if unit is None:
        return f"at {place_on_stack(frame, None)}"
    implementation = unit.proxy.implementation
    loaded = implementation.loaded if implementation is not None else None
    return (
        f"{unit.proxy.name} in {unit.message.type!r} at {place_on_stack(frame, loaded)}. Code in C cannot be interrupted; "
        "if it does not return, kill the host"
    )
