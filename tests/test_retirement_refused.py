"""A version that was refused, or whose units failed, is freed as fast as one that served: no error of its holds it."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from orchestrator.upgrade.retirements import Retirements
from repo_store.manifest import Limits
from tests.swapping import Swapper, with_swapper

VERSION = """\
import asyncio
import time
from livetag import Module, handles, resource

class Counter(Module[dict]):
    state_version = {state_version}

    @handles
    def bad(self) -> None:
        raise ValueError("as it happens")

    @handles
    async def in_a_task(self) -> None:
        self._task = asyncio.create_task(self._bad())

    async def _bad(self) -> None:
        raise ValueError("as it happens")

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


@pytest.mark.parametrize("type_", ["bad", "in_a_task"])
def test_a_version_whose_units_failed_is_freed_without_a_full_collection(tmp_path: Path, type_: str) -> None:
    async def story(swapper: Swapper) -> None:
        code = VERSION.format(state_version=1, extra="")
        await swapper.swap(swapper.write("counter", "1.0.0", {"__init__.py": code}))
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(swapper.app.ask("counter", type_), return_exceptions=True)
            await asyncio.sleep(0)
        finally:
            gc.enable()
        gc.freeze()
        try:
            (remains,) = await swapper.swap(swapper.write("counter", "1.1.0", {"__init__.py": code}))
            retirements = Retirements(swapper.app, look_again_after_s=(0.0, 0.05))
            assert await retirements.prove(remains)
            assert retirements.full_collections == 0
        finally:
            gc.unfreeze()

    with_swapper(tmp_path, story)


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
