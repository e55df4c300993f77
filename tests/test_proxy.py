"""The proxy: units one at a time and in order, sends that leave when their unit ends, and books that balance."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from loguru import logger

from livetag import Message, every, handles, intake, subscribes
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import (
    AskCycle,
    AskTimeout,
    BodyRefused,
    HandlerFailed,
    Leaving,
    MailboxFull,
    NotInService,
    UnknownMessage,
    UnknownName,
)
from orchestrator.runtime.waits import waits_of
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until, wire


class Sink(Plain):
    """Keeps what it gets."""

    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def put(self, item: Any) -> int:
        self.state["got"].append(item)
        return len(self.state["got"])

    @handles
    def fail(self) -> None:
        raise KeyError("n")


class Door:
    """An event that a class of a test can hold without putting it into its state."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.log: list[Any] = []


def gated(door: Door) -> type[Plain]:
    class Gated(Plain):
        @handles
        async def wait(self, item: Any = None) -> Any:
            door.log.append(("begins", item))
            await door.event.wait()
            door.log.append(("ends", item))
            return item

    return Gated


# -- one at a time, in order ------------------------------------------------------------------------------------


def test_units_run_one_at_a_time_and_in_order() -> None:
    async def story() -> None:
        log: list[str] = []

        class Slow(Plain):
            @handles
            async def work(self, item: int) -> None:
                log.append(f"begins {item}")
                for _ in range(item % 3):
                    await asyncio.sleep(0)
                log.append(f"ends {item}")

        async with running({"slow": Slow}) as app:
            for item in range(5):
                await app.send("slow", "work", {"item": item})
            await idle(app)
        assert log == [f"{what} {item}" for item in range(5) for what in ("begins", "ends")]

    asyncio.run(story())


def test_an_ask_that_could_be_answered_at_once_waits_behind_what_was_sent_before() -> None:
    async def story() -> None:
        async with running({"sink": Sink}) as app:
            for item in range(3):
                await app.send("sink", "put", {"item": item})
            assert await app.ask("sink", "put", {"item": 3}) == 4
            assert state_of(app, "sink")["got"] == [0, 1, 2, 3]

    asyncio.run(story())


def test_asks_that_spend_a_whole_turn_let_the_loop_turn() -> None:
    async def story() -> None:
        async with running({"sink": Sink}) as app:
            turned: list[int] = []
            asyncio.get_running_loop().call_later(0.005, turned.append, 1)
            asks = 0
            while not turned and asks < 1_000_000:
                await app.ask("sink", "put", {"item": 0})
                asks += 1
            assert turned, "a client that only asks starved the loop"

    asyncio.run(story())


def test_a_busy_module_lets_the_others_work() -> None:
    async def story() -> None:
        class Echo(Plain):
            @handles
            def go(self) -> None:
                self.send("busy", "go")

        async with running({"busy": Echo, "sink": Sink}) as app:
            await app.send("busy", "go")
            await app.send("sink", "put", {"item": 1})
            await until(lambda: state_of(app, "sink")["got"])
            assert app.modules["busy"].handled > 0

    asyncio.run(story())


# -- what a unit sends ------------------------------------------------------------------------------------------


def test_what_a_unit_sends_leaves_in_order_when_the_unit_ends() -> None:
    async def story() -> None:
        door = Door()

        class Teller(Plain):
            @handles
            async def tell(self) -> None:
                self.send("sink", "put", {"item": 1})
                self.send("sink", "put", {"item": 2})
                await door.event.wait()
                self.send("sink", "put", {"item": 3})

        async with running({"teller": Teller, "sink": Sink}) as app:
            await app.send("teller", "tell")
            await until(lambda: app.modules["teller"].unit)
            await asyncio.sleep(0)
            assert app.modules["sink"].mailbox.accepted == 0
            door.event.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == [1, 2, 3]

    asyncio.run(story())


