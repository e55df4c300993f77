"""The Tables of a shadow: the records of one moment, without a copy of them, whatever either version does then."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, TypedDict

import pytest

from livetag import Module, Table, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.shadow_tables import moments_of, shadow_tables
from orchestrator.runtime.table_live import LiveTable, keep_writes, undo_writes
from orchestrator.runtime.tables import ModuleTables, fresh_shards
from tests.runtime_kit import running
from tests.shadow_kit import ask_all, shadow


class Record(TypedDict):
    n: int


class Noted(TypedDict):
    n: int
    note: str


class Keeper(Module[dict[str, Any]]):
    things: Any

    def made(self, n: int) -> Any:
        return {"n": n}

    @handles
    def put(self, key: int, n: int) -> None:
        self.things[str(key)] = self.made(n)

    @handles
    def take(self, key: int) -> None:
        self.things.pop(str(key), None)

    @handles
    def look(self, key: int) -> Any:
        found = self.things.get(str(key))
        return None if found is None else [found["n"], str(key) in self.things]

    @handles
    def all(self) -> Any:
        return [len(self.things), bool(self.things), sorted((key, r["n"]) for key, r in self.things.items())]

    @handles
    def fail(self, key: int) -> None:
        self.things[str(key)] = self.made(-1)
        self.things.pop(str(key + 1), None)
        raise RuntimeError("as it happens")

    @handles(thread=True)
    def in_a_thread(self, key: int) -> Any:
        for each in range(key, key + 20):
            self.things[str(each)] = self.made(each)
            time.sleep(0)
        return len(self.things)


class One(Keeper):
    things: Table[str, Record] = Table(version=1)


class OneMore(One):
    """The same records."""


class Two(Keeper):
    things: Table[str, Noted] = Table(version=2)

    def made(self, n: int) -> Any:
        return {"n": n, "note": "new"}


class Three(Keeper):
    things: Table[str, Noted] = Table(version=3)

    def made(self, n: int) -> Any:
        return {"n": n, "note": "newer"}


class Wrong(Two):
    """Its step loses something that shows much later."""


@Two.migrates("things", 1, 2)
def up(key: str, old: Record) -> Noted:
    return {"n": old["n"], "note": "up"}


@Wrong.migrates("things", 1, 2)
def up_wrong(key: str, old: Record) -> Noted:
    return {"n": old["n"] % 100, "note": "up"}


@Three.migrates("things", 1, 2)
def up_too(key: str, old: Record) -> Noted:
    return {"n": old["n"], "note": "up"}


@Three.migrates("things", 2, 3)
def up_more(key: str, old: Noted) -> Noted:
    return {"n": old["n"], "note": f"{old['note']} up"}


async def all_kinds(app: Application, seed: int, count: int) -> None:
    """Messages that read, write, delete, fail, and walk over all."""
    chance = random.Random(seed)  # noqa: S311  # not for secrets
    for _ in range(count):
        type_ = chance.choice(["put", "put", "take", "look", "look", "fail", "all"])
        body = {"key": chance.randrange(40)} if type_ != "all" else {}
        await ask_all(
            app, "keeper", {**body, **({"n": chance.randrange(1000)} if type_ == "put" else {})}, type_=type_
        )


@pytest.mark.parametrize("cls", [OneMore, Two, Three])
@pytest.mark.parametrize("seed", range(3))
def test_a_shadow_has_the_records_of_its_moment_and_its_own(cls: type[Keeper], seed: int) -> None:
    async def story() -> None:
        async with running({"keeper": One}) as app:
            await all_kinds(app, seed, 60)
            told = await shadow(app, {"keeper": cls}, lambda: all_kinds(app, seed + 100, 120), messages=120)
            assert told.outcome.result == "committed", told.outcome.reason
            before = await app.ask("keeper", "all")
            assert before[0] == len(before[2])

    asyncio.run(story())


def test_a_shadow_of_a_module_whose_records_are_still_being_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version in service has records of two versions; it takes them up by touches while its shadow reads them."""

    monkeypatch.setattr(
        "orchestrator.runtime.table_sweep.Sweep.start", lambda _sweep: None
    )  # it would be done first

    async def story() -> None:
        async with running({"keeper": One}) as app:
            for key in range(40):
                await ask_all(app, "keeper", {"key": key, "n": key}, type_="put")
            await shadow(app, {"keeper": Two}, lambda: all_kinds(app, 1, 5), messages=5)
            assert any(layer for layer in app.modules["keeper"].tables.live["things"].store.layers)
            told = await shadow(app, {"keeper": Three}, lambda: all_kinds(app, 2, 100), messages=100)
            assert told.outcome.result == "committed", told.outcome.reason

    asyncio.run(story())


def test_a_wrong_step_is_found_by_the_records_that_show_it() -> None:
    async def story() -> None:
        async with running({"keeper": One}) as app:
            await ask_all(app, "keeper", {"key": 1, "n": 1}, {"key": 2, "n": 512}, type_="put")

            async def traffic() -> None:
                await ask_all(app, "keeper", {"key": 1}, {"key": 2}, type_="look")

            told = await shadow(app, {"keeper": Wrong}, traffic, messages=9)
            assert "on 1 message of 2" in told.outcome.reason
            assert "look {'key': 2}, reply[0]: 512 → 12" in told.outcome.reason
            assert await app.ask("keeper", "look", {"key": 2}) == [512, True]

    asyncio.run(story())


