"""Swaps under load, through the real loader and the real transaction over a real journal; no trial child, no Git.

Usage: swaps FOLDER host | asyncio
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

from orchestrator.runtime.application import Application
from orchestrator.runtime.collecting import freeze_the_living
from orchestrator.runtime.retirement import Remains
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.records import Entry
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import Limits
from tests.benchmarks.ours.loop import new_loop, on
from tests.benchmarks.peers.answer import Measured, answer
from tests.swapping import Swapper

FILL = 10_000  # records in one unit
BEAT_NS = 100_000  # ten thousand a second
DUE_NS = 1_000_000  # of a message of the picture
PICTURE = 2_000  # messages
SPAN_S = (
    0.05  # that a client is watched around a swap, as in peers/bench.erl: a busy machine shows in both alike
)

KV = """
    from livetag import Module, Table, handles

    VERSION = {number}

    class Kv(Module):
        entries: Table[int, {record}] = Table(version={shape})

        def initial_state(self):
            return {{"total": 0}}

        @handles
        def fill(self, start: int, count: int) -> None:
            for key in range(start, start + count):
                self.entries[key] = {made}

        @handles
        def get(self, key: int) -> list[int]:
            return list(self.entries.get(key, ()))

        @handles("number")
        def on_number(self) -> int:
            return VERSION
"""
STEPS = """
    @Kv.migrates("entries", 1, 2)
    def up(key: int, old: list) -> tuple[int, int, int, int]:
        return (*old, 1)

    @Kv.migrates("entries", 2, 1)
    def down(key: int, new: list) -> tuple[int, int, int]:
        return tuple(new[:3])
"""
OLD = {"record": "tuple[int, int, int]", "shape": 1, "made": "(key, 0, 1)"}
NEW = {"record": "tuple[int, int, int, int]", "shape": 2, "made": "(key, 0, 1, 1)"}
ADDER = """
    from livetag import Module, handles

    class Adder(Module):
        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            return self.state["total"]
