"""A moment between two units of one module is found, and nobody is held for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import handles
from orchestrator.runtime.boundary import between_units
from orchestrator.runtime.errors import QuiesceTimeout
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, idle, running, until


class Pair(Plain):
    """Keeps two numbers equal, and is half way for a while."""

    def initial_state(self) -> dict[str, Any]:
        return {"left": 0, "right": 0}

    @handles
    async def grow(self, turns: int = 3) -> None:
        self.state["left"] += 1
        for _ in range(turns):
            await asyncio.sleep(0)
        self.state["right"] += 1

    @handles
    async def wait(self, door: str) -> None:
        await DOORS[door].wait()


DOORS: dict[str, asyncio.Event] = {}


def test_of_an_idle_module_it_is_now() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            now = between_units(app.modules["a"], lambda: 7, 5.0)
            with pytest.raises(StopIteration) as done:
                now.send(None)
            assert done.value.value == 7

    asyncio.run(story())


def test_what_is_looked_at_is_never_half_way_through_a_unit() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            proxy = app.modules["a"]
            state = proxy.implementation.state if proxy.implementation is not None else {}
            for _ in range(50):
                await app.send("a", "grow")
            for number in range(20):
                await until(lambda: proxy.unit is not None)
                assert state["left"] == state["right"] + 1, "it is half way"
                left, right = await between_units(proxy, lambda: (state["left"], state["right"]), 5.0)
                assert left == right > number
            await idle(app)
            assert state == {"left": 50, "right": 50}, "and every message was handled"
            assert app.at_boundary == ()

    asyncio.run(story())


def test_a_unit_that_does_not_end_is_named_and_nothing_was_done() -> None:
    async def story() -> None:
        clock, door = FakeClock(), asyncio.Event()
        DOORS["x"] = door
        async with running({"a": Pair}, clock=clock) as app:
            await app.send("a", "wait", {"door": "x"})
            await until(lambda: app.modules["a"].unit)
            done: list[int] = []
            waiting = asyncio.ensure_future(between_units(app.modules["a"], lambda: done.append(1), 2.0))
            await asyncio.sleep(0)
            await clock.advance(2, lambda: asyncio.sleep(0))
            with pytest.raises(
                QuiesceTimeout, match=r"between two units in 2 s: a in 'wait' is at .* raise limits.drain_s"
            ):
                await waiting
            door.set()
            await idle(app)
            assert done == []
            assert app.at_boundary == ()

    asyncio.run(story())


def test_what_it_raises_goes_to_who_waits_and_not_into_the_unit_that_ended() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            asked = asyncio.ensure_future(app.ask("a", "grow"))
            await until(lambda: app.modules["a"].unit)
            with pytest.raises(ZeroDivisionError):
                await between_units(app.modules["a"], lambda: 1 // 0, 5.0)
            await asked
            assert (app.modules["a"].handled, app.modules["a"].dead) == (1, 0)

    asyncio.run(story())


def test_a_switch_and_those_who_look_find_their_moments_at_the_same_boundary() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            proxy, found = app.modules["a"], list[str]()
            await app.send("a", "grow", {"turns": 9})
            await until(lambda: proxy.unit)
            looks = [between_units(proxy, lambda name=name: found.append(name), 5.0) for name in "xy"]  # type: ignore[misc]
            switch = Quiesce(app, [proxy], lambda _: found.append("switch"), drain_s=5.0)
            await asyncio.gather(*looks, switch.run())
            assert sorted(found) == ["switch", "x", "y"]
            assert app.at_boundary == ()

    asyncio.run(story())


def test_one_who_no_longer_waits_is_not_called() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            done: list[int] = []
            await app.send("a", "grow", {"turns": 9})
            await until(lambda: app.modules["a"].unit)
            waiting = asyncio.ensure_future(between_units(app.modules["a"], lambda: done.append(1), 5.0))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await idle(app)
            assert done == []
            assert app.at_boundary == ()

    asyncio.run(story())


def test_the_end_of_a_self_test_is_a_boundary_too() -> None:
    async def story() -> None:
        async with running({"a": Pair}) as app:
            proxy, door = app.modules["a"], asyncio.Event()

            async def test() -> str:
                await door.wait()
                return "fit"

            said = asyncio.ensure_future(proxy.pump.tests.said(test))
            await until(lambda: proxy.unit)
            looked = asyncio.ensure_future(between_units(proxy, lambda: proxy.unit, 5.0))
            await asyncio.sleep(0)
            assert not looked.done()
            door.set()
            assert await asyncio.wait_for(looked, 1.0) is None
            assert await said == "fit"

    asyncio.run(story())
