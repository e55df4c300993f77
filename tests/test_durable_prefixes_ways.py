"""A kill at each prefix of the queue, in the ways into and out of durable modules, and while these change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import Module, Table, every, handles, intake, subscribes
from orchestrator.upgrade.records import Committed
from orchestrator.upgrade.state_import import export_state, import_state
from tests.durable_kit import turns, until
from tests.durable_tape import TapeLife
from tests.test_durable_prefixes import (
    LAGS,
    Keeper,
    Listener,
    Plain,
    Promises,
    dead_of,
    got_of,
    hearer,
    passer,
    run,
)


@pytest.mark.parametrize("lag", LAGS)
def test_a_durable_unit_that_asks_a_durable_module(lag: int) -> None:
    """The ask may be repeated after a kill, and then is again; what the asker did never is ahead of it."""
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        modules = {
            "a": passer("m", asks="b", bad=6),
            "b": Keeper,
            "m": hearer(promises, "a"),
            "s": passer("a", bad=100),
        }
        await it.put(modules, {"a", "b"})
        await asyncio.gather(*(promises.send("a", n) for n in range(1, 5)), promises.ask("a", 5))
        for n in range(10, 14):  # by a module in memory: in a's inbox before its asker hears
            await it.app.ask("s", "add", {"n": n})
            promises.note(promises.accepted, "a", n)
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        a, b = got_of(it, "a"), got_of(it, "b")
        assert a == sorted(set(a))
        assert set(a) <= set(b) <= set(a) | set(dead_of(it, "a")) | {5, 6}
        assert [n for n in dict.fromkeys(b) if n in a] == a
        for at, name, n in (*promises.accepted, *promises.done):
            assert at > count or n in got_of(it, name) + dead_of(it, name), (name, n)

    run(story, check, lag)


class V1(Plain):
    seen: Table[int, int] = Table(version=1)
    state_version = 1

    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def add(self, n: int) -> None:
        self.state["got"].append(n)
        if n % 3 == 0:
            self.seen.pop(n - 2, None)
        self.seen[n] = n
        self.seen[0] = self.seen.get(0, 0) + 1
        if n % 7 == 0:
            raise ValueError("bad")


class V2(Module[dict[str, Any]]):
    seen: Table[int, str] = Table(version=2)
    state_version = 2

    @handles
    def add(self, n: int) -> None:
        self.state["got"].append(n)
        assert self.state["more"]
        if n % 3 == 0:
            self.seen.pop(n - 2, None)
        self.seen[n] = f"is {n}"
        self.seen[0] = f"is {int(self.seen[0].split()[1]) + 1}"
        if n % 7 == 0:
            raise ValueError("bad")


V2.migrates(1, 2)(lambda old: {"got": old["got"], "more": True})
V2.migrates(2, 1)(lambda new: {"got": new["got"]})
V2.migrates("seen", 1, 2)(lambda key, old: f"was {old}")
V2.migrates("seen", 2, 1)(lambda key, new: int(new.split()[1]))


def table_of(it: TapeLife, name: str) -> dict[int, int]:
    live = it.app.modules[name].tables.live["seen"]
    return {key: int(str(value).rsplit(" ", maxsplit=1)[-1]) for key, value in live.items()}


@pytest.mark.parametrize("lag", LAGS)
def test_an_upgrade_with_other_schemas_and_its_way_back(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        await it.put({"a": V1}, {"a"})
        for n in range(1, 7):
            await promises.send("a", n)
        sends = [asyncio.ensure_future(promises.send("a", n)) for n in range(7, 14)]
        await it.put({"a": V2}, {"a"})
        await asyncio.gather(*sends)
        for n in range(14, 20):
            await promises.send("a", n)
        sends = [asyncio.ensure_future(promises.send("a", n)) for n in range(20, 27)]
        await it.put({"a": V1}, {"a"})
        await asyncio.gather(*sends)
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        assert it.recovered.failed == {}
        promises.hold(it, count)
        got = got_of(it, "a")
        assert got == sorted(got)
        assert all(n % 7 == 0 for n in dead_of(it, "a"))
        left = {n for n in got if n + 2 not in got or (n + 2) % 3}
        assert table_of(it, "a") == ({n: n for n in left} | {0: len(got)} if got else {})

    run(story, check, lag)


@pytest.mark.parametrize("lag", LAGS)
def test_a_module_that_becomes_durable_leaves_returns_and_is_durable_no_more(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        await it.put({"a": passer("b", "m"), "b": passer(), "m": hearer(promises, "a")}, {"a"})
        for n in range(1, 4):
            await promises.send("a", n)
        sends = [asyncio.ensure_future(promises.send("a", n)) for n in range(4, 9)]
        await it.put({"b": passer()}, {"b"})
        await asyncio.gather(*sends)
        for n in range(9, 12):
            await promises.send("a", n)
        await it.settled()
        await it.remove("b")
        await promises.send("a", 12)
        await it.settled()
        await it.put({"b": passer()}, {"b"})
        sends = [asyncio.ensure_future(promises.send("a", n)) for n in range(13, 20)]
        await asyncio.gather(*sends)
        await it.enable("b", enabled=False)
        await promises.send("a", 20)
        await it.settled()
        await it.enable("b", enabled=True)
        sends = [asyncio.ensure_future(promises.send("a", n)) for n in range(22, 28)]
        await turns(3)
        await it.put({"b": passer()}, ())
        await asyncio.gather(*sends)
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        a = got_of(it, "a")
        assert a == sorted(a)
        b = it.app.modules.get("b")
        if b is None or not b.keeps:
            return
        got = got_of(it, "b")
        assert got == sorted(got)
        sent = got + dead_of(it, "b") + [m.body["n"] for m in b.mailbox.queue]  # type: ignore[index]
        assert set(sent) <= set(a)
        # What it had as a module in memory a kill may have taken; from its first row on nothing is missing.
        later = [n for n in a if n >= 9 and n not in sent]
        assert not later, later

    run(story, check, lag)


def of_all_ways() -> type[Plain]:  # noqa: C901  # many handlers, each a line or two
    read = iter(range(1, 6))

    class Ways(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"got": [], "ticks": 0}

        @handles(thread=True)
        def add(self, n: int) -> int:
            self.state["got"].append(n)
            self.send("b", "add", {"n": n})
            self.ask_blocking("c", "add", {"n": n}, timeout_s=5.0)
            if n % 4 == 0:
                raise ValueError("bad")
            return n

        @handles
        async def task(self, n: int) -> int:
            async def later() -> None:
                await asyncio.sleep(0)
                self.state["got"].append(n)
                self.send("b", "add", {"n": n})

            self._kept = asyncio.ensure_future(later())
            return n

        @every(seconds=0.002)
        def tick(self) -> None:
            if self.state["ticks"] < 3:
                self.state["ticks"] += 1

        @intake
        async def item(self) -> dict[str, int]:
            n = next(read, None)
            if n is None:
                await asyncio.sleep(60)
            return {"n": 200 + (n or 0)}

        @handles("item")
        def on_item(self, n: int) -> None:
            self.state["got"].append(n)
            self.send("b", "add", {"n": n})
            self.publish("news.x", {"n": n})

    return Ways


class Asked(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"asked": []}

    @handles
    def add(self, n: int) -> int:
        self.state["asked"].append(n)
        return n


class Droppy(Keeper):
    @subscribes("news.*", drop_oldest=True)
    def on_news(self, event: dict[str, Any]) -> None:
        self.state["got"].append(event["n"])


@pytest.mark.parametrize("lag", LAGS)
def test_threads_tasks_timers_intakes_and_dropped_events(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        await it.put(
            {"a": of_all_ways(), "b": Keeper, "c": Asked, "d": Droppy}, {"a", "b", "c", "d"}, mailbox=3
        )
        for n in range(1, 6):
            await promises.send("a", n)
        for n in (101, 102):
            await it.app.ask("a", "task", {"n": n})
            promises.note(promises.done, "a", n)
        await asyncio.gather(*(it.app.publish("news.y", {"n": n}) for n in range(300, 310)))
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        assert got_of(it, "b") == got_of(it, "a")
        asked = it.app.modules["c"].implementation
        assert asked is not None
        assert {n for n in got_of(it, "a") if n < 100} <= set(asked.state["asked"])

    run(story, check, lag)


@pytest.mark.parametrize("lag", LAGS)
def test_an_import_in_the_middle_of_load(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        await it.put({"a": V1}, {"a"})
        for n in range(1, 4):
            await it.app.send("a", "add", {"n": n})
        file = await export_state(it.app, it.book, "a")
        sends = [asyncio.ensure_future(it.app.send("a", "add", {"n": n})) for n in range(4, 9)]
        await import_state(it.app, it.book, "a", file, who="test", why="back")
        at = it.position
        await asyncio.gather(*sends)
        for n in range(10, 13):
            await promises.send("a", n)
        imported.append(at)
        await it.settled()
        promises.life = None

    imported: list[int] = []

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        got = got_of(it, "a")
        assert got == sorted(set(got))
        table = table_of(it, "a")
        assert table.get(0, 0) == len(got)
        assert set(table) - {0} <= set(got)
        if count >= imported[0]:
            assert got[:3] == [1, 2, 3]

    run(story, check, lag)


async def until_it_would_switch(it: TapeLife, name: str, free: asyncio.Event) -> None:
    """Let the trial have its copy of the state, for which it waits, and hold the module up once more."""
    await until(lambda: it.app.at_boundary)
    it.offer(name, "work", gate=1)
    free.set()
    await until(lambda: it.app.quiesce is not None)


def test_order_holds_when_what_waits_elsewhere_is_for_a_module_that_becomes_durable() -> None:
    free: dict[str | int, asyncio.Event] = {}
    promises = Promises()

    class Slow(Plain):
        @handles
        async def add(self, n: int) -> int:
            await free["x"].wait()
            return n

    class Busy(Keeper):
        @handles
        async def work(self, gate: int) -> None:
            await free[gate].wait()

    async def story(it: TapeLife) -> None:
        free.update({gate: asyncio.Event() for gate in ("x", 0, 1)})
        await it.put({"a": passer("x", "m"), "m": Busy}, {"a"})
        await it.put({"x": Slow}, mailbox=1)
        it.offer("m", "work", gate=0)
        await turns()
        putting = asyncio.ensure_future(it.put({"m": Busy}, {"m"}))
        await until_it_would_switch(it, "m", free[0])
        it.writer.lag, behind = 30, it.position
        for n in range(1, 6):
            it.offer("a", "add", n=n)
        a = it.app.modules["a"]
        assert a.durable is not None
        while not (a.outbox.queue and a.durable._ahead):  # some wait for room, some for the disk
            assert it.position < behind + 20
            await asyncio.sleep(0)
        free[1].set()
        await putting
        it.offer("a", "add", n=6)
        free["x"].set()
        await it.settled()
        assert got_of(it, "m") == [1, 2, 3, 4, 5, 6]

    async def check(it: TapeLife, count: int) -> None:
        for gate in free.values():
            gate.set()
        promises.hold(it, count)
        if "m" in it.app.modules:
            assert got_of(it, "m") == sorted(got_of(it, "m"))

    run(story, check, 0)


def test_order_holds_when_a_name_moves_to_a_durable_module() -> None:
    free: list[asyncio.Event] = []

    class Busy(Keeper):
        @handles
        async def work(self, gate: int) -> None:
            await free[gate].wait()

    async def story(it: TapeLife) -> None:
        free[:] = asyncio.Event(), asyncio.Event()
        await it.put({"a": passer("n"), "m": Busy, "b": Keeper}, {"a", "b"}, names={"n": "m"})
        it.offer("m", "work", gate=0)
        await turns()
        putting = asyncio.ensure_future(it.put({"m": Busy, "b": Keeper}, {"b"}, names={"n": "b"}))
        await until_it_would_switch(it, "m", free[0])
        it.writer.lag = 30
        for n in range(1, 6):
            it.offer("a", "add", n=n)
        a = it.app.modules["a"]
        assert a.durable is not None
        while not a.durable._ahead:
            await asyncio.sleep(0)
        free[1].set()
        while it.app.names.find("n") is it.app.modules["m"]:
            await asyncio.sleep(0)
        it.offer("a", "add", n=6)
        await putting
        await it.settled()
        got = got_of(it, "b")
        assert got == sorted(got)
        assert len(got) > 1

    async def check(it: TapeLife, count: int) -> None:
        del count
        got = got_of(it, "b") if "b" in it.app.modules else []
        assert got == sorted(got)

    run(story, check, 0)


def test_a_slow_subscriber_in_memory_keeps_no_other_from_a_durable_publishers_event() -> None:
    free = {"x": asyncio.Event()}

    class Slow(Keeper):
        @subscribes("news.*")
        async def on_news(self, event: dict[str, Any]) -> None:
            await free["x"].wait()
            self.state["got"].append(event["n"])

    async def story(it: TapeLife) -> None:
        free["x"] = asyncio.Event()
        await it.put({"a": passer(publishes=True), "x": Slow, "y": Listener}, {"a"})
        it.app.modules["x"].mailbox.limit = 1
        for n in (1, 2, 3):
            it.offer("a", "add", n=n)
        await until(lambda: got_of(it, "y") == [1, 2, 3], 2)
        free["x"].set()
        await it.settled()
        assert got_of(it, "x") == [1, 2, 3]

    async def check(it: TapeLife, count: int) -> None:
        del it, count

    run(story, check, 0)


def test_what_hand_over_changes_in_the_state_is_on_disk_with_the_decision() -> None:
    class Leaver(Keeper):
        def hand_over(self) -> dict[str, Any]:
            self.state["got"].append(99)
            return {}

    async def story(it: TapeLife) -> None:
        await it.put({"a": Leaver}, {"a"})
        await it.app.send("a", "add", {"n": 1})
        await it.put({"a": Keeper}, {"a"})

    async def check(it: TapeLife, count: int) -> None:
        del count
        came = sum(isinstance(record.fact, Committed) for record in it.journal.records())
        assert came < 2 or got_of(it, "a") == [1, 99]

    run(story, check, 0)
