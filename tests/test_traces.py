"""What a unit that failed may have left behind: each rule by which a dead letter may be given again (DESIGN §7.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from livetag import Module, Table, every, handles, intake, subscribes, testing
from orchestrator.runtime.errors import AskTimeout, HandlerFailed, ModuleError, Stalled
from orchestrator.runtime.letters import DeadLetter, decode_letter, encode_letter
from orchestrator.runtime.message import ASKED_BY, Message, decode_message, encode_message
from orchestrator.runtime.traces import ASKED, CUT, REFUSED, SOURCES, TICK, TWICE
from orchestrator.testing import ModuleUnderTest
from tests.runtime_kit import Plain, idle, running, until

STATE = "self.state is in memory, and work 1.0.0 may have changed it"


class InTables(Plain):
    """All its state is in a Table."""

    seen: Table[int, int] = Table(version=1)

    @handles
    def add(self, n: int) -> None:
        self.seen[n] = n
        self.send("sink", "put", {"n": n})
        raise ValueError("no")

    @handles
    def look(self) -> int:
        return len(self.state)

    @handles
    def keep(self) -> None:
        self.state = {"kept": True}

    @handles
    def reads(self) -> None:
        len(self.state)
        raise ValueError("no")

    @subscribes("clock.*")
    def on_clock(self, event: dict[str, Any]) -> None:
        raise ValueError("no")

    @handles(thread=True)
    def threaded(self) -> None:
        self.seen[1] = 1
        raise ValueError("no")

    @handles
    def exits(self) -> None:
        raise SystemExit

    @handles
    def stalls(self) -> None:
        self.seen[1] = 1
        raise Stalled

    @handles
    async def by_task(self) -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            self.seen[1] = 1
            raise ValueError("no")

        self.task = asyncio.create_task(fail())

    @handles
    async def asks(self) -> None:
        await self.ask("other", "hello")
        raise ValueError("no")

    @handles
    async def task_asks(self) -> None:
        await asyncio.create_task(self._ask())
        raise ValueError("no")

    async def _ask(self) -> None:
        await self.ask("other", "hello")

    @handles(thread=True)
    def asks_blocking(self) -> None:
        self.ask_blocking("other", "hello")
        raise ValueError("no")

    @handles
    async def asks_itself(self) -> None:
        await self.ask("work", "look")

    @handles
    async def asks_the_deaf(self) -> None:
        self.send("other", "hello")
        await self.ask("other", "goodbye")

    @handles(again=True)
    async def twice(self) -> None:
        len(self.state)
        await self.ask("other", "hello")
        raise ValueError("no")

    @handles(again=False)
    def once(self, n: int) -> None:
        raise ValueError("no")


class Other(Plain):
    @handles
    def hello(self) -> str:
        return "hello"


@pytest.mark.parametrize(
    ("type_", "trace"),
    [
        ("add", ""),
        ("threaded", ""),
        ("exits", ""),
        ("stalls", ""),
        ("by_task", ""),
        ("asks_itself", ""),  # refused before anything left
        ("asks", ASKED),
        ("task_asks", ASKED),
        ("asks_blocking", ASKED),
        ("asks_the_deaf", ASKED),  # what was sent before has left with it
        ("twice", ""),
        ("once", REFUSED),
        ("reads", STATE),
        ("nothing", ""),  # no handler: nothing began
    ],
)
def test_a_message_of_a_module_with_tables_alone_may_be_given_again_unless_its_unit_left_a_trace(
    type_: str, trace: str
) -> None:
    async def story() -> None:
        async with running({"work": InTables, "other": Other, "sink": Sink}) as app:
            body = {"n": 1} if type_ in {"add", "once"} else None
            await app.send("work", type_, body)
            await until(lambda: len(app.letters) == 1 + (type_ == "asks_the_deaf"))
            letter = next(each for each in app.letters if each.module == "work")
            assert (letter.version, letter.trace) == ("1.0.0", trace)
            assert not len(app.modules["work"].tables.live["seen"])
            await idle(app)
            assert not app.modules["sink"].handled

    asyncio.run(story())


class Sink(Plain):
    @handles
    def put(self, n: int) -> None: ...


@pytest.mark.parametrize("touch", ["look", "keep"])
def test_once_the_version_has_touched_its_state_in_memory_a_unit_may_have_changed_it(touch: str) -> None:
    async def story() -> None:
        async with running({"work": InTables, "sink": Sink}) as app:
            await app.send("work", "add", {"n": 1})
            await app.send("work", touch)
            for type_, body in [("add", {"n": 2}), ("add", {"x": 3}), ("nothing", {}), ("once", {})]:
                await app.send("work", type_, body)
            await app.publish("clock.tick", {})
            await until(lambda: len(app.letters) == 6)
            assert [each.trace for each in app.letters] == ["", STATE, "", "", "", STATE]

    asyncio.run(story())


def test_a_look_at_the_state_from_outside_is_no_touch() -> None:
    async def story() -> None:
        async with testing.run(InTables, name="work", state={"old": 1}) as work:
            assert work.state == {"old": 1}
            await work.send("add", {"n": 1})
            assert work.dead_letters[0].trace == ""
            await work.send("keep")
            assert work.state == {"kept": True}
            await work.send("add", {"n": 1})
            assert work.dead_letters[1].trace == STATE.replace("1.0.0", "InTables")

    asyncio.run(story())


class Stateful(Plain):
    """Touches its state in each unit."""

    def initial_state(self) -> dict[str, Any]:
        return {"total": 0}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        if n < 0:
            raise ValueError("below zero")
        return int(self.state["total"])

    @handles
    async def asks(self) -> None:
        self.state["total"] = 99
        await self.ask("other", "hello")
        raise ValueError("no")


@pytest.mark.parametrize("durable", [False, True])
def test_of_a_durable_module_the_state_is_read_again_and_of_one_in_memory_it_is_not(durable: bool) -> None:
    async def story() -> None:
        answers = {("other", "hello"): "hello"}
        async with testing.run(Stateful, name="work", durable=durable, answers=answers) as work:
            await work.send("add", {"n": 1})
            await work.send("add", {"n": -5})
            await work.send("asks")
            assert work.state == {"total": 1 if durable else 99}
            stayed = "" if durable else STATE.replace("1.0.0", "Stateful")
            assert [each.trace for each in work.dead_letters] == [stayed, ASKED]

    asyncio.run(story())


class Asked(Plain):
    """In memory, without state: only how it is asked may be a trace."""

    gate: asyncio.Event

    async def prepare(self) -> None:
        self.gate = asyncio.Event()

    @handles
    def fail(self) -> None:
        raise ValueError("no")

    @handles
    async def fail_later(self) -> None:
        await self.gate.wait()
        raise ValueError("no")

    @handles
    async def fail_in_a_task(self) -> str:
        self.task = asyncio.create_task(self._fail())
        return "done"

    @handles
    def task_after_the_answer(self) -> str:
        self.task = asyncio.get_running_loop().create_task(self._fail())
        return "done"

    async def _fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    @handles(again=True)
    def again(self) -> None:
        raise ValueError("no")

    @handles(again=True)
    async def asks_later(self) -> None:
        await self.gate.wait()
        await self.ask("other", "hello")
        raise ValueError("no")

    @handles
    def narrow(self, n: int) -> None: ...

    @handles
    def open(self) -> None:
        self.gate.set()


async def _refused(work: ModuleUnderTest, type_: str) -> None:
    with pytest.raises(ModuleError):
        await work.ask(type_)


async def _gave_up(work: ModuleUnderTest, type_: str = "fail_later") -> None:
    """The asker has gone when the unit fails."""
    asking = asyncio.ensure_future(work.ask(type_, timeout_s=1.0))
    await work.advance(seconds=2)
    with pytest.raises(AskTimeout):
        await asking
    work.proxy.implementation.instance.gate.set()  # type: ignore[union-attr]
    await work.settle()


@pytest.mark.parametrize(
    "how",
    [
        lambda work: _refused(work, "fail"),
        lambda work: _refused(work, "narrow"),
        lambda work: _refused(work, "unheard_of"),
        lambda work: _refused(work, "again"),  # who asked was told, whatever the handler says
        lambda work: _refused(work, "fail_in_a_task") if work.proxy.durable else work.ask("fail_in_a_task"),
        lambda work: work.ask("task_after_the_answer") if not work.proxy.durable else _refused(work, "fail"),
        _gave_up,
        lambda work: _gave_up(work, "asks_later"),  # and so it is asked and asks
    ],
)
@pytest.mark.parametrize("durable", [False, True])
def test_an_ask_is_never_given_again(
    how: Callable[[ModuleUnderTest], Awaitable[None]], durable: bool
) -> None:
    async def story() -> None:
        answers = {("other", "hello"): "hello"}
        async with testing.run(Asked, durable=durable, answers=answers) as work:
            await how(work)
            await work.settle()
            assert [(each.trace, each.message.trace) for each in work.dead_letters] == [(ASKED_BY, "")]

    asyncio.run(story())


def test_an_ask_that_waits_in_the_mailbox_is_never_given_again() -> None:
    async def story() -> None:
        async with testing.run(Asked) as work:
            await work.proxy.post(Message("fail_later"), 1.0)
            asking = asyncio.ensure_future(work.ask("fail"))
            await asyncio.sleep(0)
            work.proxy.implementation.instance.gate.set()  # type: ignore[union-attr]
            with pytest.raises(HandlerFailed):
                await asking
            assert [each.trace for each in work.dead_letters] == ["", ASKED_BY]

    asyncio.run(story())


def test_what_was_given_again_and_fails_again_is_not_given_a_third_time() -> None:
    async def story() -> None:
        async with testing.run(Asked) as work:
            for type_ in ("fail", "again", "unheard_of"):
                await work.send(type_)
            assert [each.trace for each in work.dead_letters] == ["", "", ""]
            for letter in work.dead_letters:
                await work.proxy.app.give_again(letter)
            await work.settle()
            assert [each.trace for each in work.dead_letters] == [TWICE, TWICE, TWICE]

    asyncio.run(story())


def test_a_tick_is_not_given_again_as_the_next_one_comes_by_itself() -> None:
    class Ticks(Plain):
        @every(seconds=1.0)
        def tick(self) -> None:
            raise ValueError("no")

    async def story() -> None:
        async with testing.run(Ticks) as work:
            await work.advance(seconds=1)
            assert [each.trace for each in work.dead_letters] == [TICK]

    asyncio.run(story())


class Reads(Plain):
    """Attaches and detaches sources, in units and in an intake."""

    gate: asyncio.Event
    arrived: asyncio.Event

    async def prepare(self) -> None:
        self.gate, self.arrived = asyncio.Event(), asyncio.Event()

    @handles
    def take(self, n: int) -> None:
        self.attach("line", n, asyncio.StreamReader())
        raise ValueError("no")

    @handles
    def drop(self, n: int) -> None:
        self.detach("line", n)
        raise ValueError("no")

    @handles
    def refused(self) -> None:
        self.attach("no such intake", 1, asyncio.StreamReader())

    @handles
    async def slow(self) -> None:
        self.gate.set()
        await self.arrived.wait()
        raise ValueError("no")

    @intake
    async def arrive(self) -> None:
        await self.gate.wait()
        self.gate.clear()
        self.attach("line", 100, asyncio.StreamReader())
        self.arrived.set()

    @handles("arrive")
    def on_arrive(self) -> None: ...

    @intake(each=True)
    async def line(self, stream: asyncio.StreamReader) -> bytes:
        return await stream.readuntil()


def test_a_source_that_a_unit_attached_or_detached_is_a_trace_and_one_of_an_intake_is_not() -> None:
    async def story() -> None:
        async with testing.run(Reads) as work:
            work.attach("line", 1, asyncio.StreamReader())
            for type_, body in [
                ("take", {"n": 2}), ("drop", {"n": 1}), ("drop", {"n": 77}), ("refused", {}), ("slow", {}),
            ]:  # fmt: skip
                await work.send(type_, body)
            assert [each.trace for each in work.dead_letters] == [SOURCES, SOURCES, "", "", ""]
            assert len(work.proxy.intakes.sources) == 2  # that of the unit that failed is still read

    asyncio.run(story())


def test_what_is_cut_in_the_middle_may_have_had_effects_and_what_waited_never_began() -> None:
    async def story() -> None:
        async with running({"work": Asked}) as app:
            proxy = app.modules["work"]
            proxy.implementation.instance.gate = asyncio.Event()  # type: ignore[union-attr]
            await app.send("work", "fail_later")
            await app.send("work", "fail")
            await until(lambda: proxy.unit is not None)
            proxy.leave("it is over")
            await proxy.close("it is over")
            letters = sorted(app.letters, key=lambda each: each.message.id)
            assert [(each.version, each.trace) for each in letters] == [("1.0.0", CUT), ("", "")]

    asyncio.run(story())


def test_a_letter_survives_its_bytes_with_what_failed_on_it() -> None:
    message = Message("tick", {"a": 1}, "source", 7, 3.5, "clock.t", again=True)
    letter = DeadLetter(3, "work", message, "it failed", 9.5, durable=True, version="1.2.0", trace=ASKED)
    data = encode_letter(letter)
    assert decode_letter(3, "work", data, "it failed", 9.5, durable=True) == letter
    assert decode_message(data).id == 7  # who knows no letters reads a message


def test_a_letter_of_a_journal_from_before_is_one_that_is_not_given_again() -> None:
    letter = decode_letter(
        3, "work", encode_message(Message("tick", {"a": 1}, "source", 7)), "it failed", 9.5
    )
    assert (letter.message.id, letter.version, letter.trace) == (7, "", "")


def test_a_waiting_ask_that_is_kept_over_a_stop_is_still_known_as_one() -> None:
    async def story() -> None:
        asked = Message("tick", reply=asyncio.get_running_loop().create_future())
        assert decode_message(encode_message(asked)).trace == ASKED_BY
        assert decode_message(encode_message(Message("tick"))).trace == ""

    asyncio.run(story())


def test_the_state_is_the_same_object_however_it_is_reached() -> None:
    class Mine(Module[dict[str, Any]]):
        @handles
        def same(self) -> bool:
            return self.state is self.state and self._untouched_is_gone()

        def _untouched_is_gone(self) -> bool:
            return "_untouched" not in vars(self)

    async def story() -> None:
        async with running({"work": Mine}) as app:
            implementation = app.modules["work"].implementation
            assert implementation is not None
            state = implementation.state
            assert not implementation.state_touched
            assert await app.ask("work", "same") is True
            assert implementation.state is state
            assert implementation.state_touched

    asyncio.run(story())