def test_sends_wait_for_room_before_the_next_unit_begins() -> None:
    async def story() -> None:
        door, units = Door(), []

        class Teller(Plain):
            @handles
            def tell(self, item: int) -> None:
                units.append(item)
                for part in range(5):
                    self.send("gate", "wait", {"item": (item, part)})

        async with running({"teller": Teller, "gate": gated(door)}, limit=2) as app:
            await app.send("teller", "tell", {"item": 1})
            await app.send("teller", "tell", {"item": 2})
            await until(lambda: app.modules["gate"].mailbox.late)
            for _ in range(10):
                await asyncio.sleep(0)
            assert units == [1]
            door.event.set()
            await idle(app)
            assert [item for what, item in door.log if what == "ends"] == [
                (item, part) for item in (1, 2) for part in range(5)
            ]
            assert books_balance(app)

    asyncio.run(story())


def test_a_unit_that_raises_sends_nothing_and_goes_to_the_dead_letters() -> None:
    async def story() -> None:
        class Broken(Plain):
            @handles
            def work(self, item: int) -> None:
                self.send("sink", "put", {"item": item})
                self.publish("topic", {})
                raise KeyError("n")

        async with running({"broken": Broken, "sink": Sink}) as app:
            await app.send("broken", "work", {"item": 1})
            with pytest.raises(
                HandlerFailed, match=r"broken 1\.0\.0 failed on 'work': KeyError: 'n' \(.*line \d+\)"
            ):
                await app.ask("broken", "work", {"item": 2})
            with pytest.raises(HandlerFailed):  # now it is idle: the ask is answered at once
                await app.ask("broken", "work", {"item": 3})
            await idle(app)
            assert state_of(app, "sink")["got"] == []
            assert [letter.message.body for letter in app.letters] == [{"item": n} for n in (1, 2, 3)]
            assert app.modules["broken"].dead == 3
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "is_async"),
    [
        *(
            (error, False)
            for error in (asyncio.CancelledError, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit)
        ),
        *(
            (error, True)
            for error in (asyncio.CancelledError, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit)
        ),
    ],
)
def test_whatever_a_handler_raises_is_its_failure(error: type[BaseException], is_async: bool) -> None:
    async def story() -> None:
        class Broken(Plain):
            @handles
            def work(self) -> None:
                raise error

            @handles
            async def work_async(self) -> None:
                raise error

            @handles
            def ok(self) -> int:
                return 1

        type_ = "work_async" if is_async else "work"
        async with running({"broken": Broken}) as app:
            for _ in range(2):
                await app.send("broken", type_)
                await idle(app)
            assert await app.ask("broken", "ok") == 1
            assert (app.modules["broken"].dead, app.modules["broken"].handled) == (2, 1)
            assert books_balance(app)

    asyncio.run(story())


def test_an_error_that_cannot_be_told_does_not_end_the_module() -> None:
    async def story() -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        class Broken(Plain):
            @handles
            def work(self) -> None:
                raise Mute

            @handles
            def ok(self) -> int:
                return 1

        async with running({"broken": Broken}) as app:
            await app.send("broken", "work")
            await idle(app)
            assert await app.ask("broken", "ok") == 1
            assert "Mute (its text cannot be shown)" in next(iter(app.letters)).reason

    asyncio.run(story())


def test_an_ask_first_lets_out_what_its_unit_sent_before() -> None:
    async def story() -> None:
        class Asker(Plain):
            @handles
            async def go(self) -> int:
                self.send("sink", "put", {"item": "sent before"})
                return int(await self.ask("sink", "put", {"item": "asked"}))

        async with running({"asker": Asker, "sink": Sink}) as app:
            assert await app.ask("asker", "go") == 2
            assert state_of(app, "sink")["got"] == ["sent before", "asked"]

    asyncio.run(story())


def test_asks_made_side_by_side_in_one_unit_keep_the_order_of_what_was_sent() -> None:
    async def story() -> None:
        class Asker(Plain):
            @handles
            async def go(self) -> list[int]:
                for item in range(6):
                    self.send("sink", "put", {"item": item})
                return list(
                    await asyncio.gather(*(self.ask("sink", "put", {"item": 6 + n}) for n in range(4)))
                )

        async with running({"asker": Asker, "sink": Sink}, limit=2) as app:
            assert await app.ask("asker", "go") == [7, 8, 9, 10]
            assert state_of(app, "sink")["got"] == list(range(10))
            assert books_balance(app)

    asyncio.run(story())


