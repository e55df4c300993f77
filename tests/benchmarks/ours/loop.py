"""The event loop of a side of ours: as a host runs, on uvloop if it is installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator.control.host import SWITCH_INTERVAL_S
from tests.benchmarks.peers.answer import Measured

Work = Callable[..., Coroutine[Any, Any, Measured]]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """`kind`: asyncio, or uvloop if it is there."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if kind == "uvloop":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            made: asyncio.AbstractEventLoop = uvloop.new_event_loop()  # Any where it is not installed
            return made
    return asyncio.new_event_loop()


def on(loop: asyncio.AbstractEventLoop, work: Work) -> Callable[..., Measured]:
    """A measure that runs on the loop, which keeps what it has between two of them."""
    return lambda *words: loop.run_until_complete(work(*words))
