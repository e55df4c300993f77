"""The threads of a host's event loop: some for the code of modules, and others for the framework's own work.

What modules give to `asyncio.to_thread()` may not return for hours, or ever. It keeps no upgrade waiting, and not the end
of the host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from orchestrator.runtime.own_work import OwnWork

T = TypeVar("T")
OWN_THREADS = 8


class Pools(ThreadPoolExecutor):
    """An event loop's default executor: for modules as large as asyncio's, and a second one for own work."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._own = ThreadPoolExecutor(OWN_THREADS, thread_name_prefix="livetag-work")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if isinstance(fn, OwnWork):
            return self._own.submit(fn, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._own.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)


def threads_left(within_s: float) -> list[str]:
    """The names of threads that would keep the process from its end, and have not ended in so many seconds. Blocks."""
    until = time.monotonic() + within_s
    others = [
        each for each in threading.enumerate() if not each.daemon and each is not threading.current_thread()
    ]
    for thread in others:
        thread.join(max(0.0, until - time.monotonic()))
    return sorted(thread.name for thread in others if thread.is_alive())
