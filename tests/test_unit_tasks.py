"""Tasks that a unit starts belong to it: it ends when they have ended, and what they do is its doing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
from loguru import logger

from livetag import every, handles, intake, subscribes
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed, NotInService, TaskExit
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until


class Sink(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def put(self, item: Any) -> int:
        self.state["got"].append(item)
        return len(self.state["got"])


class Door:
    """Events that a class of a test can hold without putting them into its state."""

    def __init__(self) -> None:
        self.opens = asyncio.Event()
        self.log: list[Any] = []
        self.tasks: list[asyncio.Future[Any]] = []


def starter(door: Door) -> type[Plain]:  # noqa: C901  # one for each way
    """A module that starts a task in each way there is, and goes on at once."""

    class Starter(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"events": 0}

        async def _later(self, item: Any) -> Any:
            await door.opens.wait()
            self.send("sink", "put", {"item": item})
            return item

        async def _start_another(self) -> None:
            door.tasks.append(asyncio.create_task(self._later("grandchild")))

        @handles
        def plain(self) -> str:
            door.tasks.append(asyncio.get_running_loop().create_task(self._later("of plain")))
            return "answered"

        @handles
        async def created(self) -> str:
            await asyncio.sleep(0)
            door.tasks.append(asyncio.create_task(self._later("created")))
            return "answered"

        @handles
        async def ensured(self) -> str:
            door.tasks.append(asyncio.ensure_future(self._later("ensured")))
            return "answered"

        @handles
        async def gathered(self) -> str:
            door.tasks.append(asyncio.gather(self._later("left"), self._later("right")))
            return "answered"

        @handles
        async def nested(self) -> str:
            await asyncio.sleep(0)
            door.tasks.append(asyncio.create_task(self._start_another()))
            return "answered"

        @subscribes("go")
        def on_go(self) -> None:
            door.tasks.append(asyncio.create_task(self._later("of an event")))

        @every(seconds=1)
        def tick(self) -> None:
            if not door.tasks:
                door.tasks.append(asyncio.create_task(self._later("of a tick")))

        @handles
        def next(self) -> str:
            door.log.append("next")
            return "next"

    return Starter


WAYS = {
    "plain": ["of plain"],
    "created": ["created"],
    "ensured": ["ensured"],
    "gathered": ["left", "right"],
    "nested": ["grandchild"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", [True, False])
def test_a_unit_ends_when_the_tasks_that_it_started_have_ended(way: str, asked: bool) -> None:
    async def story() -> None:
        door = Door()
        async with running({"starter": starter(door), "sink": Sink}) as app:
            proxy = app.modules["starter"]
            if asked:
                assert await app.ask("starter", way) == "answered", (
                    "the reply is given when the function returns"
                )
            else:
                await app.send("starter", way)
            follows = asyncio.ensure_future(app.ask("starter", "next"))
            await until(lambda: door.tasks)
            for _ in range(20):
                await asyncio.sleep(0)
            assert proxy.unit is not None
            assert proxy.handled == 0
            assert not door.log, "the next unit begins when this one has ended"
            assert app.modules["sink"].mailbox.accepted == 0
            assert books_balance(app)
            switch = asyncio.ensure_future(
                Quiesce(app, [proxy], lambda _: list(state_of(app, "sink")["got"]), drain_s=5.0).run()
            )
            await asyncio.sleep(0)
            assert not switch.done()
            door.opens.set()
            await switch
            assert await follows == "next"
            await idle(app)
            assert state_of(app, "sink")["got"] == WAYS[way]
            assert (proxy.handled, proxy.dead, proxy.tasks) == (2, 0, None)
            assert books_balance(app)
            if way == "gathered":
                await door.tasks[0]

    asyncio.run(story())


@pytest.mark.parametrize("begins", ["event", "tick"])
def test_events_and_ticks_have_tasks_like_any_unit(begins: str) -> None:
    async def story() -> None:
        door, clock = Door(), FakeClock()
        async with running({"starter": starter(door), "sink": Sink}, clock=clock) as app:
            if begins == "event":
                await app.publish("go")
            else:
                await clock.advance(1.0, lambda: asyncio.sleep(0))
            await until(lambda: door.tasks)
            for _ in range(10):
                await asyncio.sleep(0)
            assert app.modules["starter"].unit is not None
            door.opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == [f"of {'an event' if begins == 'event' else 'a tick'}"]
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups are of 3.11")
def test_a_task_group_in_a_handler_is_what_it_always_was() -> None:
    async def story() -> None:
        class Grouping(Plain):
            @handles
            async def go(self, fails: bool) -> list[int]:
                async def one(n: int) -> int:
                    await asyncio.sleep(0)
                    if fails and n == 1:
                        raise KeyError("n")
                    return int(await self.ask("sink", "put", {"item": n}))

                async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
                    tasks = [group.create_task(one(n)) for n in range(3)]
                return [task.result() for task in tasks]

        async with running({"grouping": Grouping, "sink": Sink}) as app:
            assert await app.ask("grouping", "go", {"fails": False}) == [1, 2, 3]
            with pytest.raises(HandlerFailed, match="ExceptionGroup: unhandled errors in a TaskGroup"):
                await app.ask("grouping", "go", {"fails": True})
            assert await app.ask("grouping", "go", {"fails": False})
            assert books_balance(app)

    asyncio.run(story())


# -- failures ---------------------------------------------------------------------------------------------------


class Raising(Plain):
    async def _raise(self, what: str) -> None:
        await asyncio.sleep(0)
        self.send("sink", "put", {"item": "never"})
        raise {
            "exit": SystemExit(3),
            "interrupt": KeyboardInterrupt(),
            "error": KeyError("n"),
            "generator": GeneratorExit(),
        }[what]

    @handles
    async def unseen(self, what: str) -> str:
        self.send("sink", "put", {"item": "of the function"})
        self._task = asyncio.create_task(self._raise(what))  # nobody looks at it
        return "answered"

    @handles
    async def seen(self, what: str) -> str:
        self.send("sink", "put", {"item": "of the function"})
        try:
            await asyncio.create_task(self._raise(what))
        except BaseException as error:  # noqa: BLE001  # whatever the task raised
            return repr(error)
        return "not raised"

    @handles
    async def awaited(self, what: str) -> None:
        self.send("sink", "put", {"item": "of the function"})
        await asyncio.create_task(self._raise(what))

    @handles
    async def passed_on(self, what: str) -> None:
        await asyncio.gather(self._raise(what), asyncio.sleep(0))

    @handles
    def ok(self) -> str:
        return "ok"


@pytest.mark.parametrize("fails", [True, False])
def test_what_a_unit_sends_that_is_answered_at_once_leaves_when_its_tasks_have_ended(fails: bool) -> None:
    async def story() -> None:
        opens = asyncio.Event()

        class Brief(Plain):
            @handles
            def work(self) -> None:
                self.send("sink", "put", {"item": 1})
                self._task = asyncio.get_running_loop().create_task(opens.wait())
                if fails:
                    raise KeyError("n")

        async with running({"m": Brief, "sink": Sink}) as app:
            await idle(app)
            await asyncio.gather(app.ask("m", "work"), return_exceptions=True)
            for _ in range(5):
                await asyncio.sleep(0)
            assert state_of(app, "sink")["got"] == []
            opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == [1] * (not fails)
            assert books_balance(app)

    asyncio.run(story())


def test_a_task_that_ends_as_a_generator_does_fails_its_unit_and_not_the_module() -> None:
    async def story() -> None:
        async with running({"m": Raising, "sink": Sink}) as app:
            with pytest.raises(HandlerFailed, match=r"GeneratorExit.*test_unit_tasks\.py line \d+"):
                await app.ask("m", "awaited", {"what": "generator"})
            assert await app.ask("m", "ok") == "ok"
            await idle(app)
            assert (state_of(app, "sink")["got"], app.modules["m"].dead) == ([], 1)
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("error", "KeyError: 'n'"),
        ("exit", "TaskExit: a task raised SystemExit: 3; in a module that ends the task, never the host"),
        (
            "interrupt",
            "TaskExit: a task raised KeyboardInterrupt; in a module that ends the task, never the host",
        ),
    ],
)
def test_what_a_task_raises_and_nobody_looks_at_is_its_units_failure(what: str, text: str) -> None:
    async def story() -> None:
        async with running({"m": Raising, "sink": Sink}) as app:
            assert await app.ask("m", "unseen", {"what": what}) == "answered"
            await until(lambda: app.letters)
            (letter,) = app.letters
            assert letter.reason.startswith(f"m 1.0.0 failed on 'unseen': {text} (test_unit_tasks.py line ")
            assert await app.ask("m", "ok") == "ok"
            await idle(app)
            assert state_of(app, "sink")["got"] == [], "a unit that failed sends nothing"
            assert (app.modules["m"].handled, app.modules["m"].dead) == (1, 1)
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize("what", ["error", "exit", "interrupt"])
def test_what_a_task_raises_and_the_handler_answers_is_no_failure(what: str) -> None:
    async def story() -> None:
        async with running({"m": Raising, "sink": Sink}) as app:
            reply = await app.ask("m", "seen", {"what": what})
            assert reply.startswith("KeyError" if what == "error" else TaskExit.__name__)
            await idle(app)
            assert state_of(app, "sink")["got"] == ["of the function", "never"]
            assert not len(app.letters)

    asyncio.run(story())


@pytest.mark.parametrize("what", ["error", "exit", "interrupt"])
def test_what_a_task_raises_and_the_handler_passes_on_is_one_failure(what: str) -> None:
    async def story() -> None:
        async with running({"m": Raising, "sink": Sink}) as app:
            with pytest.raises(HandlerFailed, match=r"m 1.0.0 failed on 'passed_on': (KeyError|TaskExit)"):
                await app.ask("m", "passed_on", {"what": what})
            await idle(app)
            assert len(app.letters) == 1
            assert books_balance(app)

    asyncio.run(story())


def test_a_handler_that_raised_ends_when_its_tasks_have_ended_and_sends_nothing_of_theirs() -> None:
    async def story() -> None:
        door = Door()

        class Half(Plain):
            async def _later(self) -> None:
                await door.opens.wait()
                self.send("sink", "put", {"item": "late"})

            @handles
            async def go(self) -> None:
                door.tasks.append(asyncio.create_task(self._later()))
                raise KeyError("n")

        async with running({"half": Half, "sink": Sink}) as app:
            with pytest.raises(HandlerFailed, match="KeyError"):
                await app.ask("half", "go")
            assert app.modules["half"].unit is not None
            assert books_balance(app)
            door.opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == []
            assert len(app.letters) == 1
            assert books_balance(app)

    asyncio.run(story())


def test_a_task_that_was_cancelled_is_no_failure() -> None:
    async def story() -> None:
        class Cancels(Plain):
            @handles
            async def go(self) -> None:
                task = asyncio.create_task(asyncio.sleep(60))
                await asyncio.sleep(0)
                task.cancel()

            @handles
            async def before_it_begins(self) -> None:
                asyncio.create_task(self._never()).cancel()

            async def _never(self) -> None: ...

        async with running({"m": Cancels}) as app:
            await app.ask("m", "go")
            await app.ask("m", "before_it_begins")
            await idle(app)
            assert (app.modules["m"].handled, app.modules["m"].dead) == (2, 0)
            gc.collect()  # a coroutine that was never awaited would be told here

    asyncio.run(story())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_no_task_of_a_loaded_version_ends_the_host_wherever_it_was_started(
    error: type[BaseException],
) -> None:
    """A class in a test is not known from its builtins, so what an intake starts is told by the version it is in."""

    async def story() -> None:
        door = Door()

        class Source(Plain):
            @handles
            async def go(self) -> None:
                async def fail() -> None:
                    raise error

                async def start() -> None:
                    door.tasks.append(asyncio.create_task(fail()))

                await asyncio.create_task(start())
                with contextlib.suppress(TaskExit):
                    await door.tasks[0]

        async with running({"m": Source}) as app:
            await app.ask("m", "go")
            assert isinstance(door.tasks[0].exception(), TaskExit)
            assert not len(app.letters)

    asyncio.run(story())


# -- who may speak ----------------------------------------------------------------------------------------------


def test_nobody_of_a_unit_that_ended_can_speak_though_another_is_under_way() -> None:
    async def story() -> None:
        door, refused = Door(), list[str]()

        class Leaky(Plain):
            @handles
            def leak(self) -> None:
                asyncio.get_running_loop().call_later(0, self._from_nowhere)

            def _from_nowhere(self) -> None:
                try:
                    self.send("sink", "put", {"item": 1})
                except NotInService as error:
                    refused.append(str(error))
                try:
                    self.publish("topic")
                except NotInService as error:
                    refused.append(str(error))

            @handles
            async def wait(self) -> None:
                await door.opens.wait()

            @intake
            async def source(self) -> None:
                await asyncio.sleep(0)
                if self._voice is not None and self._voice.proxy.unit is not None and len(refused) == 2:
                    self._from_nowhere()
                    await asyncio.Event().wait()

        async with running({"leaky": Leaky, "sink": Sink}) as app:
            await app.ask("leaky", "leak")
            await app.send("leaky", "wait")
            await until(lambda: len(refused) == 4)
            assert all("was called in leaky outside a unit of work" in text for text in refused)
            door.opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == []

    asyncio.run(story())


def test_a_task_of_one_module_cannot_speak_for_a_unit_of_another() -> None:
    async def story() -> None:
        door, refused = Door(), list[str]()

        class Other(Plain):
            @handles
            async def lend(self) -> None:
                door.log.append(self)
                door.tasks.append(asyncio.create_task(asyncio.sleep(0)))
                door.tasks.append(asyncio.create_task(door.opens.wait()))
                await door.opens.wait()

        class Thief(Plain):
            @handles
            async def go(self) -> None:
                async def speak() -> None:
                    try:
                        door.log[0].send("sink", "put", {"item": 1})
                    except NotInService as error:
                        refused.append(str(error))

                await asyncio.create_task(speak())
                await speak()

        async with running({"other": Other, "thief": Thief, "sink": Sink}) as app:
            await app.send("other", "lend")
            await until(lambda: door.log)
            await app.ask("thief", "go")
            assert len(refused) == 2
            door.opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == []

    asyncio.run(story())


def test_after_it_answered_a_unit_may_ask_who_asked_it() -> None:
    async def story() -> None:
        door = Door()

        class Front(Plain):
            @handles
            async def go(self) -> str:
                return str(await self.ask("back", "work"))

            @handles
            def note(self, item: str) -> str:
                door.log.append(item)
                return "noted"

        class Back(Plain):
            async def _after(self) -> None:
                await door.opens.wait()
                door.log.append(await self.ask("front", "note", {"item": "done"}))

            @handles
            async def work(self) -> str:
                door.tasks.append(asyncio.create_task(self._after()))
                return "accepted"

        async with running({"front": Front, "back": Back}) as app:
            assert await app.ask("front", "go") == "accepted"
            door.opens.set()
            await idle(app)
            assert door.log == ["done", "noted"]
            assert not len(app.letters)

    asyncio.run(story())


# -- the loop's own factory -------------------------------------------------------------------------------------


class Marked(asyncio.Task[Any]):
    """A task that a factory of the user's makes."""


