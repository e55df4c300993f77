"""The trial runs a release's steps on a sample of the live records, and names the key and the step that raise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.runtime.at_once import at_once
from orchestrator.runtime.table_image import TableImage, records_of, saving
from orchestrator.runtime.table_sample import (
    SAMPLE_BYTES_MAX,
    TableSample,
    part_of,
    pick_records,
    sampling,
)
from orchestrator.runtime.tables import ModuleTables
from orchestrator.upgrade.copies import SAMPLE_MAX
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial import TrialReport, trial
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.manifest import ModuleManifest
from tests.table_kit import One, Two, begin, records
from tests.test_trial import SMALL, staged

SOURCE = """
from typing import TypedDict
from livetag import Module, Table, handles

class Route(TypedDict):
    path: str
    weight: float

class Counter(Module[dict]):
    routes: Table[tuple[str, int], Route] = Table(version=2)

    async def self_test(self) -> None:
        assert len(self.routes) == 3, len(self.routes)
        assert self.routes["a", 1] == {"path": "1", "weight": 1.0}

@Counter.migrates("routes", 1, 2)
def up(key, old):
    if key[1] == 13: raise ValueError(f"no weight for {old}")
    return {"path": old["path"], "weight": 1.0}

@Counter.migrates("routes", 2, 1)
def down(key, new):
    return {"path": new["path"]} if key[1] != 14 else {"path": new["pfad"]}
