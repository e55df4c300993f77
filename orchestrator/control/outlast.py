"""The host's event loop outlasts what its callbacks raise.

asyncio lets SystemExit and KeyboardInterrupt out of the loop, for tasks and callbacks alike. A module's tasks are guarded
(`orchestrator.runtime.guard`); what it gives to `call_later()`, `add_reader()` and the like runs bare. A release with
`call_later(1, sys.exit)` would so end the host in good order, state saved and all, at each start, and nothing would accuse it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from loguru import logger

from orchestrator.control.pools import Pools
from orchestrator.runtime.errors import error_text

T = TypeVar("T")


def run_to_its_end(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new event loop, as `asyncio.run` does, but only its own end ends it.

    What a callback raises to end the process is logged with its trace, and the loop goes on with the next callback. (Of two
    that do so in one turn, uvloop tells the last.)
    """
    loop, pools = new_loop(), Pools()
    loop.set_default_executor(pools)
    try:
        asyncio.set_event_loop(loop)
        return _outlast(loop, loop.create_task(main))
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            pools.shutdown(wait=False, cancel_futures=True)  # a module's may never end: nobody waits here
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, if it is installed (`livetag[uvloop]`): messages cost less. Else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _outlast(loop: asyncio.AbstractEventLoop, task: asyncio.Future[T]) -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logger.opt(exception=error).error(
                "a callback on the event loop raised {}. The host goes on: only SIGTERM and livetag restart end it. The trace "
                "says whose callback it was, unless sys.exit itself was what was called back",
                error_text(error),
            )


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        with suppress(
            SystemExit, KeyboardInterrupt
        ):  # of a task that nobody guards: the process ends in any case
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {"message": "a task failed while the host ended", "exception": task.exception(), "task": task}
            )