def test_a_task_factory_that_the_loop_has_makes_the_tasks_still_and_comes_back() -> None:
    async def story() -> None:
        door = Door()

        def factory(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **keywords: Any
        ) -> asyncio.Future[Any]:
            return Marked(coroutine, loop=loop, **keywords)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)  # type: ignore[arg-type]  # typeshed names each keyword
        async with running({"starter": starter(door), "sink": Sink}) as app:
            await app.ask("starter", "created")
            assert isinstance(door.tasks[0], Marked)
            assert app.modules["starter"].unit is not None
            door.opens.set()
            await idle(app)
        assert loop.get_task_factory() is factory

    asyncio.run(story())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of 3.12")
def test_eager_tasks_belong_to_their_unit_and_may_speak_at_once() -> None:
    async def story() -> None:
        door = Door()

        class Eager(Plain):
            async def _outer(self) -> None:
                self.send("sink", "put", {"item": "at once"})
                door.tasks.append(asyncio.create_task(self._inner()))

            async def _inner(self) -> None:
                self.send("sink", "put", {"item": "at once, too"})
                await door.opens.wait()
                self.send("sink", "put", {"item": "later"})

            async def _exit(self) -> None:
                sys.exit(3)

            @handles
            def plain(self) -> None:
                door.tasks.append(asyncio.create_task(self._outer()))

            @handles
            async def awaiting(self) -> None:
                await asyncio.sleep(0)
                door.tasks.append(asyncio.create_task(self._outer()))

            @handles
            async def exits(self) -> None:
                door.tasks.append(asyncio.create_task(self._exit()))

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        async with running({"eager": Eager, "sink": Sink}) as app:
            for way in ("plain", "awaiting"):
                door.opens.clear()
                await app.ask("eager", way)
                assert app.modules["eager"].unit is not None
                door.opens.set()
                await idle(app)
            assert state_of(app, "sink")["got"] == 2 * ["at once", "at once, too", "later"]
            assert not len(app.letters)
            await app.ask("eager", "exits")
            await idle(app)
            assert [letter.reason.partition(";")[0] for letter in app.letters] == [
                "eager 1.0.0 failed on 'exits': TaskExit: a task raised SystemExit: 3"
            ]

    asyncio.run(story())


