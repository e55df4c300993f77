"""What a shadow costs the version in service: `make bench`. Read it, and compare; only ratios are looked at.

Without a shadow: nothing, the path is the same. With one: the noting, in the path of each message, and beside it the
shadow's own work, in its share of the loop's time.
"""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter
from typing import Any

import pytest

from livetag import Module, Table, handles
from orchestrator.runtime.application import Application
from tests.runtime_kit import running, until
from tests.shadow_kit import shadow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES = 10_000
RECORDS = 1_000_000


class Counter(Module[dict[str, Any]]):
    @handles
    def add(self, n: int) -> int:
        self.state["total"] = self.state.get("total", 0) + n
        return int(self.state["total"])


class Same(Counter):
    pass


class Keeper(Module[dict[str, Any]]):
    things: Table[int, int] = Table(version=1)

    @handles
    def put(self, key: int) -> int:
        self.things[key] = key
        return len(self.things) - key

    @handles
    def look(self, key: int) -> int | None:
        return self.things.get(key)


class KeepsMore(Keeper):
    things: Table[int, int] = Table(version=2)


@KeepsMore.migrates("things", 1, 2)
def up(key: int, old: int) -> int:
    return old


async def each(app: Application, name: str, type_: str, key: str) -> list[float]:
    """The time of each ask, in µs; the loop turns between them, as it does between two askers."""
    took = []
    for n in range(MESSAGES):
        body = {key: n}
        began = perf_counter()
        await app.ask(name, type_, body)
        took.append((perf_counter() - began) * 1e6)
        if not n % 50:
            await asyncio.sleep(0)
    return took


async def flood(app: Application) -> float:
    """µs for each message, sent as fast as they are taken."""
    began = perf_counter()
    for _ in range(MESSAGES):
        await app.send("counter", "add", {"n": 1})
    await app.ask("counter", "add", {"n": 1}, timeout_s=60)
    return (perf_counter() - began) / MESSAGES * 1e6


def test_what_a_shadow_costs(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, str] = {}

    def note(name: str, values: list[float]) -> float:
        values.sort()
        p50, p99 = statistics.median(values), values[int(len(values) * 0.99)]
        found[name] = f"{p50:>10.2f}{p99:>10.2f}{values[-1]:>10.1f}"
        return p50

    async def story() -> None:
        async with running({"counter": Counter}, limit=10_000) as app:
            await each(app, "counter", "add", "n")
            bare = note("ask, no shadow, µs", await each(app, "counter", "add", "n"))
            note("send, no shadow, µs a message", [await flood(app) for _ in range(5)])
            asks: list[float] = []
            sends: list[float] = []

            async def asking() -> None:
                asks.extend(await each(app, "counter", "add", "n"))

            async def sending() -> None:
                sends.append(await flood(app))

            told = await shadow(app, {"counter": Same}, asking, messages=MESSAGES)
            assert told.outcome.result == "committed", told.outcome.reason
            noted = note("ask, with a shadow", asks)
            found["what was said"] = told.reports[-1].rpartition("; ")[2]
            told = await shadow(app, {"counter": Counter}, sending, messages=MESSAGES)
            assert told.outcome.result == "committed", told.outcome.reason
            note("send, with a shadow, both work", sends)
            note("ask, after it", await each(app, "counter", "add", "n"))
            assert noted < bare * 20
        async with running({"keeper": Keeper}, limit=10_000) as app:
            live = app.modules["keeper"].tables.live["things"]
            for n in range(RECORDS):
                shard = live.store.shards[n % len(live.store.shards)]
                shard[n] = b"\x00"
            puts: list[float] = []
            late: list[float] = []

            async def heartbeat() -> None:
                while True:
                    began = perf_counter()
                    await asyncio.sleep(0)
                    late.append((perf_counter() - began) * 1e6)

            async def putting() -> None:
                puts.extend(await each(app, "keeper", "put", "key"))

            beating = asyncio.ensure_future(heartbeat())
            await until(lambda: len(late) > 100)
            told = await shadow(app, {"keeper": KeepsMore}, putting, messages=MESSAGES)
            beating.cancel()
            assert told.outcome.result == "committed", told.outcome.reason
            note("put among 10⁶ records, with a shadow", puts)
            note("a turn of the loop meanwhile", late)

    asyncio.run(story())
    lines = [f"\n{'figure':<40}{'median':>10}{'p99':>10}{'most':>10}"]
    lines += [f"{name:<40}{text}" for name, text in found.items()]
    with capsys.disabled():
        print("\n".join(lines))  # noqa: T201  # the table is what this is for