def test_a_unit_in_a_thread_writes_while_its_shadow_reads() -> None:
    async def story() -> None:
        async with running({"keeper": One}) as app:
            for key in range(40):
                await ask_all(app, "keeper", {"key": key, "n": key}, type_="put")

            async def traffic() -> None:
                for round_ in range(6):
                    await ask_all(app, "keeper", {}, type_="all")
                    await ask_all(app, "keeper", {"key": 30 + round_ * 5}, type_="in_a_thread")

            told = await shadow(app, {"keeper": Two}, traffic, messages=12)
            assert told.outcome.result == "committed", told.outcome.reason

    asyncio.run(story())


def test_what_is_written_after_the_last_message_is_not_seen_by_a_shadow_that_is_behind() -> None:
    class Behind(Two):
        @handles
        async def look(self, key: int) -> Any:
            await asyncio.sleep(0.02)
            return super().look(key)

    async def story() -> None:
        async with running({"keeper": One}) as app:
            for key in range(9):
                await ask_all(app, "keeper", {"key": key, "n": key}, type_="put")

            async def traffic() -> None:
                for key in range(6):
                    await ask_all(app, "keeper", {"key": key}, type_="look")
                for key in range(6):  # the last message is noted, and its shadow has not read a record
                    await ask_all(app, "keeper", {"key": key, "n": -key - 1}, type_="put")

            told = await shadow(app, {"keeper": Behind}, traffic, messages=6)
            assert told.outcome.result == "committed", told.outcome.reason
            assert await app.ask("keeper", "look", {"key": 3}) == [-4, True]

    asyncio.run(story())


# -- against a plain dict --------------------------------------------------------------------------------------------


class Port:
    """What a live table asks of its module."""

    name = "keeper"

    def __init__(self) -> None:
        self.unit: object = self
        self.written: list[LiveTable] = []


def tables_of(cls: type[Keeper], before: ModuleTables | None = None) -> tuple[ModuleTables, LiveTable, Port]:
    blueprint = Blueprint(cls)
    earlier = before or ModuleTables()
    tables = earlier.successor(blueprint, None, fresh_shards(blueprint, earlier))
    port = Port()
    tables.live["things"].attach(port)  # type: ignore[arg-type]
    return tables, tables.live["things"], port


Plain = dict[str, int]


def step(
    chance: random.Random, table: LiveTable, port: Port, model: Plain, made: Callable[[int], Any]
) -> None:
    """A unit: some touches, and a good or a bad end. The model is what the table must be after it."""
    after = dict(model)
    for _ in range(chance.randrange(1, 5)):
        key, what = str(chance.randrange(30)), chance.randrange(5)
        assert (key in table) == (key in after)
        if what < 2:
            after[key] = chance.randrange(1000)
            table[key] = made(after[key])
        elif what == 2:
            found = table.pop(key, None)
            assert (None if found is None else found["n"]) == after.pop(key, None)
        else:
            found = table.get(key)
            assert (None if found is None else found["n"]) == after.get(key)
    if chance.random() < 0.3:
        undo_writes(port.written)
    else:
        model.clear()
        model.update(after)


def sweep(live: LiveTable) -> None:
    """Take up one record of each shard."""
    for layer in live.store.layers:
        for place, shard in enumerate(layer.shards):
            for key in list(shard)[:1]:
                live.store.bring_up_swept(layer, place, key)
    live.store.drop_empty_layers()


def holds(table: LiveTable, model: Plain) -> None:
    assert len(table) == len(model)
    assert sorted(table) == sorted(model)
    assert {key: record["n"] for key, record in table.items()} == model


@pytest.mark.parametrize("seed", range(60))
def test_whatever_both_do_each_has_what_it_has_written(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # not for secrets
    tables, live, port = tables_of(One)
    model: Plain = {}
    for _ in range(20):
        step(chance, live, port, model, lambda n: {"n": n})
        keep_writes(port.written)
    made: Callable[[int], Any] = lambda n: {"n": n}  # noqa: E731
    if seed % 2:  # in mid-conversion
        tables, live, port = tables_of(Two, tables)
        made = lambda n: {"n": n, "note": ""}  # noqa: E731
        for _ in range(chance.randrange(4)):
            step(chance, live, port, model, made)
            keep_writes(port.written)
    blueprint = Blueprint(Three)
    moments = moments_of(tables, blueprint)
    shadow_port = Port()
    mine = shadow_tables(moments, blueprint, None).live["things"]
    mine.attach(shadow_port)  # type: ignore[arg-type]
    shadow_model = dict(model)
    for _ in range(60):
        which = chance.randrange(8)
        if which < 3:
            step(chance, live, port, model, made)
            moments["things"].keep()
            keep_writes(port.written)
        elif which < 6:
            step(chance, mine, shadow_port, shadow_model, lambda n: {"n": n, "note": ""})
            keep_writes(shadow_port.written)
        elif which == 6:
            sweep(live)
        else:  # in the middle of a unit of the version in service
            live["0"] = made(-5)
            live.pop("1", None)
            step(chance, mine, shadow_port, shadow_model, lambda n: {"n": n, "note": ""})
            keep_writes(shadow_port.written)
            undo_writes(port.written)
    holds(mine, shadow_model)
    holds(live, model)


def test_nothing_is_copied_for_a_moment() -> None:
    tables, live, _ = tables_of(One)
    for n in range(50_000):
        live.store.shards[hash(str(n)) % len(live.store.shards)][str(n)] = b"\x81\xa1n\x00"
    tracemalloc.start()
    try:
        mine = shadow_tables(moments_of(tables, Blueprint(Two)), Blueprint(Two), None).live["things"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(mine) == 50_000
    assert most < 50_000 * 8  # less than a pointer for each record