"""


class Client:
    """Asks without end, and keeps the longest time that it saw."""

    def __init__(self, app: Application, keys: int) -> None:
        self._app = app
        self._keys = max(keys, 1)
        self.longest = 0
        self._task: asyncio.Task[None] | None = None
        self._last = 0

    def begin(self, load: str) -> None:
        self._task = asyncio.ensure_future({"full": self._full, "beat": self._beat}[load]())

    async def end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def reset(self) -> None:
        self.longest = 0

    async def _full(self) -> None:
        """As fast as it can: the longest time between two answers."""
        number, last = 0, perf_counter_ns()
        while True:
            await self._app.ask("kv", "get", {"key": number % self._keys})
            now = perf_counter_ns()
            self.longest = max(self.longest, now - last)
            last = now
            number += 1

    async def _beat(self) -> None:
        """Ten thousand a second: the longest time from the moment that a call was due to its answer."""
        number, due = 0, perf_counter_ns()
        while True:
            while perf_counter_ns() < due:
                await asyncio.sleep(0)
            await self._app.ask("kv", "get", {"key": number % self._keys})
            self.longest = max(self.longest, perf_counter_ns() - due)
            number += 1
            due = max(due + BEAT_NS, perf_counter_ns() - 1_000_000_000)


class Swaps:
    """One application at a time, over a journal of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self._swapper: Swapper | None = None

    async def state(self, entries: int) -> Measured:
        """A new application whose module `kv` has so many records."""
        await self.end()
        self._lives += 1
        folder = self._folder / str(self._lives)
        folder.mkdir(parents=True)
        self._journal = Journal.open(folder / "journal.db", time.time)
        self._app = Application()
        log = Book(self._journal)
        self._swapper = Swapper(self._app, folder / "stage", Limits(pause_ms=5_000.0), log)
        self._entries = entries
        write = self._swapper.write
        self._kv = [write("kv", f"1.0.{n}", {"__init__.py": KV.format(number=n, **OLD)}) for n in range(2)]
        new = KV.format(number=2, **NEW) + STEPS
        self._reshaped = write("kv", "2.0.0", {"__init__.py": new})
        self._sets: dict[int, list[list[Entry]]] = {}
        await self._swapper.swap(self._kv[0])
        self._next = 1
        for start in range(0, entries, FILL):
            await self._app.ask("kv", "fill", {"start": start, "count": min(FILL, entries - start)})
        freeze_the_living()  # as a host does after its start
        return {"entries": [float(entries)]}

    async def end(self) -> None:
        if self._swapper is not None:
            await self._swapper.close()
            await asyncio.to_thread(self._journal.close)
            self._swapper = None

    async def _transact(self, *releases: Entry) -> tuple[UpgradeTransaction, Outcome]:
        assert self._swapper is not None
        transaction, outcome = await self._swapper.transact(*releases)
        assert outcome.result == "committed", outcome.reason
        return transaction, outcome

    def _turn(self) -> Entry:
        """The version that does not serve now; both have the same shapes."""
        entry, self._next = self._kv[self._next], 1 - self._next
        return entry

    async def swaps(self, load: str, count: int) -> Measured:
        """The pause of swaps that leave the state as it is, and the longest gap that a client sees.

        `gap`: from the beginning of the transaction, for as long as Erlang's client is watched, or to its end; `whole`: until
        the version before is retired and freed; `quiet`: in as long a time without a swap.
        """
        client = Client(self._app, self._entries)
        found: dict[str, list[float]] = {name: [] for name in ("pause", "gap", "whole", "quiet")}
        client.begin(load)
        await asyncio.sleep(0.02)
        for _ in range(count):
            await asyncio.sleep(random.uniform(0.001, 0.003))  # noqa: S311  # out of step with the client
            client.reset()
            began = perf_counter_ns()
            transaction, outcome = await self._transact(self._turn())
            await asyncio.sleep(max(0.005, SPAN_S - (perf_counter_ns() - began) / 1e9))
            found["gap"].append(client.longest)
            remains = await transaction.retire(outcome)
            await asyncio.to_thread(_free, remains)
            await asyncio.sleep(0.005)
            found["whole"].append(client.longest)
            found["pause"].append(outcome.pause.pause_us * 1e3)
            took_s = (perf_counter_ns() - began) / 1e9
            client.reset()
            await asyncio.sleep(took_s)
            found["quiet"].append(client.longest)
        await client.end()
        return found

    async def pauses(self, count: int) -> Measured:
        """The pause alone, nobody asking."""
        return {"pause": [await self._pause(self._turn()) for _ in range(count)]}

    async def _pause(self, *releases: Entry) -> float:
        transaction, outcome = await self._transact(*releases)
        await asyncio.to_thread(_free, await transaction.retire(outcome))
        return outcome.pause.pause_us * 1e3

    async def many(self, modules: int, count: int) -> Measured:
        """The pause of so many modules that are swapped as one."""
        assert self._swapper is not None
        if modules not in self._sets:
            names = [f"m{modules}_{number}" for number in range(modules)]
            self._sets[modules] = [
                [self._swapper.write(name, f"1.0.{n}", {"__init__.py": ADDER}) for name in names]
                for n in range(2)
            ]
            await self._pause(*self._sets[modules][0])
        sets = self._sets[modules]
        found = []
        for _ in range(count):
            sets.reverse()
            found.append(await self._pause(*sets[0]))
        return {"pause": found}

    async def reshape(self, count: int) -> Measured:
        """Each record gets another shape, by swaps up and down, with asks at once and while the records are migrated.

        `pause`; `loop`: the longest time that the event loop did not turn; `message`: the longest time an ask took.
        """
        found: dict[str, list[float]] = {"pause": [], "loop": [], "message": [], "took": []}
        for _ in range(count):
            for release in (self._reshaped, self._kv[0]):
                watching = asyncio.ensure_future(self._watch_loop())
                asking = asyncio.ensure_future(self._watch_messages())
                began = perf_counter_ns()
                transaction, outcome = await self._transact(release)
                await transaction.retire(outcome)
                while self._app.modules["kv"].sweep.under_way:
                    await asyncio.sleep(0.01)
                found["took"].append(perf_counter_ns() - began)
                found["pause"].append(outcome.pause.pause_us * 1e3)
                for name, task in (("loop", watching), ("message", asking)):
                    task.cancel()
                    found[name].append(await task)
        self._next = 1
        return found

    async def _watch_loop(self) -> float:
        """Turn by turn, without a timer: one that rings late says nothing of the loop."""
        longest, last = 0, perf_counter_ns()
        try:
            while True:
                await asyncio.sleep(0)
                now = perf_counter_ns()
                longest, last = max(longest, now - last), now
        except asyncio.CancelledError:
            return float(longest)

    async def _watch_messages(self) -> float:
        longest = 0
        try:
            while True:
                await asyncio.sleep(0.001)
                key = random.randrange(max(self._entries, 1))  # noqa: S311
                began = perf_counter_ns()
                await self._app.ask("kv", "get", {"key": key})
                longest = max(longest, perf_counter_ns() - began)
        except asyncio.CancelledError:
            return float(longest)

    async def picture(self, how: str) -> Measured:
        """Each of two seconds' messages, a thousand a second, with an upgrade in their middle."""
        found: dict[str, list[float]] = {"at": [], "took": []}
        start = perf_counter_ns()
        swapped = asyncio.ensure_future(self._in_the_middle(how))
        for number in range(PICTURE):
            due = start + number * DUE_NS
            while perf_counter_ns() < due:
                await asyncio.sleep(0)
            await self._app.ask("kv", "get", {"key": number % max(self._entries, 1)})
            found["at"].append(due)
            found["took"].append(perf_counter_ns() - due)
        at = await swapped
        while self._app.modules["kv"].sweep.under_way:
            await asyncio.sleep(0.01)
        return {"at": [each - at for each in found["at"]], "took": found["took"]}

    async def _in_the_middle(self, how: str) -> float:
        await asyncio.sleep(1.0)
        at = perf_counter_ns()
        transaction, outcome = await self._transact(self._reshaped if how == "rewrite" else self._turn())
        await transaction.retire(outcome)
        return at


def _free(remains: Sequence[Remains]) -> None:
    """As a host does it, off the loop."""
    for each in remains:
        each.collect()


def main() -> None:
    loop = new_loop(sys.argv[2])
    asyncio.set_event_loop(loop)
    swaps = Swaps(Path(sys.argv[1]))
    names = ("state", "swaps", "pauses", "many", "reshape", "picture")
    answer({name: on(loop, getattr(swaps, name)) for name in names})
    loop.run_until_complete(swaps.end())


if __name__ == "__main__":
    main()
