"""The vital signs of a module: what is counted, what is timed, and what a test between two units sees."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from livetag import every, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import BodyRefused, HandlerFailed, UnknownMessage
from orchestrator.runtime.figures import Figures, Terms
from orchestrator.runtime.vitals import TIMES_KEPT, Times, Vitals
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until

IN_PROBATION = Terms(seconds=30.0, max_p99_ms=50.0)


class Counter(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"total": 0}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        return int(self.state["total"])

    @handles
    def fail(self) -> None:
        raise ValueError("no")

    @handles
    async def slow(self, s: float) -> None:
        before = self.state["total"]
        self.state["total"] += 1
        await asyncio.sleep(s)
        assert self.state["total"] == before + 1

    @handles
    async def in_a_task(self) -> None:
        asyncio.ensure_future(self._fail())  # noqa: RUF006  # the unit waits for it

    async def _fail(self) -> None:
        raise ValueError("later")


class Beating(Counter):
    @every(seconds=0.001)
    def beat(self) -> None:
        raise ValueError("a beat is missed")


def vitals(app: Application, name: str = "counter") -> Vitals:
    return app.modules[name].vitals


def test_units_of_every_kind_are_counted_with_their_failures() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            for _ in range(5):
                await app.ask("counter", "add", {"n": 1})  # at once
                await app.send("counter", "add", {"n": 1})  # by the pump
                await idle(app)
            with pytest.raises(HandlerFailed):
                await app.ask("counter", "fail")
            await app.send("counter", "fail")
            await app.send("counter", "in_a_task")
            await idle(app)
            assert (vitals(app).figures.units, vitals(app).figures.failed) == (13, 3)

    asyncio.run(story())


def test_what_does_not_fit_is_its_senders_doing_and_not_counted() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            with pytest.raises(BodyRefused):
                await app.ask("counter", "add", {"n": "x"})
            with pytest.raises(UnknownMessage):
                await app.ask("counter", "nonsense")
            assert (vitals(app).figures.units, vitals(app).figures.failed) == (0, 0)

    asyncio.run(story())


def test_a_tick_that_raises_counts() -> None:
    async def story() -> None:
        async with running({"counter": Beating}) as app:
            await until(lambda: vitals(app).failed >= 3)
            assert vitals(app).figures.units == vitals(app).failed

    asyncio.run(story())


def test_the_last_thousand_times_count_and_each_once() -> None:
    times = Times()
    assert times.p99_and_p50_ms() == (None, None)
    for number in range(TIMES_KEPT + 100):
        times.add(number / 1000)
    assert len(times) == TIMES_KEPT
    p99_ms, p50_ms = times.p99_and_p50_ms()
    assert p99_ms == pytest.approx(100 + math.ceil(TIMES_KEPT * 0.99) - 1)
    assert p50_ms == pytest.approx(100 + TIMES_KEPT // 2)


def test_in_probation_each_unit_is_timed_and_else_one_in_sixteen() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            for _ in range(160):
                await app.ask("counter", "add", {"n": 1})
            assert len(vitals(app)._times) == 10
            vitals(app).serve(IN_PROBATION)
            for _ in range(160):
                await app.ask("counter", "add", {"n": 1})
            assert len(vitals(app)._times) == 160
            await app.ask("counter", "slow", {"s": 0.06})
            assert vitals(app).slow == 1
            assert vitals(app).figures.units == 161

    asyncio.run(story())


def test_a_release_is_compared_with_the_last_one_that_has_passed() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            await app.ask("counter", "add", {"n": 1})
            vitals(app).serve(IN_PROBATION)
            before = vitals(app).before
            assert before is not None
            assert before.units == 1
            await app.send("counter", "fail")
            await idle(app)
            vitals(app).serve(IN_PROBATION)  # a fix comes while the probation is on
            assert vitals(app).before == before
            assert vitals(app).figures.units == 0
            await app.ask("counter", "add", {"n": 1})
            vitals(app).passed()
            vitals(app).serve(IN_PROBATION)
            after = vitals(app).before
            assert after is not None
            assert (after.units, after.failed) == (1, 0)

    asyncio.run(story())


def test_the_first_version_has_nothing_to_be_compared_with() -> None:
    async def story() -> None:
        from orchestrator.runtime.proxy import ModuleProxy

        proxy = ModuleProxy(Application(), "counter", 10)
        proxy.vitals.serve(IN_PROBATION)
        assert proxy.vitals.before is None
        proxy.serve(implement(Counter, "counter"), {"total": 0})
        assert proxy.vitals.figures == Figures()

    asyncio.run(story())


def test_a_test_runs_between_two_units_and_is_no_message() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            seen: list[int] = []
            proxy = app.modules["counter"]

            async def test() -> str:
                seen.append(state_of(app, "counter")["total"])
                await asyncio.sleep(0.01)  # nothing else of the module runs meanwhile
                seen.append(state_of(app, "counter")["total"])
                return ""

            await app.send("counter", "slow", {"s": 0.01})
            await app.send("counter", "add", {"n": 1})
            testing = asyncio.ensure_future(proxy.pump.tests.said(test))
            await asyncio.sleep(0)
            asked = asyncio.ensure_future(app.ask("counter", "add", {"n": 1}))
            assert await testing == ""
            await asked
            await idle(app)
            assert seen[0] == seen[1]
            assert seen[0] in {0, 1, 2}
            assert (proxy.handled, proxy.dead) == (3, 0)
            assert books_balance(app)

    asyncio.run(story())


def test_a_test_that_is_cut_by_the_end_of_the_module_says_nothing_and_leaves_no_letter() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            began = asyncio.Event()

            async def test() -> str:
                began.set()
                await asyncio.sleep(60)
                return "not reached"

            testing = asyncio.ensure_future(app.modules["counter"].pump.tests.said(test))
            await began.wait()
            await app.modules["counter"].close("the host stopped")
            assert await testing is None
            assert len(app.letters) == 0

    asyncio.run(story())


def test_a_test_that_nobody_waits_for_any_more_holds_nobody_up() -> None:
    """Else a host could not stop cleanly while one hangs."""

    async def story() -> None:
        async with running({"counter": Counter}) as app:
            began = asyncio.Event()

            async def test() -> str:
                began.set()
                await asyncio.sleep(60)
                return "not reached"

            testing = asyncio.ensure_future(app.modules["counter"].pump.tests.said(test))
            await began.wait()
            testing.cancel()
            assert await app.ask("counter", "add", {"n": 1}, timeout_s=2.0) == 1
            assert books_balance(app)

    asyncio.run(story())