def test_an_ask_gives_up_in_time_though_what_was_sent_before_finds_no_room() -> None:
    async def story() -> None:
        door = Door()

        class Asker(Plain):
            @handles
            async def go(self) -> None:
                for item in range(4):
                    self.send("gate", "wait", {"item": item})
                await self.ask("sink", "put", {"item": 1}, timeout_s=2.0)

        clock = FakeClock()
        async with running({"asker": Asker, "gate": gated(door), "sink": Sink}, clock=clock, limit=1) as app:
            asked = asyncio.ensure_future(app.ask("asker", "go", timeout_s=10))
            await until(lambda: app.modules["gate"].mailbox.late)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await clock.advance(2.0, lambda: asyncio.sleep(0))
            with pytest.raises(HandlerFailed, match=r"sink was not asked 'put'.*waits for room at gate"):
                await asked
            door.event.set()
            await idle(app)
            assert books_balance(app)
            assert state_of(app, "sink")["got"] == []

    asyncio.run(story())


def test_sends_outside_a_unit_are_refused() -> None:
    async def story() -> None:
        async with running({"sink": Sink}) as app:
            implementation = app.modules["sink"].implementation
            assert implementation is not None
            with pytest.raises(NotInService, match="outside a unit"):
                implementation.instance.send("sink", "put", {"item": 1})
            with pytest.raises(NotInService, match="outside a unit"):
                await implementation.instance.ask("sink", "put", {"item": 1})

    asyncio.run(story())


def test_a_send_to_nobody_is_refused_at_once() -> None:
    async def story() -> None:
        class Teller(Plain):
            @handles
            def tell(self) -> None:
                self.send("nobody", "x")

        async with running({"teller": Teller}) as app:
            with pytest.raises(HandlerFailed, match="UnknownName: No module is bound to 'nobody'"):
                await app.ask("teller", "tell")
            with pytest.raises(UnknownName, match="Names in service: teller"):
                await app.send("nobody", "x")

    asyncio.run(story())


def test_a_target_that_left_while_the_unit_ran_makes_a_dead_letter() -> None:
    async def story() -> None:
        door = Door()

        class Teller(Plain):
            @handles
            async def tell(self) -> None:
                self.send("sink", "put", {"item": 1})
                await door.event.wait()

        async with running({"teller": Teller, "sink": Sink}) as app:
            await app.send("teller", "tell")
            await until(lambda: app.modules["teller"].unit)
            sink = app.modules["sink"]
            wire(app, {"teller": app.modules["teller"]})
            door.event.set()
            await until(lambda: len(app.letters))
            assert next(iter(app.letters)).reason == "no module is bound to 'sink' any more"
            await sink.close("the test is over")

    asyncio.run(story())


# -- waiting in a circle ----------------------------------------------------------------------------------------


def test_an_ask_in_a_circle_is_refused_with_its_path() -> None:
    async def story() -> None:
        class Relay(Plain):
            @handles
            async def go(self, ways: list[str]) -> str:
                if not ways:
                    return self.name
                return str(await self.ask(ways[0], "go", {"ways": ways[1:]}))

        async with running({"a": Relay, "b": Relay, "c": Relay}) as app:
            assert await app.ask("a", "go", {"ways": ["b", "c"]}) == "c"
            with pytest.raises(HandlerFailed, match="a → b → c → a"):
                await app.ask("a", "go", {"ways": ["b", "c", "a"]})
            with pytest.raises(HandlerFailed, match="a → a"):
                await app.ask("a", "go", {"ways": ["a"]})
            assert books_balance(app)

    asyncio.run(story())


def test_two_units_that_ask_each_other_do_not_wait_for_their_deadline() -> None:
    async def story() -> None:
        met = asyncio.Event()

        class Half(Plain):
            @handles
            async def go(self, other: str, first: bool) -> str:
                if first:
                    await met.wait()
                else:
                    met.set()
                try:
                    return str(await self.ask(other, "ping", timeout_s=60))
                except AskCycle as error:
                    return f"refused: {error}"

            @handles
            def ping(self) -> str:
                return "pong"

        async with running({"a": Half, "b": Half}) as app:
            replies = await asyncio.wait_for(
                asyncio.gather(
                    app.ask("a", "go", {"other": "b", "first": True}),
                    app.ask("b", "go", {"other": "a", "first": False}),
                ),
                5,
            )
            assert sorted(r.partition(":")[0] for r in replies) == ["pong", "refused"]
            assert any("a → b → a" in r or "b → a → b" in r for r in replies)
            assert books_balance(app)

    asyncio.run(story())


