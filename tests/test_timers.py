"""Ticks: once per period, never piled up, their due times kept over a swap."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import every, handles, testing
from orchestrator.runtime.timers import Timers
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, idle, implement, running, state_of, until


async def nothing() -> None: ...


def clock_and_log() -> tuple[FakeClock, list[tuple[str, float]], Timers]:
    clock, log = FakeClock(), list[tuple[str, float]]()
    return clock, log, Timers(clock, lambda name: log.append((name, clock.now())))


def test_each_timer_fires_once_per_period() -> None:
    clock, log, timers = clock_and_log()
    timers.set({"fast": 1.0, "slow": 2.5})
    asyncio.run(clock.advance(5, nothing))
    assert log == [
        ("fast", 1.0), ("fast", 2.0), ("slow", 2.5), ("fast", 3.0), ("fast", 4.0), ("slow", 5.0), ("fast", 5.0)
    ]  # fmt: skip


def test_a_swap_keeps_the_due_time_of_a_timer_that_stays() -> None:
    clock, log, timers = clock_and_log()
    timers.set({"kept": 1.0, "changed": 1.0, "gone": 1.0})
    asyncio.run(clock.advance(0.9, nothing))
    timers.set({"kept": 1.0, "changed": 2.0, "new": 1.0})
    asyncio.run(clock.advance(1.0, nothing))
    assert log == [("kept", 1.0), ("new", 1.9)]
    asyncio.run(clock.advance(1.0, nothing))
    assert log[2:] == [("kept", 2.0), ("changed", 2.9), ("new", 2.9)]


def test_swaps_more_often_than_the_period_do_not_silence_a_timer() -> None:
    clock, log, timers = clock_and_log()
    for _ in range(30):
        timers.set({"kept": 1.0})
        asyncio.run(clock.advance(0.1, nothing))
    assert len(log) in {2, 3}  # 30 times 0.1 is a little below 3


def test_a_late_loop_skips_periods_and_keeps_the_beat() -> None:
    class LateClock(FakeClock):
        late_s = 0.0

        def now(self) -> float:
            return super().now() + self.late_s

    clock, log = LateClock(), list[float]()
    timers = Timers(clock, lambda _name: log.append(round(clock.now(), 6)))
    timers.set({"beat": 1.0})
    clock.late_s = 3.4  # the loop was busy: the timer that was due at 1 rings at 4.4
    asyncio.run(clock.advance(1.0, nothing))
    clock.late_s = 0.0
    asyncio.run(clock.advance(5.0, nothing))
    assert log == [4.4, 5.0, 6.0]


def test_stopped_timers_are_silent() -> None:
    clock, log, timers = clock_and_log()
    timers.set({"a": 1.0})
    timers.stop()
    asyncio.run(clock.advance(5, nothing))
    assert log == []


class Ticking(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"ticks": 0, "door": None}

    @every(seconds=1)
    def tick(self) -> None:
        self.state["ticks"] += 1

    @handles
    def count(self) -> int:
        return int(self.state["ticks"])


def test_ticks_do_not_pile_up_behind_a_unit_that_takes_long() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Slow(Ticking):
            @handles
            async def wait(self) -> None:
                await door.wait()

        clock = FakeClock()
        async with running({"slow": Slow}, clock=clock) as app:
            await app.send("slow", "wait")
            await until(lambda: app.modules["slow"].unit)
            await clock.advance(10, lambda: asyncio.sleep(0))
            assert len(app.modules["slow"].mailbox) == 1
            door.set()
            await idle(app)
            assert state_of(app, "slow")["ticks"] == 1
            await clock.advance(1, lambda: idle(app))
            assert state_of(app, "slow")["ticks"] == 2

    asyncio.run(story())


def test_ticks_go_on_over_a_swap() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with running({"m": Ticking}, clock=clock) as app:
            await clock.advance(1.5, lambda: idle(app))
            proxy = app.modules["m"]
            proxy.serve(implement(Ticking, "m", "2.0.0"), state_of(app, "m"))
            proxy.start()
            await clock.advance(0.5, lambda: idle(app))
            assert await app.ask("m", "count") == 2

    asyncio.run(story())


def test_a_timer_that_went_and_came_back_and_one_of_another_period_begin_anew() -> None:
    clock, log, timers = clock_and_log()
    timers.set({"a": 1.0, "b": 1.0})
    asyncio.run(clock.advance(0.6, nothing))
    timers.set({"b": 0.5})
    asyncio.run(clock.advance(0.2, nothing))
    timers.set({"a": 1.0, "b": 0.5})
    asyncio.run(clock.advance(1.1, nothing))
    assert [(name, round(when, 6)) for name, when in log] == [("b", 1.1), ("b", 1.6), ("a", 1.8)]


def test_a_switch_that_was_undone_keeps_the_beat() -> None:
    class Refusing(Ticking):
        def take_over(self, resources: dict[str, Any]) -> None:
            raise ValueError("as told")

    class Next(Ticking):
        state_version = 1

    async def story() -> None:
        async with testing.run(Ticking) as module:
            await module.advance(seconds=0.7)
            with pytest.raises(testing.UpgradeFailed):
                await module.upgrade(Refusing)
            await module.advance(seconds=0.4)
            assert await module.ask("count") == 1
            await module.upgrade(Next)
            await module.advance(seconds=0.9)
            assert await module.ask("count") == 2
            await module.rollback()
            await module.advance(seconds=1.0)
            assert await module.ask("count") == 3

    asyncio.run(story())