def test_the_loop_has_its_own_factory_when_the_last_module_of_each_application_has_closed() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        first, second = running({"a": Sink}), running({"b": Sink, "c": Sink})
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        await second.__aexit__(None, None, None)
        door = Door()
        async with running({"starter": starter(door), "sink": Sink}) as app:
            await app.ask("starter", "created")
            assert app.modules["starter"].unit is not None
            door.opens.set()
            await idle(app)
        assert loop.get_task_factory() is None

    asyncio.run(story())


# -- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plain", "created"])
def test_closing_cuts_the_tasks_of_a_unit_and_its_message_is_dead(way: str) -> None:
    async def story() -> None:
        door = Door()
        async with running({"starter": starter(door), "sink": Sink}) as app:
            await app.ask("starter", way)
            await app.modules["starter"].close("it was removed")
            assert door.tasks[0].cancelled()
            (letter,) = app.letters
            assert letter.reason == "starter left service while it was handled: it was removed"
            assert books_balance(app)
            await idle(app)
            assert state_of(app, "sink")["got"] == []

    asyncio.run(story())


def test_a_task_that_swallows_its_cut_is_named_and_keeps_nobody_waiting() -> None:
    async def story() -> None:
        door = Door()
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="WARNING")

        class Stubborn(Plain):
            async def _stay(self) -> None:
                while not door.opens.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await door.opens.wait()
                try:
                    self.send("sink", "put", {"item": 1})
                except NotInService as error:
                    door.log.append(str(error))

            @handles
            async def go(self) -> None:
                door.tasks.append(asyncio.create_task(self._stay()))

        async with running({"stubborn": Stubborn, "sink": Sink}) as app:
            await app.ask("stubborn", "go")
            await asyncio.sleep(0)
            await app.modules["stubborn"].close("it was removed")
            logger.remove(number)
            assert any("_stay" in text and "did not end when it was cancelled" in text for text in told)
            door.opens.set()
            await until(lambda: door.log)
            assert "is not in service" in door.log[0]
            assert books_balance(app)

    asyncio.run(story())


