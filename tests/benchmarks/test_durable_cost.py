"""What a durable message costs against one commit of SQLite's own, side by side: `make bench`. Read it, and compare."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
from pathlib import Path
from time import perf_counter

import pytest

from tests.durable_kit import Disk, Life, life

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SENDERS = 64
EACH = 40
ROUNDS = 5
CHAIN = 20_000

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


def commit_s(path: Path, count: int = 60) -> float:
    """One transaction of one row, with a write-ahead log and a full sync, as anybody would write it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, body BLOB)")
        began = perf_counter()
        for _ in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO message (body) VALUES (?)", (b"x" * 60,))
            connection.execute("COMMIT")
        return (perf_counter() - began) / count
    finally:
        connection.close()


async def message_s(it: Life) -> float:
    """A message to a durable module, from one of many senders who each wait until it is accepted."""

    async def send() -> None:
        for _ in range(EACH):
            await it.app.send("a", "add", {"n": 1})

    began = perf_counter()
    await asyncio.gather(*(send() for _ in range(SENDERS)))
    return (perf_counter() - began) / (SENDERS * EACH)


async def chained_s(it: Life) -> float:
    """A message through two durable modules, handled and on disk."""
    first, last = it.app.modules["b"], it.app.modules["c"]
    before, began = last.handled, perf_counter()
    for number in range(CHAIN):
        first.accept(it.app.message("add", {"n": 1}, ""))
        if number % 100 == 0:
            await asyncio.sleep(0)
    while last.handled - before < CHAIN:
        await asyncio.sleep(0)
    await it.app.durability.settled()
    return (perf_counter() - began) / CHAIN


def test_a_durable_message_costs_a_fraction_of_a_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            modules = dict.fromkeys(("a", "b", "c"), COUNTER)
            await it.deploy("1.0.0", modules, durable=set(modules), configs={"b": {"to": "c"}})
            await message_s(it)
            pairs, syncs = [], disk.batches
            for _ in range(ROUNDS):
                commit = await asyncio.to_thread(commit_s, tmp_path / "plain.db")
                pairs.append((commit, await message_s(it)))
            syncs = disk.batches - syncs
            chained = await chained_s(it)
        ratio = statistics.median(message / commit for commit, message in pairs)
        commit, message = (statistics.median(each) for each in zip(*pairs, strict=True))
        count = SENDERS * EACH * ROUNDS
        told = (
            f"\none commit {commit * 1e6:.0f} µs; a durable message, {SENDERS} senders, {message * 1e6:.0f} µs: ratio "
            f"{ratio:.3f}\n{count} messages in {syncs} syncs; through two durable modules {1 / chained:.0f} messages/s\n"
        )
        with capsys.disabled():
            sys.stdout.write(told)
        assert syncs * 5 < count  # many share one

    asyncio.run(story())