def test_two_modules_that_fill_each_other_go_on() -> None:
    async def story() -> None:
        class Filler(Plain):
            @handles
            def go(self, other: str, left: int) -> None:
                for _ in range(3 if left else 0):
                    self.send(other, "go", {"other": self.name, "left": left - 1})

        async with running({"a": Filler, "b": Filler}, limit=2) as app:
            await app.send("a", "go", {"other": "b", "left": 6})
            await app.send("b", "go", {"other": "a", "left": 6})
            await idle(app)
            total = sum(p.handled for p in app.modules.values())
            assert total == 2 * sum(3**n for n in range(7))
            assert books_balance(app)

    asyncio.run(story())


def test_a_module_that_fills_itself_goes_on() -> None:
    async def story() -> None:
        class Own(Plain):
            @handles
            def go(self, left: int) -> None:
                for _ in range(2 if left else 0):
                    self.send("own", "go", {"left": left - 1})

        async with running({"own": Own}, limit=1) as app:
            await app.send("own", "go", {"left": 5})
            await idle(app)
            assert app.modules["own"].handled == 2**6 - 1

    asyncio.run(story())


def test_asking_a_module_that_waits_for_room_here_makes_that_room() -> None:
    async def story() -> None:
        met = asyncio.Event()

        class Full(Plain):
            @handles
            async def go(self) -> str:
                met.set()
                await until(lambda: self._voice is not None and self._voice.proxy.mailbox.late)
                return str(await self.ask("filler", "ping", timeout_s=60))

            @handles
            def take(self) -> None: ...

        class Filler(Plain):
            @handles
            def fill(self) -> None:
                for _ in range(4):
                    self.send("full", "take")

            @handles
            def ping(self) -> str:
                return "pong"

        async with running({"full": Full, "filler": Filler}, limit=1) as app:
            asked = asyncio.ensure_future(app.ask("full", "go"))
            await met.wait()
            await app.send("filler", "fill")
            assert await asyncio.wait_for(asked, 5) == "pong"
            await idle(app)
            assert app.modules["full"].handled == 5
            assert books_balance(app)

    asyncio.run(story())


# -- messages that are not taken --------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", ["nothing", "", "@", "%", "@clock.*", "%report"])
def test_a_type_that_nobody_handles_is_named(type_: str) -> None:
    async def story() -> None:
        async with running({"sink": Sink}) as app:
            with pytest.raises(
                UnknownMessage, match=r"sink 1\.0\.0 does not handle '.*'; it handles: fail, put"
            ):
                await app.ask("sink", type_)
            await app.send("sink", type_)
            await idle(app)
            assert app.modules["sink"].dead == 2
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize("busy", [False, True])
def test_a_body_that_does_not_fit_is_refused_with_its_field(busy: bool) -> None:
    async def story() -> None:
        class Typed(Plain):
            @handles
            def put(self, item: int) -> int:
                return item

        async with running({"typed": Typed}) as app:
            if busy:
                await app.send("typed", "put", {"item": 0})
            with pytest.raises(
                BodyRefused,
                match=r"typed 1\.0\.0 refuses the body of 'put': Expected `int`, got `str` - at `\$\.item`",
            ):
                await app.ask("typed", "put", {"item": "x"})

    asyncio.run(story())


@pytest.mark.parametrize("type_", ["put", "nothing"])
def test_an_error_of_the_module_that_was_asked_is_not_blamed_on_the_asker(type_: str) -> None:
    async def story() -> None:
        class Asker(Plain):
            @handles
            async def go(self) -> None:
                await self.ask("sink", type_, {"wrong": 1})

        async with running({"asker": Asker, "sink": Sink}) as app:
            with pytest.raises(
                HandlerFailed, match=r"asker 1\.0\.0 failed on 'go': (BodyRefused|UnknownMessage): sink"
            ):
                await app.ask("asker", "go")
            assert (app.modules["asker"].dead, app.modules["sink"].dead) == (1, 1)

    asyncio.run(story())