def test_tasks_that_a_switch_starts_on_the_stack_of_a_unit_belong_to_no_unit() -> None:
    async def story() -> None:
        door = Door()

        class Old(Plain):
            @handles
            def go(self) -> str:
                return "done"

        class New(Old):
            @intake
            async def source(self) -> None:
                await door.opens.wait()

        async with running({"m": Old, "other": Old}) as app:
            proxy = app.modules["m"]

            def swap(_quiesce: object) -> None:
                proxy.serve(implement(New, "m", "2.0.0"), {})
                proxy.start()
                door.tasks.append(asyncio.get_running_loop().create_task(asyncio.sleep(0)))

            await hold_open(
                app, "other", lambda: Quiesce(app, [proxy, app.modules["other"]], swap, drain_s=5.0)
            )
            assert [p.tasks for p in app.modules.values()] == [None, None]
            assert await app.ask("m", "go") == "done"
            await door.tasks[0]

    async def hold_open(app: Application, name: str, attempt: Any) -> None:
        """Let a switch happen at the boundary that an ask answered at once makes."""
        proxy = app.modules[name]
        proxy.unit = app.message("held", None, "")
        switch = asyncio.ensure_future(attempt().run())
        await asyncio.sleep(0)
        proxy.unit = None
        await app.ask("m", "go")
        await switch

    asyncio.run(story())


