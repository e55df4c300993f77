"""Durable messages over a real journal, beside commits of SQLite's own on one disk. Usage: durable FOLDER host | asyncio"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter_ns

from tests.benchmarks.ours.loop import new_loop, on
from tests.benchmarks.peers.answer import Measured, answer
from tests.durable_kit import Disk, life

COUNTER = """
    from livetag import Module, handles

    class Counter(Module):
        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            if target := self.config.get("to"):
                self.send(target, "add", {"n": n})
            return self.state["total"]
"""


class Durable:
    """Three durable modules, `b` sends on to `c`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._life = AsyncExitStack()
        self._disk = Disk()

    async def begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._it = await self._life.enter_async_context(life(self._folder, disk=self._disk))
        modules = dict.fromkeys(("a", "b", "c"), COUNTER)
        await self._it.deploy("1.0.0", modules, durable=set(modules), configs={"b": {"to": "c"}})

    async def end(self) -> None:
        await self._life.aclose()

    async def commits(self, count: int) -> Measured:
        """One transaction of one row each, with a write-ahead log and a full sync, as anybody would write it."""
        return {"commit": await asyncio.to_thread(_commits, self._folder / "plain.db", count)}

    async def messages(self, senders: int, each: int) -> Measured:
        """From many senders who each wait until their message is accepted; `syncs` is how many it took."""
        app = self._it.app
        before = self._disk.batches

        async def send() -> None:
            for _ in range(each):
                await app.send("a", "add", {"n": 1})

        began = perf_counter_ns()
        await asyncio.gather(*(send() for _ in range(senders)))
        took = perf_counter_ns() - began
        return {"message": [took / senders / each], "syncs": [float(self._disk.batches - before)]}

    async def chain(self, count: int) -> Measured:
        """A message through two durable modules, handled and on disk."""
        app = self._it.app
        first, last = app.modules["b"], app.modules["c"]
        before, began = last.handled, perf_counter_ns()
        for number in range(count):
            first.accept(app.message("add", {"n": 1}, ""))
            if number % 100 == 0:
                await asyncio.sleep(0)
        while last.handled - before < count:
            await asyncio.sleep(0)
        await app.durability.settled()
        return {"message": [(perf_counter_ns() - began) / count]}


def _commits(path: Path, count: int) -> list[float]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, body BLOB)")
        found = []
        for _ in range(count):
            began = perf_counter_ns()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO message (body) VALUES (?)", (b"x" * 60,))
            connection.execute("COMMIT")
            found.append(float(perf_counter_ns() - began))
        return found
    finally:
        connection.close()


def main() -> None:
    loop = new_loop(sys.argv[2])
    asyncio.set_event_loop(loop)
    durable = Durable(Path(sys.argv[1]))
    loop.run_until_complete(durable.begin())
    answer({name: on(loop, getattr(durable, name)) for name in ("commits", "messages", "chain")})
    loop.run_until_complete(durable.end())


if __name__ == "__main__":
    main()
