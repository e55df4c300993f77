"""Tables between real releases: loaded from folders, migrated under load, and the release that knows a step kept for it."""

# ruff: noqa: T201  # the table of figures is what the long test is for

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, thread_time

import pytest

from orchestrator.runtime.at_once import at_once
from orchestrator.runtime.table_image import restoring, saving
from orchestrator.runtime.table_sweep import finishing
from tests.runtime_kit import books_balance, idle, until
from tests.swapping import Swapper, with_swapper

FIRST = """
from typing import TypedDict
from livetag import Module, Table, handles

class Route(TypedDict):
    path: str
    count: int

class Rib(Module):
    routes: Table[tuple[str, int], Route] = Table(version=1)

    @handles
    def fill(self, count: int) -> None:
        for n in range(count):
            self.routes["k", n] = {"path": str(n), "count": 0}

    @handles
    def hit(self, n: int) -> None:
        old = self.routes["k", n]
        self.routes["k", n] = {**old, "count": old["count"] + 1}
        if n % 7 == 3:
            raise ValueError("undone")

    @handles
    def total(self) -> int:
        return sum(route["count"] for route in self.routes.values())

    @handles
    def nothing(self) -> None: ...
"""
SECOND = """
from livetag import Module, Table, handles
from rib.steps import up, down

class Rib(Module):
    routes: Table[tuple[str, int], tuple[str, int]] = Table(version=2)

    @handles
    def hit(self, n: int) -> None:
        path, count = self.routes["k", n]
        self.routes["k", n] = (path, count + 1)
        if n % 7 == 3:
            raise ValueError("undone")

    @handles
    def total(self) -> int:
        return sum(count for _, count in self.routes.values())

    @handles
    def nothing(self) -> None: ...

Rib.migrates("routes", 1, 2)(up)
Rib.migrates("routes", 2, 1)(down)
"""
STEPS = """
def up(key, old):
    return (old["path"], old["count"])

def down(key, new):
    from rib.words import PATH  # a lazy import of itself works as long as the release is loaded
    return {PATH: new[0], "count": new[1]}
"""
WITNESS = """
from tests.test_table_releases import FREED

class Witness:
    def __init__(self):
        self.itself = self  # freed by a collection, as a release is

    def __del__(self):
        FREED.append(1)

witness = Witness()
"""
FREED: list[int] = []
BUSY_S = 60.0
MANY = 30_000  # not taken up before the swap is over, on a busy machine either
FILES = {"__init__.py": SECOND, "steps.py": STEPS, "words.py": "PATH = 'path'\n"}


@pytest.fixture(autouse=True)
def _nothing_is_loaded() -> None:
    """Other tests end their hosts as a process ends: what served is not unloaded."""
    for name in [each for each in sys.modules if each.startswith("rib__")]:
        del sys.modules[name]


def loads(package: str) -> int:
    """How many versions of a package are loaded."""
    return len([name for name in list(sys.modules) if name.startswith(f"{package}__") and "." not in name])


def stale(swapper: Swapper) -> int:
    return sum(store.stale for store in swapper.app.modules["rib"].tables.stores.values())


async def swept(swapper: Swapper, seconds: float = BUSY_S) -> None:
    await until(lambda: not swapper.app.modules["rib"].sweep.under_way, seconds)


