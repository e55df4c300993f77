"""The framework's own work in threads: never behind what a module's code has given to `asyncio.to_thread()`.

That goes to the event loop's executor, which has some six threads. A module that gives it calls which do not return would
keep every trial and import waiting, and the end of the host. So a host's executor has threads for own work (see
`orchestrator.control.pools`), and knows it by its class; any other loop runs it like any call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnWork:
    """A function of the framework's, as the executor is given it."""

    function: Callable[..., Any]  # Any: what `in_own_thread` returns, typed

    def __call__(self, *arguments: object) -> Any:
        return self.function(*arguments)


async def in_own_thread(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns or raises, called in a thread. It must come to an end by itself."""
    found: T = await asyncio.get_running_loop().run_in_executor(None, OwnWork(function), *arguments)
    return found
