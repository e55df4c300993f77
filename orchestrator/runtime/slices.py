"""Long work that leaves the event loop free: a generator that yields often, run to its end in slices or in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

from orchestrator.runtime.at_once import Steps

T = TypeVar("T")
SLICE_S = 0.0005


async def in_slices(work: Generator[None, None, T]) -> T:
    """What `work` returns. The event loop turns at least once per millisecond, if `work` yields that often."""
    steps, end = Steps(work), perf_counter() + SLICE_S
    for _ in steps:
        if perf_counter() >= end:
            await asyncio.sleep(0)
            end = perf_counter() + SLICE_S
    return steps.value


async def in_turns(work: Generator[None, None, T]) -> T:
    """What `work` returns. The event loop turns at each of its yields: short steps, which no clock makes others."""
    steps = Steps(work)
    for _ in steps:
        await asyncio.sleep(0)
    return steps.value
