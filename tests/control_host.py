"""A real control server in a thread with its own loop, for tests that need somebody to answer."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.control.server import ControlServer, Operation

START_S = 10.0


@contextmanager
def serving(
    path: Path, operations: Mapping[str, Operation], make: Callable[..., ControlServer] = ControlServer
) -> Iterator[ControlServer]:
    """Serve `operations` at `path` inside the block; `make` may set the server's limits."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    server = make(path, operations)
    failures: list[BaseException] = []

    async def life() -> None:
        try:
            await server.start()
        finally:
            started.set()
        await stop.wait()
        await server.close()

    def run() -> None:
        try:
            loop.run_until_complete(life())
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="control server")
    thread.start()
    try:
        assert started.wait(START_S)
        if not failures:
            yield server
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(START_S)
    if failures:
        raise failures[0]