def test_a_reply_is_typed_by_returns_or_refused() -> None:
    async def story() -> None:
        class Asker(Plain):
            @handles
            async def go(self, right: bool) -> Any:
                return await self.ask("sink", "put", {"item": 1}, returns=int if right else str)

        async with running({"asker": Asker, "sink": Sink}) as app:
            assert await app.ask("asker", "go", {"right": True}) == 1
            with pytest.raises(
                HandlerFailed, match="the reply of sink to 'put' is not what returns= asks for"
            ):
                await app.ask("asker", "go", {"right": False})

    asyncio.run(story())


# -- deadlines --------------------------------------------------------------------------------------------------


def test_an_ask_whose_time_is_over_says_that_it_was_accepted() -> None:
    async def story() -> None:
        door, clock = Door(), FakeClock()
        async with running({"gate": gated(door)}, clock=clock) as app:
            asked = asyncio.ensure_future(app.ask("gate", "wait", {"item": 1}, timeout_s=2))
            await until(lambda: door.log)
            await clock.advance(2, lambda: asyncio.sleep(0))
            with pytest.raises(AskTimeout, match="gate did not answer 'wait' in 2 s; it was accepted"):
                await asked
            door.event.set()
            await idle(app)
            assert app.modules["gate"].handled == 1
            assert books_balance(app)

    asyncio.run(story())


def test_a_send_and_an_ask_that_find_no_room_in_time_were_not_accepted() -> None:
    async def story() -> None:
        door, clock = Door(), FakeClock()
        async with running({"gate": gated(door)}, clock=clock, limit=1) as app:
            await app.send("gate", "wait", {"item": 0})
            await until(lambda: door.log)
            await app.send("gate", "wait", {"item": 1})
            sent = asyncio.ensure_future(app.send("gate", "wait", {"item": 2}, timeout_s=1))
            asked = asyncio.ensure_future(app.ask("gate", "wait", {"item": 3}, timeout_s=1))
            await asyncio.sleep(0)
            await clock.advance(1, lambda: asyncio.sleep(0))
            with pytest.raises(MailboxFull, match="gate's mailbox holds 1 messages and made no room in 1 s"):
                await sent
            with pytest.raises(MailboxFull, match="'wait' was not accepted"):
                await asked
            door.event.set()
            await idle(app)
            assert [item for what, item in door.log if what == "ends"] == [0, 1]
            assert app.modules["gate"].mailbox.accepted == 2

    asyncio.run(story())


def test_a_caller_that_is_cancelled_while_it_waits_for_room_is_cancelled() -> None:
    async def story() -> None:
        door = Door()
        async with running({"gate": gated(door)}, limit=1) as app:
            for item in range(2):
                await app.send("gate", "wait", {"item": item})
                await until(lambda: door.log)
            sent = asyncio.ensure_future(app.send("gate", "wait", {"item": 2}))
            await until(lambda: app.modules["gate"].mailbox.late)
            sent.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sent
            assert not app.modules["gate"].mailbox.late
            door.event.set()
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_an_asker_that_gave_up_does_not_trouble_the_module() -> None:
    async def story() -> None:
        door = Door()
        async with running({"gate": gated(door)}) as app:
            asked = asyncio.ensure_future(app.ask("gate", "wait", {"item": 1}))
            await until(lambda: door.log)
            asked.cancel()
            door.event.set()
            await idle(app)
            assert app.modules["gate"].handled == 1
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(story())


@pytest.mark.parametrize("fails", [True, False])
def test_a_failed_ask_leaves_nothing_behind(fails: bool) -> None:
    """Message is not tracked by the garbage collector, so a circle through it would live for ever."""

    async def story() -> None:
        door, witnesses = Door(), []

        class Slow(Plain):
            @handles
            async def work(self) -> None:
                await asyncio.sleep(0)
                if fails:
                    raise KeyError("n")
                await door.event.wait()

        class Witness:
            pass

        async def client(app: Application) -> None:
            witness = Witness()
            witnesses.append(weakref.ref(witness))
            with contextlib.suppress(HandlerFailed, AskTimeout):
                await app.ask("slow", "work", timeout_s=0.001)

        async with running({"slow": Slow}) as app:
            await client(app)
            door.event.set()
            await asyncio.sleep(0)  # the turn that got the reply is over
            await idle(app)
            gc.collect()
            assert witnesses[0]() is None

    asyncio.run(story())


