"""The event loop of a side of ours: as a host has it, or asyncio's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator.control import outlast
from orchestrator.control.host import SWITCH_INTERVAL_S
from tests.benchmarks.peers.answer import Measured

Work = Callable[..., Coroutine[Any, Any, Measured]]  # Any: of the coroutine's inside


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """`kind`: host or asyncio."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return outlast.new_loop() if kind == "host" else asyncio.new_event_loop()


def on(loop: asyncio.AbstractEventLoop, work: Work) -> Callable[..., Measured]:
    """A measure that runs on the loop, which keeps what it has between two of them."""
    return lambda *words: loop.run_until_complete(work(*words))