def test_the_release_that_knows_a_step_stays_loaded_until_no_record_needs_it(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        first, second = (
            swapper.write("rib", "1.0.0", {"__init__.py": FIRST}),
            swapper.write("rib", "1.1.0", FILES),
        )
        await swapper.swap(first)
        await swapper.app.ask("rib", "fill", {"count": 5000})
        await swapper.swap(second)
        assert loads("rib") == 1  # the steps up are in the release that came
        await swept(swapper)
        (left,) = await swapper.swap(first)
        assert (loads("rib"), left.kept_as) == (2, "converter of records that it wrote")
        assert stale(swapper) > 0
        await swept(swapper)
        assert (stale(swapper), loads("rib")) == (0, 1)
        assert await swapper.app.ask("rib", "total") == 0

    with_swapper(tmp_path, story)


def test_a_release_that_no_record_needs_is_unloaded_beside_the_loop_though_the_sweep_is_stopped(
    tmp_path: Path,
) -> None:
    async def story(swapper: Swapper) -> None:
        first = swapper.write("rib", "1.0.0", {"__init__.py": FIRST})
        await swapper.swap(first)
        await swapper.app.ask("rib", "fill", {"count": MANY})
        await swapper.swap(swapper.write("rib", "1.1.0", FILES))
        await swept(swapper)
        await swapper.swap(first)
        proxy, free, threads = swapper.app.modules["rib"], threading.Event(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(free.wait)
        try:
            assert proxy.tables.kept
            await until(lambda: not proxy.tables.kept, BUSY_S)
            proxy.sweep.stop()
            await asyncio.sleep(0)
            assert loads("rib") == 2  # its turn in that thread is waited for
        finally:
            free.set()
        await until(lambda: loads("rib") == 1, BUSY_S)

    with_swapper(tmp_path, story)


def test_a_release_that_no_record_needs_is_freed_by_no_other_collection(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        first = swapper.write("rib", "1.0.0", {"__init__.py": FIRST})
        await swapper.swap(first)
        await swapper.app.ask("rib", "fill", {"count": MANY})
        watched = {**FILES, "__init__.py": SECOND + WITNESS, "steps.py": STEPS + WITNESS}
        await swapper.swap(swapper.write("rib", "1.1.0", watched))
        await swept(swapper)
        gc.collect()
        gc.disable()
        try:
            await swapper.swap(first)
            assert (loads("rib"), FREED) == (2, [])
            await swept(swapper)
            await until(lambda: len(FREED) == 2, BUSY_S)
        finally:
            gc.enable()
        assert loads("rib") == 1

    FREED.clear()
    with_swapper(tmp_path, story)


def test_a_layer_lets_go_of_its_room_shard_by_shard(tmp_path: Path) -> None:
    """All at once it takes some milliseconds at a million records, in one step of the event loop."""

    async def story(swapper: Swapper) -> None:
        await swapper.swap(swapper.write("rib", "1.0.0", {"__init__.py": FIRST}))
        await swapper.app.ask("rib", "fill", {"count": 9000})
        await swapper.swap(swapper.write("rib", "1.1.0", FILES))
        (store,) = swapper.app.modules["rib"].tables.stores.values()
        (layer,) = store.layers
        await swept(swapper)
        assert {sys.getsizeof(shard) for shard in layer.shards} == {sys.getsizeof({})}

    with_swapper(tmp_path, story)


def test_a_step_down_may_import_from_its_own_release_in_mid_conversion(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        first, second = (
            swapper.write("rib", "1.0.0", {"__init__.py": FIRST}),
            swapper.write("rib", "1.1.0", FILES),
        )
        await swapper.swap(first)
        await swapper.app.ask("rib", "fill", {"count": 3000})
        for release in (second, first, second, first):
            await swapper.swap(release)  # each in the middle of the sweep of the one before
        assert await swapper.app.ask("rib", "total") == 0
        await swept(swapper)
        assert (stale(swapper), loads("rib")) == (0, 1)
        assert swapper.app.modules["rib"].dead == 0

    with_swapper(tmp_path, story)


def test_records_go_up_and_down_under_load_and_no_unit_is_lost_or_half_done(tmp_path: Path) -> None:
    keys = 2000

    async def story(swapper: Swapper) -> None:
        first, second = (
            swapper.write("rib", "1.0.0", {"__init__.py": FIRST}),
            swapper.write("rib", "1.1.0", FILES),
        )
        await swapper.swap(first)
        app = swapper.app
        await app.ask("rib", "fill", {"count": keys})
        sent = 0
        done = False

        async def load() -> None:
            nonlocal sent
            while not done:
                for _ in range(20):
                    await app.send("rib", "hit", {"n": sent % keys})
                    sent += 1
                await asyncio.sleep(0.0005)

        loading = asyncio.ensure_future(load())
        for number in range(8):
            await until(lambda: sent >= 400, 20.0)
            await swapper.swap(second if number % 2 == 0 else first)
            await until(lambda began=sent: sent >= began + 200, 20.0)  # type: ignore[misc]
        done = True
        await loading
        await idle(app)
        await swept(swapper)
        undone = sum((n % keys) % 7 == 3 for n in range(sent))
        proxy = app.modules["rib"]
        assert await app.ask("rib", "total") == sent - undone
        assert proxy.dead == undone
        assert all("ValueError: undone" in letter.reason for letter in app.letters)
        assert books_balance(app)

    with_swapper(tmp_path, story)


def test_a_table_that_was_saved_comes_back_as_it_was(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        await swapper.swap(swapper.write("rib", "1.0.0", {"__init__.py": FIRST}))
        await swapper.app.ask("rib", "fill", {"count": 2500})
        await swapper.swap(swapper.write("rib", "1.1.0", FILES))
        tables = swapper.app.modules["rib"].tables
        assert len(at_once(saving(tables))) == 2  # two versions, before the sweep
        at_once(finishing(tables))
        (image,) = at_once(saving(tables))
        again = at_once(restoring([image])).stores["routes"]
        assert (again.version, again.shards) == (2, tables.stores["routes"].shards)

    with_swapper(tmp_path, story)


async def measured(swapper: Swapper, count: int, swaps: int) -> dict[str, list[float]]:
    """Pauses of swaps that change all records, and of the sweeps the longest time that the loop did not turn.

    In processor time of the loop's thread, so that other processes do not count.
    """
    first, second = (
        swapper.write("rib", "1.0.0", {"__init__.py": FIRST}),
        swapper.write("rib", "1.1.0", FILES),
    )
    await swapper.swap(first)
    await swapper.app.ask("rib", "fill", {"count": count}, timeout_s=120)
    found: dict[str, list[float]] = {"pause_us": [], "gap_ms": [], "sweep_s": []}
    for number in range(swaps):
        transaction, outcome = await swapper.transact(second if number % 2 == 0 else first)
        assert outcome.result == "committed", outcome.reason
        found["pause_us"].append(outcome.pause.pause_us)
        await transaction.retire(outcome)
        began, last, longest = perf_counter(), thread_time(), 0.0
        while swapper.app.modules["rib"].sweep.under_way:
            await asyncio.sleep(0)
            now = thread_time()
            longest, last = max(longest, now - last), now
        found["gap_ms"].append(longest * 1000)
        found["sweep_s"].append(perf_counter() - began)
        assert stale(swapper) == 0
    return found


def figures(folder: Path, count: int, swaps: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    async def story(swapper: Swapper) -> None:
        found.update(await measured(swapper, count, swaps))

    with_swapper(folder, story)
    return found


def test_the_pause_does_not_grow_with_the_records(tmp_path: Path) -> None:
    none, many = figures(tmp_path / "none", 0, 6), figures(tmp_path / "many", 30_000, 6)
    assert min(many["pause_us"]) < 5 * min(none["pause_us"]) + 200  # 30,000 records at once would be 30 ms
    assert sorted(many["gap_ms"])[1] < 10.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_records_change_their_schema_with_the_pause_of_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none, many = figures(tmp_path / "none", 0, 10), figures(tmp_path / "many", 1_000_000, 6)
    with capsys.disabled():
        print(
            f"\n{'records':>10}{'pause µs, median':>20}{'worst':>10}{'loop gap ms, median':>22}{'worst':>8}{'sweep s':>10}"
        )
        for count, found in (("0", none), ("1,000,000", many)):
            pause, gap, sweep = (sorted(found[name]) for name in ("pause_us", "gap_ms", "sweep_s"))
            middle = len(pause) // 2
            print(
                f"{count:>10}{pause[middle]:>20.1f}{pause[-1]:>10.1f}{gap[middle]:>22.2f}{gap[-1]:>8.2f}{sweep[middle]:>10.2f}"
            )
    assert min(many["pause_us"]) < 5 * min(none["pause_us"]) + 200