def test_a_dead_letter_does_not_hold_the_module_that_asked() -> None:
    async def story() -> None:
        class Asker(Plain):
            @handles
            async def go(self) -> None:
                await self.ask("slow", "work")

        class Slow(Plain):
            @handles
            async def work(self) -> None:
                await asyncio.sleep(0)
                raise KeyError("n")

        async with running({"asker": Asker, "slow": Slow}) as app:
            old = app.modules["asker"].implementation
            assert old is not None
            gone = weakref.ref(old.instance)
            await app.send("asker", "go")
            await idle(app)
            assert len(app.letters) == 2
            app.modules["asker"].serve(implement(Asker, "asker", "2.0.0"), {})
            del old
            gc.collect()
            assert gone() is None

    asyncio.run(story())


# -- events and ticks -------------------------------------------------------------------------------------------


def test_an_event_reaches_each_subscriber_in_the_publishers_order() -> None:
    async def story() -> None:
        class Ear(Plain):
            def initial_state(self) -> dict[str, Any]:
                return {"heard": []}

            @subscribes("clock.*")
            def on_clock(self, message: Message, n: int) -> None:
                self.state["heard"].append((message.topic, message.sender, n))

        class Mouth(Plain):
            @handles
            def tell(self) -> None:
                for n in range(3):
                    self.publish(f"clock.{n}", {"n": n})

        async with running({"mouth": Mouth, "left": Ear, "right": Ear}, limit=1) as app:
            await app.send("mouth", "tell")
            await idle(app)
            expected = [(f"clock.{n}", "mouth", n) for n in range(3)]
            assert state_of(app, "left")["heard"] == state_of(app, "right")["heard"] == expected
            assert await app.publish("clock.9", {"n": 9}) == 2
            assert await app.publish("elsewhere", {}) == 0

    asyncio.run(story())


def test_a_tick_that_waits_when_its_timer_goes_is_no_dead_letter() -> None:
    async def story() -> None:
        class Ticking(Plain):
            @handles
            def go(self) -> None: ...

            @every(seconds=1)
            def report(self) -> None: ...

        class Quiet(Plain):
            @handles
            def go(self) -> None: ...

        clock = FakeClock()
        async with running({"m": Ticking}, clock=clock) as app:
            proxy = app.modules["m"]

            async def swap() -> None:
                proxy.serve(implement(Quiet, "m", "2.0.0"), {})
                proxy.start()

            await clock.advance(1, swap)
            await idle(app)
            assert (proxy.handled, proxy.dead) == (1, 0)
            assert books_balance(app)

    asyncio.run(story())


# -- leaving ----------------------------------------------------------------------------------------------------


def test_closing_cuts_a_unit_that_does_not_end_and_tells_its_asker() -> None:
    async def story() -> None:
        door = Door()

        class Stuck(Plain):
            @handles
            async def work(self) -> None:
                self.send("sink", "put", {"item": 1})
                await door.event.wait()

        async with running({"stuck": Stuck, "sink": Sink}) as app:
            asked = asyncio.ensure_future(app.ask("stuck", "work"))
            await until(lambda: app.modules["stuck"].unit)
            await app.modules["stuck"].close("it was removed")
            with pytest.raises(Leaving, match="stuck left service while it was handled: it was removed"):
                await asked
            await idle(app)
            assert state_of(app, "sink")["got"] == []
            assert app.turn.awake == 0
            assert books_balance(app)

    asyncio.run(story())


def test_what_ended_units_of_a_closed_module_gave_out_still_arrives() -> None:
    async def story() -> None:
        door = Door()

        class Teller(Plain):
            @handles
            def tell(self) -> None:
                for item in range(5):
                    self.send("gate", "wait", {"item": item})

        async with running({"teller": Teller, "gate": gated(door)}, limit=1) as app:
            await app.send("teller", "tell")
            await until(lambda: app.modules["gate"].mailbox.late)
            await app.modules["teller"].close("it was removed")
            door.event.set()
            await idle(app)
            assert [item for what, item in door.log if what == "ends"] == list(range(5))

    asyncio.run(story())


