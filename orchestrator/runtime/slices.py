"""Long work that leaves the event loop free: a generator that yields often, run to its end at once or in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")
SLICE_S = 0.0005
SHORT_S = 0.00005  # of little work, beside which nobody is to notice anything


async def in_slices(work: Generator[None, None, T], slice_s: float = SLICE_S) -> T:
    """What `work` returns. The event loop turns after `slice_s` seconds of it, if `work` yields that often."""
    end = perf_counter() + slice_s
    while True:
        try:
            next(work)
        except StopIteration as done:
            value: T = done.value
            return value
        if perf_counter() >= end:
            await asyncio.sleep(0)
            end = perf_counter() + slice_s


def at_once(work: Generator[None, None, T]) -> T:
    """What `work` returns; blocks."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            value: T = done.value
            return value
