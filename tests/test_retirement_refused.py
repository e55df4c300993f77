"""A version that was refused, or whose units failed, is freed as fast as one that served: no error of its holds it."""

from __future__ import annotations

import asyncio
import gc
import re
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.runtime.errors import ModuleError
from orchestrator.upgrade.retirements import Retirements
from repo_store.manifest import Limits
from tests.durable_kit import Life, life, turns
from tests.swapping import Swapper, with_swapper

VERSION = """\
import asyncio
import time
from livetag import Module, handles, resource

class Counter(Module[dict]):
    state_version = {state_version}

{extra}

@Counter.migrates(1, 2)
def up(old: dict) -> dict:
    raise ValueError("no way up")
"""
REFUSED = {
    "take_over raises": "    def take_over(self, resources): raise ValueError('no')",
    "take_over is slow": "    def take_over(self, resources): time.sleep(0.05)",
    "prepare raises": "    async def prepare(self): raise ValueError('no')",
    "prepare hangs": "    async def prepare(self): await asyncio.sleep(100)",
    "a resource cannot be opened": "    @resource\n    async def line(self): raise ValueError('no')",
    "a step raises": "",
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_version_that_was_refused_is_freed_without_a_full_collection(tmp_path: Path, why: str) -> None:
    async def story(swapper: Swapper) -> None:
        first = VERSION.format(state_version=1, extra="")
        await swapper.swap(swapper.write("counter", "1.0.0", {"__init__.py": first}))
        refused = VERSION.format(state_version=1 + (why == "a step raises"), extra=REFUSED[why])
        transaction, outcome = await swapper.transact(
            swapper.write("counter", "2.0.0", {"__init__.py": refused})
        )
        assert outcome.result == "rolled_back"
        gc.collect()  # what lives now is old: only what is freed by itself, or in the version's circles, goes
        (remains,) = await transaction.retire(outcome)
        del transaction
        retirements = Retirements(swapper.app, look_again_after_s=(0.0, 0.05))
        assert await retirements.prove(remains)
        assert retirements.full_collections == 0

    with_swapper(tmp_path, story, Limits(pause_ms=30.0, load_s=0.3))


FAILING = """\
import asyncio
from typing import Any
from livetag import Module, handles, subscribes

class Counter(Module[dict[str, Any]]):
    def initial_state(self) -> dict[str, Any]:
        return {}

    async def _bad(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("as it happens")

    @handles("it raises")
    def bad(self) -> None:
        raise ValueError("as it happens")

    @handles("it raises when it has waited")
    async def later(self) -> None:
        await self._bad()

    @handles("it cancels itself")
    async def cancels(self) -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    @handles("it would end the process")
    async def exits(self) -> None:
        raise SystemExit(3)

    @handles("a limit of its own is over")
    async def limited(self) -> None:
        await asyncio.wait_for(asyncio.sleep(10), 0.001)

    @handles("a task of it raises")
    async def in_a_task(self) -> None:
        self._task = asyncio.create_task(self._bad())

    @handles("a task that it awaits raises")
    async def awaits_a_task(self) -> None:
        await asyncio.gather(self._bad(), self._bad())

    @handles("it raises in a thread", thread=True)
    def in_thread(self) -> None:
        raise ValueError("as it happens")

    @handles("its thread asks who fails", thread=True)
    def thread_asks(self) -> None:
        self.ask_blocking("other", "it raises", {})

    @handles("it asks who fails")
    async def asks(self) -> None:
        await self.ask("other", "it raises when it has waited", {})

    @handles("it asks who does not answer")
    async def asks_in_vain(self) -> None:
        await self.ask("other", "it takes long", {}, timeout_s=0.001)

    @handles("it takes long")
    async def slow(self) -> None:
        await asyncio.sleep(0.02)

    @handles("its body does not fit")
    def takes(self, n: int) -> None:
        pass

    @handles("its reply is not plain data")
    async def replies(self) -> object:
        return object()

    @handles("it sends to nobody")
    def sends(self) -> None:
        self.send("nobody", "it raises", {})

    @subscribes("all.*")
    async def on(self, event: dict) -> None:
        await self._bad()
"""
WAYS = [*re.findall(r'@handles\("([^"]+)"', FAILING), "nobody handles it", "who asks gives up", "an event"]


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
@pytest.mark.parametrize("way", WAYS)
def test_a_version_whose_units_failed_is_freed_without_a_full_collection(
    tmp_path: Path, way: str, durable: bool
) -> None:
    async def story() -> None:
        names = ("counter", "other")
        async with life(tmp_path) as it:
            codes, stored = dict.fromkeys(names, FAILING), names if durable else ()
            assert (await it.deploy("1.0.0", codes, durable=stored)).result == "committed"
            gc.collect()
            gc.disable()
            try:
                errors = await units_fail(it, way)
            finally:
                gc.enable()
            gc.freeze()
            try:
                assert (await it.deploy("1.1.0", codes, durable=stored)).result == "committed"
                assert [remains.label for remains in it.left] == ["counter 1.0.0", "other 1.0.0"]
                retirements = Retirements(it.app, look_again_after_s=(0.0, 0.05))
                for remains in it.left:
                    assert await retirements.prove(remains), retirements.leftovers
                assert retirements.full_collections == 0
                del errors  # who asked may keep them, and holds no version by that
            finally:
                gc.unfreeze()

    asyncio.run(story())


async def units_fail(it: Life, way: str) -> list[object]:
    """Asked from outside while the module is idle, and while it is busy, and sent: what is kept differs."""
    app, errors = it.app, list[object]()
    if way == "an event":
        await app.publish("all.of them", {})
    elif way == "who asks gives up":
        for seconds in (0.001, 10.0):
            try:
                await asyncio.wait_for(app.ask("counter", "it takes long", {}, timeout_s=seconds), 0.005)
            except (ModuleError, TimeoutError, asyncio.TimeoutError) as error:
                errors.append(error)
    else:
        for beside in ((), ("it takes long",)):
            asked = [app.ask("counter", type_, {}) for type_ in (*beside, way)]
            errors += await asyncio.gather(*asked, return_exceptions=True)
        with suppress(ModuleError):
            await app.send("counter", way, {})
    await it.settled()
    await turns()
    return errors


def test_a_version_that_served_through_a_switch_that_failed_is_freed_without_a_full_collection(
    tmp_path: Path,
) -> None:
    """The switch ran at the end of a unit of it: what that raised held the unit's frames, in a circle."""

    async def story(swapper: Swapper) -> None:
        served = "    @handles\n    async def turn(self) -> None: await asyncio.sleep(0.02)"
        first = VERSION.format(state_version=1, extra=served)
        await swapper.swap(swapper.write("counter", "1.0.0", {"__init__.py": first}))
        refused = VERSION.format(state_version=1, extra=served + "\n" + REFUSED["take_over raises"])
        second = swapper.write("counter", "2.0.0", {"__init__.py": refused})
        third = swapper.write("counter", "3.0.0", {"__init__.py": first})
        enough = asyncio.Event()
        busy = asyncio.ensure_future(keep_busy(swapper, enough))
        gc.collect()
        gc.disable()
        try:
            transaction, outcome = await swapper.transact(second)
            assert outcome.result == "rolled_back"
            await transaction.retire(outcome)
            del transaction
            enough.set()
            await busy
        finally:
            gc.enable()
        gc.freeze()
        try:
            (remains,) = await swapper.swap(third)
            assert remains.version == "1.0.0"
            retirements = Retirements(swapper.app, look_again_after_s=(0.0, 0.05))
            assert await retirements.prove(remains)
            assert retirements.full_collections == 0
        finally:
            gc.unfreeze()

    with_swapper(tmp_path, story, Limits(pause_ms=30.0, load_s=0.3))


async def keep_busy(swapper: Swapper, enough: asyncio.Event) -> None:
    """Have a unit under way at every moment, so that a switch runs at the end of one."""
    while not enough.is_set():
        await swapper.app.ask("counter", "turn")