def test_a_module_that_left_buries_what_waits_and_what_still_comes() -> None:
    async def story() -> None:
        door = Door()
        async with running({"gate": gated(door)}, limit=1) as app:
            proxy = app.modules["gate"]
            await app.send("gate", "wait", {"item": 0})
            await until(lambda: door.log)
            await app.send("gate", "wait", {"item": 1})
            asked = asyncio.ensure_future(app.ask("gate", "wait", {"item": 2}))
            await until(lambda: proxy.mailbox.late)
            proxy.leave("it was removed")
            with pytest.raises(Leaving, match="gate left service before this was handled: it was removed"):
                await asked
            with pytest.raises(Leaving):
                await app.ask("gate", "wait", {"item": 3})
            door.event.set()
            await until(lambda: proxy.unit is None)
            assert (proxy.handled, proxy.dead) == (1, 3)
            assert books_balance(app)

    asyncio.run(story())


def test_an_idle_module_that_left_answers_nobody() -> None:
    async def story() -> None:
        async with running({"sink": Sink}) as app:
            proxy = app.modules["sink"]
            proxy.leave("it was removed")
            with pytest.raises(Leaving, match="sink left service before this was handled: it was removed"):
                await app.ask("sink", "put", {"item": 1})
            assert state_of(app, "sink")["got"] == []
            assert books_balance(app)

    asyncio.run(story())


