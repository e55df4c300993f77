"""Intakes: what they return arrives once, over swaps, failures and full mailboxes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from loguru import logger

from livetag import handles, intake
from orchestrator.runtime.application import Application
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until


class Base(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def item(self, message: dict[str, Any]) -> None:
        self.state["got"].append((message["n"], message["by"]))


def swap(app: Application, cls: type[Plain], version: str) -> None:
    proxy = app.modules["m"]
    proxy.serve(implement(cls, "m", version), state_of(app, "m"))
    proxy.start()


def test_no_item_is_lost_or_read_twice_over_many_swaps() -> None:
    async def story() -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        loop, reading = asyncio.get_running_loop(), [0]

        class Reader(Base):
            @intake
            async def item(self) -> dict[str, Any]:  # type: ignore[override]
                reading[0] += 1
                assert reading[0] == 1, "two versions read at once"
                try:
                    data = await loop.sock_recv(right, 4)
                finally:
                    reading[0] -= 1
                return {"n": int.from_bytes(data, "big"), "by": self.version}

            @handles("item")
            def on_item(self, message: dict[str, Any]) -> None:
                self.state["got"].append((message["n"], message["by"]))

        async with running({"m": Reader}) as app:
            for number in range(300):
                left.send(number.to_bytes(4, "big"))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                swap(app, Reader, f"{number}.0.0")
            await until(lambda: len(state_of(app, "m")["got"]) >= 300)
            assert [n for n, _ in state_of(app, "m")["got"]] == list(range(300))
            assert len({by for _, by in state_of(app, "m")["got"]}) > 10
            assert books_balance(app)
        left.close()
        right.close()

    asyncio.run(story())


def test_a_swap_does_not_throw_away_what_an_intake_has_just_got() -> None:
    """A cancellation in the turn in which a read was answered would come in place of the answer."""

    async def story() -> None:
        waiting = list[asyncio.Future[int]]()

        class Reader(Base):
            @intake
            async def item(self) -> dict[str, Any]:  # type: ignore[override]
                answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                waiting.append(answer)
                return {"n": await answer, "by": self.version}

            @handles("item")
            def on_item(self, message: dict[str, Any]) -> None:
                self.state["got"].append(message["n"])

        async with running({"m": Reader}) as app:
            for number in range(20):
                await until(lambda: waiting)
                waiting.pop().set_result(number)
                swap(app, Reader, f"{number}.0.0")
            await until(lambda: len(state_of(app, "m")["got"]) == 20)
            assert state_of(app, "m")["got"] == list(range(20))

    asyncio.run(story())


def test_the_new_versions_read_is_not_interrupted_when_it_is_started_once_more() -> None:
    """A switch starts a module at once, and the transaction once more when it goes on, some turns later."""

    async def story() -> None:
        reads = list[str]()

        class Reader(Base):
            @intake
            async def read(self) -> None:
                reads.append(self.version)
                await asyncio.Event().wait()

        async with running({"m": Reader}) as app:
            await until(lambda: reads)
            swap(app, Reader, "2.0.0")
            await until(lambda: len(reads) == 2)
            app.modules["m"].start()
            for _ in range(5):
                await asyncio.sleep(0)
            assert reads == ["1.0.0", "2.0.0"]
            assert app.modules["m"].intakes.failures == 0

    asyncio.run(story())


def test_an_intake_that_raises_is_started_again_after_a_pause_that_doubles() -> None:
    async def story() -> None:
        clock, calls = FakeClock(), list[float]()

        class Broken(Plain):
            @intake
            async def item(self) -> None:
                calls.append(round(clock.now(), 3))
                raise OSError("no line")

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        async with running({"m": Broken}, clock=clock) as app:
            await turns()
            await clock.advance(120, turns)
            assert calls[:5] == [0.0, 0.1, 0.3, 0.7, 1.5]
            assert round(calls[-1] - calls[-2], 3) == 30.0
            assert app.modules["m"].intakes.failures == len(calls)

    asyncio.run(story())


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopAsyncIteration, GeneratorExit]
)
def test_whatever_an_intake_raises_it_is_started_again(error: type[BaseException]) -> None:
    async def story() -> None:
        clock, calls = FakeClock(), list[float]()

        class Broken(Base):
            @intake
            async def read(self) -> None:
                calls.append(round(clock.now(), 3))
                raise error

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        async with running({"m": Broken}, clock=clock):
            await turns()
            await clock.advance(1, turns)
            assert calls == [0.0, 0.1, 0.3, 0.7]

    asyncio.run(story())


def test_a_success_makes_the_pause_short_again() -> None:
    async def story() -> None:
        clock, calls = FakeClock(), list[float]()

        class Shaky(Plain):
            @intake
            async def read(self) -> int | None:
                calls.append(round(clock.now(), 3))
                if len(calls) == 4:
                    return None
                raise OSError

        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        async with running({"m": Shaky}, clock=clock):
            await turns()
            await clock.advance(1, turns)
            assert calls == [0.0, 0.1, 0.3, 0.7, 0.7, 0.8, 1.0]

    asyncio.run(story())


def test_a_full_mailbox_holds_the_intake_back() -> None:
    async def story() -> None:
        door, read = asyncio.Event(), list[int]()

        class Eager(Base):
            @intake
            async def item(self) -> dict[str, Any]:  # type: ignore[override]
                await asyncio.sleep(0)
                read.append(len(read))
                return {"n": read[-1], "by": ""}

            @handles("item")
            async def on_item(self, message: dict[str, Any]) -> None:
                await door.wait()
                self.state["got"].append(message["n"])

        async with running({"m": Eager}, limit=3) as app:
            await until(lambda: app.modules["m"].mailbox.late)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(read) == 5  # one under way, three in the mailbox, one outside
            door.set()
            await until(lambda: len(state_of(app, "m")["got"]) > 20)
            got = state_of(app, "m")["got"]
            assert got == list(range(len(got)))

    asyncio.run(story())


def test_a_version_without_the_intake_ends_it_and_one_with_it_begins_it_again() -> None:
    async def story() -> None:
        reads = list[str]()

        class With(Base):
            @intake
            async def read(self) -> None:
                reads.append(self.version)
                await asyncio.Event().wait()

        class Without(Base):
            pass

        async with running({"m": With}) as app:
            await until(lambda: reads)
            swap(app, Without, "2.0.0")
            for _ in range(5):
                await asyncio.sleep(0)
            swap(app, With, "3.0.0")
            await until(lambda: len(reads) == 2)
            assert reads == ["1.0.0", "3.0.0"]

    asyncio.run(story())


def test_a_switch_between_two_items_does_not_end_the_intake_before_it_is_started_anew() -> None:
    async def story() -> None:
        class Busy(Base):
            @intake
            async def item(self) -> dict[str, Any]:  # type: ignore[override]
                return {"n": 1, "by": self.version}

            @handles("item")
            def on_item(self, message: dict[str, Any]) -> None:
                self.state["got"].append(message["by"])

        class Without(Base):
            pass

        async with running({"m": Busy}, limit=1) as app:
            await until(lambda: state_of(app, "m")["got"])
            app.modules["m"].serve(implement(Without, "m", "2.0.0"), {"got": []})  # switched, not yet started
            for _ in range(10):
                await asyncio.sleep(0)
            swap(app, Busy, "3.0.0")
            await until(lambda: "3.0.0" in state_of(app, "m")["got"])

    asyncio.run(story())


def test_an_intake_that_swallows_its_cancellation_is_named_and_does_not_hold_up_the_stop() -> None:
    async def story() -> None:
        ends, told = asyncio.Event(), list[str]()

        class Stubborn(Base):
            @intake
            async def read(self) -> None:
                while not ends.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await ends.wait()

        number = logger.add(told.append, format="{message}", level="WARNING")
        async with running({"m": Stubborn}) as app:
            await asyncio.sleep(0)
            await asyncio.wait_for(app.modules["m"].close("it was removed"), 5)
            ends.set()
        logger.remove(number)
        assert any("intake m.read did not end when it was cancelled" in line for line in told)
        await asyncio.sleep(0)

    asyncio.run(story())


def test_an_intake_touches_no_state_and_cannot_send() -> None:
    async def story() -> None:
        told = list[str]()

        class Sender(Base):
            @intake
            async def read(self) -> None:
                self.send("m", "item", {"n": 1, "by": ""})

        number = logger.add(told.append, format="{message}", level="WARNING")
        async with running({"m": Sender}) as app:
            await until(lambda: told)
            assert app.modules["m"].mailbox.accepted == 0
            await idle(app)
        logger.remove(number)
        assert "outside a unit of work" in told[0]

    asyncio.run(story())


def test_a_switch_lets_an_intake_that_has_its_input_run_first_and_none_runs_after_it() -> None:
    diary: list[str] = []

    class Reader(Base):
        @intake
        async def read(self) -> dict[str, Any]:
            gates.append(
                asyncio.get_running_loop().create_future()
            )  # a read that is interrupted cancels its gate
            n = await gates[-1]
            diary.append(f"{self.version} reads {n}")
            return {"n": n, "by": self.version}

        @handles("read")
        def on_read(self, n: int, by: str) -> None:
            self.state["got"].append((n, by))

        def hand_over(self) -> dict[str, Any]:
            diary.append(f"{self.version} hands over")
            return {}

    gates: list[asyncio.Future[int]] = []

    async def story() -> None:
        async with running({"m": Reader}) as app:
            await until(lambda: gates)
            proxy = app.modules["m"]
            old = proxy.implementation
            assert old is not None

            def switch(_quiesce: object) -> None:
                old.instance.hand_over()
                swap(app, Reader, "2.0.0")

            gates[-1].set_result(1)  # the intake has what it waited for, and only has not run yet
            await Quiesce(app, [proxy], switch, drain_s=5.0).run()
            await until(lambda: len(gates) == 3)  # the old version's second read was interrupted
            gates[-1].set_result(2)
            await until(lambda: len(state_of(app, "m")["got"]) == 2)
            first, second = old.version, "2.0.0"
            assert diary == [f"{first} reads 1", f"{first} hands over", f"{second} reads 2"]
            assert [n for n, _ in state_of(app, "m")["got"]] == [1, 2]

    asyncio.run(story())


def test_an_intake_that_never_rests_does_not_keep_a_switch_from_happening() -> None:
    class Restless(Base):
        @intake
        async def read(self) -> None:
            while True:
                await asyncio.sleep(0)

    async def story() -> None:
        async with running({"m": Restless}) as app:
            await idle(app)
            switched: list[str] = []
            await Quiesce(app, [app.modules["m"]], lambda _q: switched.append("now"), drain_s=5.0).run()
            assert switched == ["now"]

    asyncio.run(story())