def test_what_the_framework_starts_for_a_unit_is_no_task_of_the_units() -> None:
    async def story() -> None:
        door = Door()

        class Slow(Plain):
            @handles
            async def work(self) -> None:
                await door.opens.wait()

        class Asker(Plain):
            @handles
            async def go(self) -> None:
                for _ in range(4):
                    self.send("slow", "work")
                await self.ask("sink", "put", {"item": 1}, timeout_s=60)

        async with running({"asker": Asker, "slow": Slow, "sink": Sink}, limit=1) as app:
            await app.send("asker", "go")
            await until(lambda: app.modules["asker"].outbox.room_at)
            for _ in range(5):
                await asyncio.sleep(0)
            assert app.modules["asker"].unit is not None
            assert app.modules["asker"].tasks is None
            door.opens.set()
            await idle(app)
            assert state_of(app, "sink")["got"] == [1]

    asyncio.run(story())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups are of 3.11")
def test_a_unit_that_cancelled_itself_leaves_no_mark_on_the_task_groups_of_later_ones() -> None:
    async def story() -> None:
        class Odd(Plain):
            @handles
            async def cancels(self) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

            @handles
            async def groups(self) -> None:
                async def fail() -> None:
                    raise KeyError("n")

                async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
                    group.create_task(fail())
                    await asyncio.sleep(60)

        async with running({"odd": Odd}) as app:
            with pytest.raises(HandlerFailed, match="CancelledError"):
                await app.ask("odd", "cancels")
            with pytest.raises(HandlerFailed, match="ExceptionGroup"):
                await app.ask("odd", "groups")
            assert books_balance(app)

    asyncio.run(story())
