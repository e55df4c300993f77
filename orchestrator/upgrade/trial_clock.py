"""How long a step takes by itself, on however busy a machine: what a trial measures a migration with.

A trial runs beside the service and other trials. What a busy machine adds is not the release's: the time that the thread
stood in the queue for a processor is taken off, and of several runs the shortest counts. A switch on a busy machine may
take longer than was measured so; it is measured again, and then the clock on the wall counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from orchestrator.runtime.collecting import no_collection

T = TypeVar("T")
RUNS_MAX = 4
RUNS_S = 1.0  # no further run is begun after it

_SCHEDSTAT = "/proc/thread-self/schedstat"  # nanoseconds on a processor, nanoseconds in the queue, turns


def timed(work: Callable[[], T], enough_s: float) -> tuple[T, float]:
    """What `work` returned, and its seconds; run again while that is over `enough_s`, as it might have been a bad moment."""
    began = perf_counter()
    result, best_s = _once(work)
    for _ in range(RUNS_MAX - 1):
        if best_s <= enough_s or perf_counter() - began > RUNS_S:
            break
        result, took_s = _once(work)
        best_s = min(best_s, took_s)
    return result, best_s


def _once(work: Callable[[], T]) -> tuple[T, float]:
    with no_collection():  # as in the switch
        # In this order: it may stand in the queue between two clocks, too, and no more is to be taken off than was counted.
        began, queued = perf_counter(), _queued_s()
        result = work()
        in_queue_s = _queued_s() - queued
        return result, perf_counter() - began - in_queue_s


def _queued_s() -> float:
    """How long this thread has stood in the queue for a processor; 0 where the kernel does not say."""
    try:
        file = os.open(_SCHEDSTAT, os.O_RDONLY)
    except OSError:
        return 0.0
    try:
        return int(os.read(file, 100).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
    finally:
        os.close(file)