def test_an_ask_is_not_answered_before_what_the_unit_before_gave_out_has_left() -> None:
    async def story() -> None:
        door = Door()

        class Teller(Plain):
            @handles
            def tell(self) -> None:
                for item in range(4):
                    self.send("gate", "wait", {"item": item})

            @handles
            def quick(self) -> str:
                return "quick"

        async with running({"teller": Teller, "gate": gated(door)}, limit=1) as app:
            await app.ask("teller", "tell")
            await until(lambda: app.modules["gate"].mailbox.late)
            assert app.modules["teller"].unit is None
            asked = asyncio.ensure_future(app.ask("teller", "quick"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not asked.done()
            door.event.set()
            assert await asked == "quick"
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_everything_can_be_let_out_over_the_limits_when_the_host_stops() -> None:
    async def story() -> None:
        door = Door()

        class Teller(Plain):
            @handles
            def tell(self) -> None:
                for item in range(5):
                    self.send("gate", "wait", {"item": item})

        async with running({"teller": Teller, "gate": gated(door)}, limit=1) as app:
            await app.send("teller", "tell")
            await until(lambda: app.modules["gate"].mailbox.late)
            for proxy in app.modules.values():
                proxy.outbox.hand_in()
            waiting = [m.body for m in app.modules["gate"].mailbox.drain()]
            assert [*door.log, *waiting] == [("begins", 0), *({"item": item} for item in range(1, 5))]
            assert not waits_of(app.modules["teller"])
            door.event.set()

    asyncio.run(story())


def test_an_intakes_item_reaches_a_module_that_is_closed_for_the_hosts_stop() -> None:
    async def story() -> None:
        class Source(Plain):
            @intake
            async def item(self) -> int:
                await asyncio.Event().wait()
                return 1

        async with running({"source": Source}) as app:
            await asyncio.wait_for(app.modules["source"].close("the host stopped"), 5)

    asyncio.run(story())


def test_a_pump_that_ends_by_a_fault_of_the_runtime_is_not_silent() -> None:
    async def story() -> None:
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="CRITICAL")
        async with running({"sink": Sink}) as app:

            class Faulty:
                def try_now(self) -> None:
                    raise RuntimeError("a bug of ours")

            app.at_boundary = (Faulty(),)  # what every boundary calls
            await app.send("sink", "put", {"item": 1})
            await until(lambda: told)
        logger.remove(number)
        assert told[0].startswith("sink handles nothing more: its pump ended by RuntimeError: a bug of ours.")

    asyncio.run(story())


# -- the books, whatever happens --------------------------------------------------------------------------------


class Chaotic(Plain):
    """Does what its message says, with the others of the test."""

    @handles
    async def do(self, sends: list[str], ask: str, fails: bool, turns: int) -> None:
        for name in sends:
            self.send(name, "leaf", {})
        if ask:
            await self.ask(ask, "leaf", {}, timeout_s=0.05)
        for _ in range(turns):
            await asyncio.sleep(0)
        if fails:
            raise ValueError("as told")

    @handles
    def leaf(self) -> None: ...


names = st.sampled_from(["a", "b", "c"])


class ProxyBooks(RuleBasedStateMachine):
    """Accepted is handled, dead, under way or waiting: at every moment, and nothing waits at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.context = running(dict.fromkeys(("a", "b", "c"), Chaotic), limit=2)
        self.app = self.loop.run_until_complete(self.context.__aenter__())
        self.tasks: list[asyncio.Task[Any]] = []
        self.version = 1

    @rule(
        name=names,
        sends=st.lists(names, max_size=4),
        ask=st.sampled_from(["", "a", "b", "c"]),
        fails=st.booleans(),
        turns=st.integers(0, 3),
        asked=st.booleans(),
    )
    def work(  # noqa: PLR0917  # Hypothesis gives them by name
        self, name: str, sends: list[str], ask: str, fails: bool, turns: int, asked: bool
    ) -> None:
        body = {"sends": sends, "ask": ask, "fails": fails, "turns": turns}
        call = self.app.ask(name, "do", body) if asked else self.app.send(name, "do", body)
        self.tasks.append(self.loop.create_task(call))

    @rule(turns=st.integers(1, 5))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))

    @precondition(lambda self: self.tasks)
    @rule()
    def cancel_a_caller(self) -> None:
        self.tasks[-1].cancel()

    @rule(name=names)
    def swap_between_units(self, name: str) -> None:
        proxy = self.app.modules[name]
        if proxy.unit is None:
            self.version += 1
            proxy.serve(implement(Chaotic, name, f"{self.version}.0.0"), {})

    @invariant()
    def books(self) -> None:
        assert books_balance(self.app)

    def teardown(self) -> None:
        async def end() -> None:
            await idle(self.app)
            await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), 5)
            await idle(self.app)
            assert books_balance(self.app)
            assert sum(p.dead for p in self.app.modules.values()) == len(self.app.letters)
            await self.context.__aexit__(None, None, None)

        self.loop.run_until_complete(end())
        self.loop.close()


TestProxyBooks = ProxyBooks.TestCase
TestProxyBooks.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("type_", ["plain", "awaiting"])
def test_a_handler_that_cancels_the_task_it_runs_in_does_not_end_the_module(type_: str) -> None:
    async def story() -> None:
        class Odd(Plain):
            @handles
            def plain(self) -> None:
                self._cancel()

            @handles
            async def awaiting(self) -> None:
                self._cancel()

            @handles
            async def fine(self) -> str:
                await asyncio.sleep(0)
                return "fine"

            def _cancel(self) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

        async with running({"odd": Odd}) as app:
            await app.send("odd", type_)
            await app.send("odd", "fine")
            assert await app.ask("odd", "fine", timeout_s=1.0) == "fine"
            assert books_balance(app)
            assert app.modules["odd"].dead == 0

    asyncio.run(story())


def test_a_unit_that_swallows_its_cut_is_dead_and_not_handled_too() -> None:
    async def story() -> None:
        door = Door()

        class Stubborn(Plain):
            @handles
            async def work(self) -> None:
                while not door.event.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await door.event.wait()
                door.log.append("ended")

        async with running({"stubborn": Stubborn}) as app:
            await app.send("stubborn", "work")
            proxy = app.modules["stubborn"]
            await until(lambda: proxy.unit)
            await proxy.close("the host stopped")
            door.event.set()
            await until(lambda: door.log)
            await until(lambda: app.turn.awake == 0)
            assert (proxy.handled, proxy.dead) == (0, 1)
            assert books_balance(app)

    asyncio.run(story())


def test_a_tick_of_a_module_that_left_is_no_dead_letter() -> None:
    async def story() -> None:
        door, clock = Door(), FakeClock()

        class Ticking(Plain):
            @handles
            async def wait(self) -> None:
                await door.event.wait()

            @every(seconds=1.0)
            def tick(self) -> None:
                door.log.append("tick")

        async with running({"ticking": Ticking}, clock=clock) as app:
            await app.send("ticking", "wait")
            proxy = app.modules["ticking"]
            await until(lambda: proxy.unit)
            await clock.advance(1.0, lambda: asyncio.sleep(0))
            assert len(proxy.mailbox) == 1
            proxy.leave("it was removed")
            await clock.advance(5.0, lambda: asyncio.sleep(0))
            door.event.set()
            await idle(app)
            assert len(app.letters) == 0
            assert not door.log
            assert books_balance(app)

    asyncio.run(story())
