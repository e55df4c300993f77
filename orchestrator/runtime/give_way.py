"""Giving way: a saturated event loop lets the process's threads have the interpreter (DESIGN §8, traps).

A busy loop asks for new I/O in every turn, and so lets go of the interpreter for a microsecond, thousands of times a
second. A waiting thread is woken each time and comes too late each time; and because it was woken it never waits out the
switch interval, after which the interpreter would have to be handed over. So a thread that talks to Git, which needs the
interpreter some thousand times, could be kept waiting for half a minute (measured: pushes of 0.5 s took 0.5 to 30 s).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PERIOD_S = 0.001
WINDOW_S = 0.00005


@asynccontextmanager
async def giving_way() -> AsyncIterator[None]:
    """While the block runs, let threads in once per millisecond; costs the loop about a tenth of its time."""
    giving = asyncio.get_running_loop().create_task(_give_way(), name="give way")
    try:
        yield
    finally:
        giving.cancel()


async def _give_way() -> None:
    while True:
        await asyncio.sleep(PERIOD_S)
        time.sleep(WINDOW_S)  # noqa: ASYNC251  # to stop the loop is what it is for: only so is it a thread's turn
