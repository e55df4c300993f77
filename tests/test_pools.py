"""The threads of a host's loop: modules' code can fill its own, and keeps neither own work nor the end waiting."""

from __future__ import annotations

import asyncio
import threading

from orchestrator.control.outlast import run_to_its_end
from orchestrator.control.pools import threads_left
from orchestrator.runtime.own_work import in_own_thread

FAR_TOO_MANY = 200


def test_own_work_is_done_while_the_threads_of_modules_are_taken() -> None:
    over = threading.Event()

    async def main() -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        for _ in range(FAR_TOO_MANY):
            loop.run_in_executor(None, over.wait)
        own = await asyncio.wait_for(in_own_thread(lambda: threading.current_thread().name), 20)
        over.set()
        return own, await asyncio.to_thread(lambda: threading.current_thread().name)

    own, modules = run_to_its_end(main())
    assert (own.rpartition("_")[0], modules.rpartition("_")[0]) == ("livetag-work", "asyncio")
    assert threads_left(20.0) == []


def test_a_call_that_does_not_return_is_named_and_keeps_nobody_waiting() -> None:
    over = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, over.wait)

    try:
        run_to_its_end(main())
        assert threads_left(0.01) == ["asyncio_0"]
    finally:
        over.set()
    assert threads_left(20.0) == []
