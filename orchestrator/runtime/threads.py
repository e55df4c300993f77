"""Threads for handlers marked `thread=True` (DESIGN §5): the event loop is free while one works.

A thread that never returns cannot be stopped. So these are daemon threads, which keep neither the next unit of another
module nor the end of the process waiting. There are as many as units under way in threads, so at most one a module, and
some that wait for the next.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

KEPT = 8  # idle threads that wait for work
IDLE_S = 10.0  # for so long


class ThreadCall:
    """One call under way in a thread. `ident` is the thread's, None until it has begun."""

    __slots__ = (
        "_arguments",
        "_context",
        "_error",
        "_function",
        "_loop",
        "_result",
        "ended",
        "ident",
        "name",
    )

    def __init__(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._function: Callable[..., Any] | None = function
        self._arguments = arguments
        self._context = contextvars.copy_context()
        self._result: Any = None
        self._error: BaseException | None = None
        self.name = name
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.ident: int | None = None

    def run(self) -> None:
        """In the thread. Whatever the function raises is its outcome."""
        self.ident = threading.get_ident()
        function, arguments = self._function, self._arguments
        self._function, self._arguments = None, ()
        try:
            self._result = self._context.run(function, *arguments)  # type: ignore[arg-type]  # run once
        except BaseException as error:  # noqa: BLE001  # SystemExit in a thread is a handler's failure, too
            self._error = error
        finally:
            self.ident = None
            with suppress(RuntimeError):  # the loop is closed: the host has stopped without it
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def on_loop(self, begin: Callable[[], asyncio.Future[Any]]) -> Any:
        """In the thread: what comes of a task that `begin` starts on the event loop. Waits for it."""
        waiting: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(_answer, waiting, begin)
        try:
            return waiting.result()
        finally:
            del waiting  # what it raises holds this frame, and the version's that asked

    async def out_of_the_framework(self, seconds: float) -> None:
        """Return when the thread's code is in no send, write to a Table or the like any more, or after `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while _in_the_framework(self.ident) and loop.time() < until:  # noqa: ASYNC110  # it does not say when
            await asyncio.sleep(0.001)

    def outcome(self) -> Any:
        """What the function returned, or raise what it raised. Only after `ended`."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._result
        finally:
            del error  # it holds this frame: a circle that would hold the version, too


def _in_the_framework(ident: int | None) -> bool:
    frame = sys._current_frames().get(ident) if ident is not None else None  # noqa: SLF001  # no other way to see one
    while frame is not None and frame.f_code is not ThreadCall.run.__code__:
        if str(frame.f_globals.get("__name__")).startswith("orchestrator."):
            return True
        frame = frame.f_back
    return False


def _answer(waiting: concurrent.futures.Future[Any], begin: Callable[[], asyncio.Future[Any]]) -> None:
    def pass_on(task: asyncio.Future[Any]) -> None:
        if task.cancelled():
            waiting.cancel()
        elif (error := task.exception()) is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(task.result())

    begin().add_done_callback(pass_on)


class Threads:
    """Takes calls to threads. Used on the event loop only."""

    __slots__ = ("_idle", "_lock")

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()  # between the loop and threads that leave because nothing came

    def begin(self, call: ThreadCall) -> None:
        """Begin the call in a thread that is idle, or in a new one: it may run before this returns."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self)
        worker.jobs.put(call)

    def keep(self, worker: _Worker) -> bool:
        """May the thread wait for more work? False: there are enough."""
        with self._lock:
            if len(self._idle) >= KEPT:
                return False
            self._idle.append(worker)
            return True

    def dismiss(self, worker: _Worker) -> bool:
        """May the thread end? False: work is on its way to it."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


class _Worker:
    def __init__(self, threads: Threads) -> None:
        self.jobs: queue.SimpleQueue[ThreadCall] = queue.SimpleQueue()
        self._threads = threads
        threading.Thread(target=self._work, name="livetag-handler", daemon=True).start()

    def _work(self) -> None:
        thread = threading.current_thread()
        while True:
            try:
                call = self.jobs.get(timeout=IDLE_S)
            except queue.Empty:
                if self._threads.dismiss(self):
                    return
                continue
            thread.name = call.name
            call.run()
            del call  # the version that it ran must not be held by a thread that waits
            thread.name = "livetag-handler"
            if not self._threads.keep(self):
                return