"""


def tried(folder: Path, keys: list[int], source: str = SOURCE, version: int = 1) -> TrialReport:
    pairs = [(("a", key), {"path": str(key)}) for key in keys]
    image = TableImage("routes", version, (msgspec.msgpack.encode(pairs),))
    what = Rehearsal("counter", "2.0.0", {}, msgspec.msgpack.encode({}), 1, tables=(image,))
    path = staged(folder / "stage", source)
    return asyncio.run(trial(path, "counter", ModuleManifest(), what, SMALL))


def test_the_steps_are_run_up_and_down_and_the_self_test_sees_the_records(tmp_path: Path) -> None:
    assert tried(tmp_path, [1, 2, 3]).lost == ("routes.weight",)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (13, r"sample of its records: Table routes, key \('a', 13\): the step 1→2 raised ValueError: no weight .* line 18\)\.$"),
        (14, r"tried on a sample of its records,: Table routes, key \('a', 14\): the step 2→1 raised KeyError: 'pfad'"),
    ],
)  # fmt: skip
def test_a_step_that_raises_is_named_with_its_key_and_its_line(tmp_path: Path, key: int, said: str) -> None:
    with pytest.raises(TrialFailed, match=said):
        tried(tmp_path, [1, 2, key])


def test_only_records_that_come_back_as_others_are_brought_to_whoever_knows_the_older_type(
    tmp_path: Path,
) -> None:
    assert tried(tmp_path / "same", [1, 2, 3]).tables_down == ()
    other = SOURCE.replace('{"path": new["path"]} if', '{"path": new["path"] + "!" * (key[1] == 2)} if')
    (image,) = tried(tmp_path / "other", [1, 2, 3], other).tables_down
    assert (image.name, image.version) == ("routes", 1)
    assert dict(records_of(image)) == {("a", 2): msgspec.msgpack.encode({"path": "2!"})}


def test_records_whose_steps_are_in_the_version_that_leaves_are_left_to_the_plan(tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match="AssertionError: 0"):  # none of them came in
        tried(tmp_path, [1, 2, 3], version=7)


def sample(tables: ModuleTables, count: int) -> list[TableSample]:
    return at_once(sampling(pick_records(tables, "things", count)))


def test_a_sample_is_bounded_and_changes_nothing() -> None:
    async def story() -> None:
        async with begin(One, tables=records(3000)) as module:
            await module._swap(One, Two, module._limits)
            await module.ask("put", {"key": 1, "n": 1})
            before = module.proxy.tables.stores["things"].stale
            two, one = sample(module.proxy.tables, SAMPLE_MAX)
            found: list[Any] = list(records_of(one.image))
            assert (two.image.version, two.taken, two.whole) == (2, 1, 1)
            assert (one.image.version, one.taken, one.whole, len(found)) == (1, SAMPLE_MAX, 2999, SAMPLE_MAX)
            assert len({key for key, _ in found}) == SAMPLE_MAX
            assert module.proxy.tables.stores["things"].stale == before
            assert sample(module.proxy.tables, 2000)[1].taken == 2000

    asyncio.run(story())


def test_a_sample_is_of_the_moment_in_which_it_was_picked() -> None:
    async def story() -> None:
        async with begin(One, tables=records(600)) as module:
            tables = module.proxy.tables
            before = {key: data for shard in tables.stores["things"].shards for key, data in shard.items()}
            work = sampling(pick_records(tables, "things", SAMPLE_MAX))
            next(work)
            await module.ask("put", {"key": 1, "n": 99})
            (one,) = at_once(work)
            assert (one.taken, one.whole, len(one.image.parts)) == (600, 600, 3)
            assert dict(records_of(one.image)) == before

    asyncio.run(story())


def gone_back(folder: Path, given: list[TableImage], versions: dict[str, int]) -> TrialReport:
    """What the release makes of a sample when it leaves."""
    state = msgspec.msgpack.encode({})
    what = Rehearsal(
        "counter", "2.0.0", {}, state, 1, back_to=1, tables=tuple(given), tables_back_to=versions
    )
    path = staged(folder / "stage", SOURCE)
    return asyncio.run(trial(path, "counter", ModuleManifest(), what, SMALL))


def image(version: int, record: dict[str, Any], *keys: int, name: str = "routes") -> TableImage:
    return TableImage(name, version, (msgspec.msgpack.encode([(("a", key), record) for key in keys]),))


def test_a_release_that_leaves_takes_a_sample_of_its_records_down_for_the_one_that_comes(
    tmp_path: Path,
) -> None:
    now = image(2, {"path": "x", "weight": 1.0}, 1, 2)
    stale, aside = image(1, {"path": "y"}, 3), image(9, {"n": 1}, 4, name="others")
    report = gone_back(tmp_path, [now, stale, aside], {"routes": 1})
    found = [(each.name, each.version, dict(records_of(each))) for each in report.tables_down]
    plain = msgspec.msgpack.encode
    assert found == [
        ("routes", 1, {("a", 1): plain({"path": "x"}), ("a", 2): plain({"path": "x"})}),
        ("routes", 1, {("a", 3): plain({"path": "y"})}),
        ("others", 9, {("a", 4): plain({"n": 1})}),
    ]
    assert report.went_down == msgspec.msgpack.encode({})
    assert (report.lost, report.migration_s) == (("routes.weight",), None), (
        "no state is migrated in the switch"
    )


def test_records_that_no_steps_of_the_one_that_leaves_lead_down_are_left_to_the_plan(tmp_path: Path) -> None:
    report = gone_back(tmp_path, [image(2, {"path": "x", "weight": 1.0}, 1)], {"routes": 0})
    assert (report.tables_down, report.lost) == ((), None)


def test_a_step_down_of_a_record_that_raises_is_named_with_its_key(tmp_path: Path) -> None:
    said = r"tried on a sample of its records,: Table routes, key \('a', 14\): the step 2→1 raised KeyError: 'pfad'"
    with pytest.raises(TrialFailed, match=said):
        gone_back(tmp_path, [image(2, {"path": "x", "weight": 1.0}, 14)], {"routes": 1})


def test_a_sample_is_bounded_in_bytes_too_and_of_a_saved_table_some_parts_are_one() -> None:
    async def story() -> None:
        async with begin(One, tables=records(3000)) as module:
            large = {"n": 1, "text": "x" * 20_000}
            store = module.proxy.tables.stores["things"]
            for shard in store.shards:
                for key in shard:
                    shard[key] = msgspec.msgpack.encode(large)
            (one,) = sample(module.proxy.tables, SAMPLE_MAX)
            assert (one.taken, one.whole) == (SAMPLE_BYTES_MAX // 20_016, 3000)
            (saved,) = at_once(saving(module.proxy.tables))
            some = part_of(saved, 10)
            assert 10 <= some.taken == len(list(records_of(some.image))) < 20
            assert some.whole == 3000

    asyncio.run(story())


def test_the_self_test_is_not_held_against_a_part_of_a_state(tmp_path: Path) -> None:
    source = SOURCE.replace("assert len(self.routes) == 3, len(self.routes)", "raise ValueError('unfit')")
    what = Rehearsal("counter", "2.0.0", {}, msgspec.msgpack.encode({}), 1)
    path = staged(tmp_path / "stage", source)
    with pytest.raises(TrialFailed, match="unfit"):
        asyncio.run(trial(path, "counter", ModuleManifest(), what, SMALL))
    cut = msgspec.structs.replace(what, cut=True)
    assert "self_test" not in asyncio.run(trial(path, "counter", ModuleManifest(), cut, SMALL)).seconds
