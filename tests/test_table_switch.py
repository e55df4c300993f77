"""Tables over a switch: nothing is copied, records follow when touched or swept, and every way back is open."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any, TypedDict

import pytest

from livetag import Table, handles
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.testing import ModuleUnderTest, UpgradeFailed
from tests.table_kit import Keeper, Key, Noted, One, Plain, Three, Two, begin, records


def stale(module: ModuleUnderTest) -> int:
    return sum(store.stale for store in module.proxy.tables.stores.values())


def test_a_record_is_migrated_when_it_is_touched_and_the_rest_by_the_sweep() -> None:
    async def story() -> None:
        async with begin(One, tables=records(3000)) as module:
            await module._swap(One, Two, module._limits)
            assert stale(module) == 3000
            assert await module.ask("look", {"key": 2999}) == (2999, "up")
            assert stale(module) == 3000 - 1
            assert await module.ask("size") == 3000
            await module.ask("put", {"key": 2998, "n": 1})
            await module.ask("put", {"key": 13, "n": 1})
            await module.ask("take", {"key": 2997})
            assert stale(module) == 3000 - 4
            await module.advance(seconds=10)
            assert stale(module) == 0
            assert not module.proxy.sweep.under_way
            assert await module.ask("look", {"key": 5}) == (5, "up")
            assert module.tables["things"]["k", 2998] == (1, "two")
            assert await module.ask("size") == 2999

    asyncio.run(story())


def test_a_way_back_in_mid_conversion_gives_untouched_records_back_as_they_were() -> None:
    async def story() -> None:
        async with begin(Two, tables={"things": {("k", n): (n, "own") for n in range(300)}}) as module:
            await module.upgrade(Three)
            await module.ask("put", {"key": 299, "n": 7})
            assert await module.ask("look", {"key": 298}) == "298/own"
            touched = 300 - stale(module)
            await module.rollback()
            assert stale(module) == touched  # the others are served at once, as they are
            expected: dict[Key, Noted] = {("k", n): (n, "own") for n in range(299)}
            assert module.tables == {"things": {**expected, ("k", 299): (7, "three")}}

    asyncio.run(story())


class Weighed(TypedDict):
    n: int
    weight: float


class WithWeight(Keeper):
    things: Table[Key, Weighed] = Table(version=2)


WithWeight.migrates("things", 1, 2)(lambda _, old: {**old, "weight": 1.0})
WithWeight.migrates("things", 2, 1)(lambda _, new: {"n": new["n"]})


def test_the_kit_says_which_fields_of_a_record_a_way_back_loses() -> None:
    async def story() -> None:
        async with begin(One, tables=records(2)) as module:
            assert (await module.upgrade(WithWeight)).lost_going_down == ["things.weight"]
        async with begin(One, tables=records(14)) as module:
            assert (
                await module.upgrade(Two)
            ).lost_going_down == []  # though no step takes one of the records
        two = {"things": {("k", 1): (1, "noted")}}
        async with begin(Two, tables=two) as module:
            assert (await module.upgrade(Three)).lost_going_down == []

    asyncio.run(story())


def test_records_of_three_schemas_at_once_go_up_and_down() -> None:
    async def story() -> None:
        async with begin(One, tables=records(9)) as module:
            await module._swap(One, Two, module._limits)  # not upgrade(), whose report touches records
            await module.ask("look", {"key": 1})
            await module._swap(Two, Three, module._limits)
            await module.ask("look", {"key": 2})
            (table,) = module.proxy.tables.stores.values()
            assert [layer.version for layer in table.layers] == [2, 1]
            assert (stale(module), len(table)) == (8, 9)
            assert sorted(table.keys_of(p) for p in range(1021))[-9:] == sorted(
                [[("k", n)] for n in range(9)]
            )
            assert module.tables["things"] == {("k", n): f"{n}/up" for n in range(9)}
            await module._swap(Three, One, module._limits)
            await module.advance(seconds=1)
            assert module.tables == records(9)

    asyncio.run(story())


def test_a_step_that_raises_leaves_the_record_as_it_was_and_fails_the_unit_that_touches_it() -> None:
    async def story() -> None:
        async with begin(One, tables=records(40)) as module:
            await module._swap(One, Two, module._limits)
            with pytest.raises(
                HandlerFailed, match=r"key \('k', 13\): the step 1→2 raised Refuses: thirteen \(table_kit.py"
            ):
                await module.ask("look", {"key": 13})
            assert "The record is as it was, in version 1." in module.dead_letters[-1].reason
            await module.advance(seconds=10)
            (store,) = module.proxy.tables.stores.values()
            (layer,) = store.layers
            assert (layer.bad, len(layer), len(store)) == (1, 1, 40)
            assert "thirteen" in layer.reason
            await module.ask("put", {"key": 13, "n": 14})  # a way out: write it anew
            await module.advance(seconds=10)
            assert (store.layers, module.proxy.sweep.under_way) == ([], False)
            await module._swap(Two, One, module._limits)
            assert module.tables["things"]["k", 13] == {"n": 14}

    asyncio.run(story())


def test_a_step_that_returns_what_does_not_fit_is_refused_for_that_record() -> None:
    class Wrong(Two):
        pass

    Wrong.migrates("things", 1, 2)(
        lambda _, old: (str(old["n"]), "up") if old["n"] == 1 else (old["n"], "up")
    )

    async def story() -> None:
        async with begin(One, tables=records(3)) as module:
            await module._swap(One, Wrong, module._limits)
            with pytest.raises(
                HandlerFailed, match=r"what the step 1→2 returned does not fit version 2: .*\$\[0\]"
            ):
                await module.ask("look", {"key": 1})
            assert await module.ask("look", {"key": 2}) == (2, "up")
            assert stale(module) == 2

    asyncio.run(story())


def test_a_version_with_a_better_step_takes_up_what_the_one_before_could_not() -> None:
    class Better(Two):
        @handles
        def more(self) -> None: ...

    Better.migrates("things", 1, 2)(lambda key, old: (old["n"], "better"))

    async def story() -> None:
        async with begin(One, tables=records(14)) as module:
            await module._swap(One, Two, module._limits)
            await module.advance(seconds=10)
            await module._swap(Two, Better, module._limits)
            assert module.tables["things"]["k", 13] == (13, "better")
            assert module.tables["things"]["k", 12] == (12, "up")

    asyncio.run(story())


@pytest.mark.parametrize("type_", ["put_and_fail", "put_slowly_and_fail"])
def test_a_unit_that_raises_puts_records_back_in_the_version_that_they_had(type_: str) -> None:
    async def story() -> None:
        async with begin(One, tables=records(6)) as module:
            await module._swap(One, Two, module._limits)
            await module.ask("look", {"key": 0})
            with pytest.raises(HandlerFailed):
                await module.ask(type_, {"keys": [0, 1, 2, 3, 77]})
            assert (stale(module), await module.ask("size")) == (5, 6)
            assert module.tables["things"] == {("k", n): (n, "up") for n in range(6)}

    asyncio.run(story())


def test_what_a_unit_took_out_of_a_layer_comes_back_though_the_sweep_has_passed() -> None:
    class Waiting(Two):
        gate: asyncio.Event

        @handles
        async def put_wait_and_fail(self) -> None:
            self.things["k", 3] = (1, "half done")
            await self.gate.wait()
            raise RuntimeError("as it happens")

    async def story() -> None:
        async with begin(One, tables=records(6)) as module:
            await module._swap(One, Waiting, module._limits)
            implementation = module.proxy.implementation
            assert implementation is not None
            gate = implementation.instance.gate = asyncio.Event()  # type: ignore[attr-defined]
            await module.proxy.post(module._message("put_wait_and_fail", {}), 1.0)
            while not module.proxy.written:
                await asyncio.sleep(0)
            for _ in range(30):
                await module._clock.advance(1.0, lambda: asyncio.sleep(0))
            assert stale(module) == 0
            assert module.proxy.tables.stores["things"].layers  # kept for what may come back
            gate.set()
            await module.settle()
            assert stale(module) == 1
            await module.advance(seconds=10)
            assert (stale(module), module.proxy.tables.stores["things"].layers) == (0, [])
            assert module.tables["things"] == {("k", n): (n, "up") for n in range(6)}

    asyncio.run(story())


def test_the_sweep_stands_still_while_a_unit_runs_in_a_thread() -> None:
    begun, gate = threading.Event(), threading.Event()

    class Threaded(Two):
        @handles(thread=True)
        def wait(self) -> int:
            begun.set()
            gate.wait(10.0)
            return len(self.things)

    async def story() -> None:
        async with begin(One, tables=records(6)) as module:
            await module._swap(One, Threaded, module._limits)
            asked = asyncio.ensure_future(module.ask("wait"))
            try:
                while not begun.is_set():
                    await asyncio.sleep(0)
                for _ in range(30):
                    await module._clock.advance(0.01, lambda: asyncio.sleep(0))
                assert stale(module) == 6
            finally:
                gate.set()
            assert await asked == 6
            await module.advance(seconds=10)
            assert stale(module) == 0

    asyncio.run(story())


def test_an_undone_switch_leaves_the_table_as_it_was() -> None:
    class Fails(Two):
        def take_over(self, resources: dict[str, Any]) -> None:
            if resources:
                raise RuntimeError("not today")

    class Gives(One):
        def hand_over(self) -> dict[str, Any]:
            return {"a": 1}

    async def story() -> None:
        async with begin(Gives, tables=records(6)) as module:
            with pytest.raises(UpgradeFailed, match="not today"):
                await module.upgrade(Fails)
            assert module.tables == records(6)
            await module.ask("put", {"key": 6, "n": 6})
            assert module.tables == records(7)
            assert not module.proxy.tables.stores["things"].layers

    asyncio.run(story())


def test_the_same_version_takes_the_records_as_they_are() -> None:
    class Again(One):
        @handles
        def more(self) -> None: ...

    async def story() -> None:
        async with begin(One, tables=records(6)) as module:
            before = module.proxy.tables.stores["things"].shards
            report = await module.upgrade(Again)
            assert (report.lost_going_down, stale(module)) == ([], 0)
            assert module.proxy.tables.stores["things"].shards is before

    asyncio.run(story())


def test_a_new_table_begins_empty_and_one_that_is_no_longer_declared_is_kept_aside() -> None:
    class Other(Keeper):
        others: Table[str, int] = Table()

        @handles
        def fill(self) -> None:
            self.others["a"] = 1

    async def story() -> None:
        async with begin(One, tables=records(6)) as module:
            await module.upgrade(Other)
            assert module.tables == {"others": {}}
            await module.ask("fill")
            assert {name: len(store) for name, store in module.proxy.tables.stores.items()} == {
                "things": 6,
                "others": 1,
            }
            await module.rollback()
            assert module.tables == records(6)
            await module.upgrade(Other)
            assert module.tables == {"others": {"a": 1}}
            await module.upgrade(Two)
            assert module.tables["things"]["k", 5] == (5, "up")

    asyncio.run(story())


class OtherKeys(Keeper):
    things: Table[str, Plain] = Table(version=1)


class OtherRecords(Keeper):
    things: Table[Key, int] = Table(version=1)


class NoStep(Keeper):
    things: Table[Key, int] = Table(version=4)


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (OtherKeys, "The Table things has keys of another type now"),
        (
            OtherRecords,
            r"still of version 1. Write Table\(version=2\), and steps .* @YourModule.migrates\(\"things\", 1, 2\)",
        ),
        (
            NoStep,
            r"No step leads from version 1 to 4 of the Table things .* Add a step: @YourModule.migrates\(\"things\", 1, 4\)",
        ),
    ],
)
def test_a_version_that_cannot_take_the_records_votes_no(cls: type[Keeper], said: str) -> None:
    async def story() -> None:
        async with begin(One, tables=records(2)) as module:
            with pytest.raises(UpgradeFailed, match=said):
                await module.upgrade(cls)
            assert module.tables == records(2)

    asyncio.run(story())


def test_the_kit_refuses_records_that_do_not_fit_and_tables_that_are_not_there() -> None:
    async def story() -> None:
        with pytest.raises(
            UpgradeFailed, match=r"Table things: the record for \('k', 1\) does not fit version 1"
        ):
            async with begin(One, tables={"things": {("k", 1): {"m": 1}}}):
                pass
        with pytest.raises(UpgradeFailed, match="One has no Table 'thing'; it has: things"):
            async with begin(One, tables={"thing": {}}):
                pass

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(8))
def test_a_table_agrees_with_a_dict_through_any_walk(seed: int) -> None:
    """Writes, deletes, failing units, swaps up and down, and sweeps, in any order."""
    chance = random.Random(seed)  # noqa: S311  # a walk, no secret
    versions: list[type[Keeper]] = [One, Two, Three]

    async def story() -> None:
        model = {n: n for n in range(0, 60, 2)}
        begun = {"things": {("k", key): {"n": n} for key, n in model.items()}}
        async with begin(One, tables=begun) as module:
            cls: type[Keeper] = One
            for _ in range(120):
                key, what = (
                    chance.randrange(60),
                    chance.choice(["put", "take", "look", "fail", "swap", "sweep", "iterate"]),
                )
                if what == "put":
                    n = chance.randrange(14, 1000)
                    await module.ask("put", {"key": key, "n": n})
                    model[key] = n
                elif what == "take":
                    await module.ask("take", {"key": key})
                    model.pop(key, None)
                elif what == "look" and key in model:
                    assert noteless(await module.ask("look", {"key": key})) == model[key]
                elif what == "fail":
                    type_ = chance.choice(["put_and_fail", "put_slowly_and_fail"])
                    with pytest.raises(HandlerFailed):
                        await module.ask(type_, {"keys": chance.sample(range(60), 5)})
                elif what == "swap":
                    before, cls = cls, chance.choice([v for v in versions if v is not cls])
                    await module._swap(before, cls, module._limits)
                elif what == "sweep":
                    await module.advance(seconds=chance.choice([0.001, 0.002, 5.0]))
                assert await module.ask("size") == len(model)
                assert {key for _, key in module.proxy.tables.live["things"]} == set(model)
            found = {key: noteless(record) for (_, key), record in module.tables["things"].items()}
            assert found == model

    asyncio.run(story())


def noteless(record: Any) -> int:
    if isinstance(record, dict):
        return int(record["n"])
    return int(record.partition("/")[0] if isinstance(record, str) else record[0])
