"""Quiescence: the moment between units is found, or every module goes on as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from livetag import handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import QuiesceTimeout
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.waits import waits_of
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, running, state_of, until


def quiesce(
    app: Application, names: str, action: Callable[[], Any], *, drain_s: float = 5.0, patience_s: float = 0.0
) -> Quiesce[Any]:
    proxies = [app.modules[name] for name in names.split()]

    def act(_quiesce: Quiesce[Any]) -> Any:
        assert all(proxy.unit is None for proxy in proxies)
        return action()

    return Quiesce(app, proxies, act, drain_s=drain_s, patience_s=patience_s)


def nobody_is_held(app: Application) -> bool:
    return app.quiesce is None and all(p.held is None and not p.admit for p in app.modules.values())


class Worker(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"done": []}

    @handles
    async def work(self, item: int = 0, turns: int = 3) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        self.state["done"].append(item)

    @handles
    async def ask_other(self, other: str, turns: int = 3) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await self.ask(other, "work", {"turns": turns})

    @handles
    async def relay(self, ways: list[str]) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return 1 + (await self.ask(ways[0], "relay", {"ways": ways[1:]}, returns=int) if ways else 0)

    @handles
    def quick(self) -> None: ...


def test_idle_modules_switch_at_once_without_a_turn_of_the_loop() -> None:
    async def story() -> None:
        async with running({"a": Worker, "b": Worker}) as app:
            switch = quiesce(app, "a b", lambda: "done").run()
            with pytest.raises(StopIteration) as stopped:
                switch.send(None)
            assert stopped.value.value == "done"
            assert nobody_is_held(app)

    asyncio.run(story())


@pytest.mark.parametrize("patience_s", [0.0, 0.02])
def test_the_moment_is_found_between_async_units_and_nobody_loses_a_message(patience_s: float) -> None:
    async def story() -> None:
        async with running({"a": Worker, "b": Worker}) as app:
            for item in range(20):
                for name in "ab":
                    await app.send(name, "work", {"item": item})
            await until(lambda: app.modules["a"].unit and app.modules["b"].unit)
            attempt = quiesce(app, "a b", lambda: "done", patience_s=patience_s)
            assert await asyncio.wait_for(attempt.run(), 5) == "done"
            assert nobody_is_held(app)
            assert 0 < attempt.pause.pause_us < 5e6
            await idle(app)
            assert state_of(app, "a")["done"] == state_of(app, "b")["done"] == list(range(20))
            assert books_balance(app)

    asyncio.run(story())


def test_a_unit_that_does_not_end_is_named_with_whom_it_waits_for_and_all_go_on() -> None:
    async def story() -> None:
        door, clock = asyncio.Event(), FakeClock()

        class Stuck(Plain):
            @handles
            async def wait(self) -> None:
                await door.wait()

        async with running({"a": Worker, "stuck": Stuck, "other": Worker}, clock=clock) as app:
            asked = asyncio.ensure_future(app.ask("a", "relay", {"ways": ["stuck"]}))
            stuck = asyncio.ensure_future(app.ask("stuck", "wait", timeout_s=60))
            await until(lambda: app.modules["a"].waits_on and app.modules["stuck"].unit)
            attempt = asyncio.ensure_future(quiesce(app, "a", lambda: None, drain_s=2).run())
            await asyncio.sleep(0)
            await clock.advance(0, lambda: asyncio.sleep(0))
            await app.send("a", "work", {"item": 1})
            await clock.advance(2, lambda: asyncio.sleep(0))
            with pytest.raises(
                QuiesceTimeout,
                match=r"no boundary between two units in 2 s: a in 'relay' asks stuck 'relay' → "
                r"stuck in 'wait' is at test_quiesce.py line \d+ in wait\. Shorten that unit",
            ):
                await attempt
            assert nobody_is_held(app)
            door.set()
            await stuck
            with pytest.raises(Exception, match=r"stuck.*does not handle 'relay'"):
                await asked
            await idle(app)
            assert state_of(app, "a")["done"] == [1]
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize("names", ["a b", "b a", "a b c", "c b a", "a c"])
def test_a_participant_that_a_participant_asks_goes_on_while_held(names: str) -> None:
    async def story() -> None:
        async with running({"a": Worker, "b": Worker, "c": Worker}) as app:
            asked = asyncio.ensure_future(app.ask("a", "relay", {"ways": ["b", "c"]}))
            await until(lambda: app.modules["a"].unit)
            for name in "abc":  # these stand before the asks, and after: order is kept
                await app.send(name, "work", {"item": 1})
            result = await asyncio.wait_for(quiesce(app, names, lambda: "done").run(), 5)
            assert result == "done"
            assert await asked == 3
            await idle(app)
            assert books_balance(app)
            assert nobody_is_held(app)

    asyncio.run(story())


def test_a_participant_asked_before_the_hold_is_admitted_too() -> None:
    async def story() -> None:
        async with running({"a": Worker, "b": Worker}) as app:
            for _ in range(5):
                await app.send("b", "work", {"turns": 20})
            asked = asyncio.ensure_future(app.ask("a", "ask_other", {"other": "b", "turns": 0}))
            await until(lambda: app.modules["a"].waits_on)
            assert await asyncio.wait_for(quiesce(app, "a b", lambda: "done").run(), 5) == "done"
            await asked
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_a_saturated_pipeline_is_brought_to_a_moment_and_keeps_its_order() -> None:
    async def story() -> None:
        class Stage(Plain):
            def initial_state(self) -> dict[str, Any]:
                return {"seen": []}

            @handles
            async def item(self, n: int) -> None:
                await asyncio.sleep(0)
                self.state["seen"].append(n)
                follows = {"first": "second", "second": "third"}.get(self.name)
                if follows:
                    self.send(follows, "item", {"n": n})
                    self.send(follows, "item", {"n": -n})

        async with running({"first": Stage, "second": Stage, "third": Stage}, limit=3) as app:

            async def feed() -> None:
                for n in range(1, 200):
                    await app.send("first", "item", {"n": n})

            feeding = asyncio.ensure_future(feed())
            for _ in range(20):
                await asyncio.wait_for(quiesce(app, "first second third", lambda: "done").run(), 5)
                assert books_balance(app)
                await asyncio.sleep(0)
            await feeding
            await idle(app)
            assert state_of(app, "second")["seen"] == [m for n in range(1, 200) for m in (n, -n)]
            assert len(state_of(app, "third")["seen"]) == 199 * 4

    asyncio.run(story())


def test_a_cancelled_caller_leaves_nobody_held() -> None:
    async def story() -> None:
        async with running({"a": Worker}) as app:
            await app.send("a", "work", {"turns": 100})
            await app.send("a", "work")
            await until(lambda: app.modules["a"].unit)
            attempt = asyncio.ensure_future(quiesce(app, "a", lambda: "done").run())
            await until(lambda: app.modules["a"].held)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            assert nobody_is_held(app)
            await idle(app)
            assert app.modules["a"].handled == 2

    asyncio.run(story())


def test_an_action_that_raises_reopens_and_says_so() -> None:
    async def story() -> None:
        def explode() -> None:
            raise ValueError("as told")

        async with running({"a": Worker}) as app:
            await app.send("a", "work", {"turns": 10})
            await until(lambda: app.modules["a"].unit)
            with pytest.raises(ValueError, match="as told"):
                await quiesce(app, "a", explode).run()
            assert nobody_is_held(app)
            assert await app.ask("a", "quick") is None

    asyncio.run(story())


def test_messages_that_come_while_modules_are_held_wait_and_are_counted() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Stuck(Plain):
            @handles
            async def wait(self) -> None:
                await door.wait()

        async with running({"stuck": Stuck, "a": Worker}) as app:
            await app.send("stuck", "wait")
            await until(lambda: app.modules["stuck"].unit)
            attempt = quiesce(app, "stuck a", lambda: "done")
            task = asyncio.ensure_future(attempt.run())
            await until(lambda: app.modules["a"].held)
            for item in range(4):
                await app.send("a", "work", {"item": item})
            for _ in range(10):
                await asyncio.sleep(0)
            assert app.modules["a"].unit is None
            door.set()
            await task
            assert attempt.pause.held_messages == 4
            await idle(app)
            assert state_of(app, "a")["done"] == [0, 1, 2, 3]

    asyncio.run(story())


def test_a_unit_outside_the_switch_may_send_to_a_full_module_that_is_held() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Stuck(Plain):
            @handles
            async def wait(self) -> None:
                await door.wait()

        class Teller(Plain):
            @handles
            def tell(self) -> None:
                for item in range(5):
                    self.send("a", "work", {"item": item})

        async with running({"stuck": Stuck, "a": Worker, "teller": Teller}, limit=2) as app:
            await app.send("stuck", "wait")
            await until(lambda: app.modules["stuck"].unit)
            task = asyncio.ensure_future(quiesce(app, "stuck a", lambda: "done").run())
            await until(lambda: app.modules["a"].held)
            await app.ask("teller", "tell")
            assert len(app.modules["a"].mailbox.queue) == 5
            assert not waits_of(app.modules["teller"])
            door.set()
            await task
            await idle(app)
            assert state_of(app, "a")["done"] == list(range(5))

    asyncio.run(story())


def test_what_an_inline_unit_sends_has_left_before_the_switch() -> None:
    async def story() -> None:
        class Teller(Plain):
            @handles
            def tell(self) -> None:
                self.send("a", "work", {"item": 7})

        async with running({"teller": Teller, "a": Worker}) as app:
            await app.send("a", "work", {"turns": 3})
            await until(lambda: app.modules["a"].unit)
            seen = []

            def look() -> None:
                seen.append((app.modules["teller"].handled, list(app.modules["teller"].outbox.queue)))

            task = asyncio.ensure_future(quiesce(app, "teller", look).run())
            await task
            await app.ask("teller", "tell")
            assert seen == [(0, [])]
            watcher = quiesce(app, "teller", look)
            app.at_boundary = (watcher,)  # waits for the boundary that the next inline unit makes
            await app.ask("teller", "tell")
            assert seen[-1] == (2, [])
            await idle(app)

    asyncio.run(story())


def test_what_stands_before_an_ask_that_is_admitted_is_handled_first() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Asker(Plain):
            @handles
            async def go(self) -> None:
                await door.wait()
                await self.ask("b", "work", {"item": "asked"})

        async with running({"a": Asker, "b": Untyped}) as app:
            asked = asyncio.ensure_future(app.ask("a", "go"))
            await until(lambda: app.modules["a"].unit)
            switch = asyncio.ensure_future(
                quiesce(app, "a b", lambda: list(state_of(app, "b")["done"])).run()
            )
            await until(lambda: app.modules["b"].held)
            for item in range(3):
                await app.send("b", "work", {"item": item})
            door.set()
            await asyncio.wait_for(asyncio.gather(switch, asked), 5)
            assert switch.result() == [0, 1, 2, "asked"]

    asyncio.run(story())


def test_a_participant_that_waits_for_room_at_another_in_its_unit_gets_it() -> None:
    async def story() -> None:
        begun, door = asyncio.Event(), asyncio.Event()

        class Asker(Plain):
            @handles
            async def go(self) -> str:
                for item in range(6):
                    self.send("b", "work", {"item": item})
                begun.set()
                await self.ask("c", "work", {"item": "asked"}, timeout_s=60)
                return "done"

        class Slow(Untyped):
            @handles
            async def work(self, item: Any) -> None:  # type: ignore[override]
                await door.wait()
                self.state["done"].append(item)

        async with running({"a": Asker, "b": Slow, "c": Untyped}, limit=1) as app:
            asked = asyncio.ensure_future(app.ask("a", "go"))
            await until(lambda: app.modules["b"].mailbox.late)
            switch = asyncio.ensure_future(
                quiesce(app, "a b", lambda: list(state_of(app, "b")["done"])).run()
            )
            await until(lambda: app.modules["b"].held)
            door.set()
            assert await asyncio.wait_for(asked, 5) == "done"
            assert len(await asyncio.wait_for(switch, 5)) < 6, "the others wait for the new version"
            await idle(app)
            assert state_of(app, "b")["done"] == list(range(6))
            assert books_balance(app)

    asyncio.run(story())


class Untyped(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"done": []}

    @handles
    def work(self, item: Any) -> None:
        self.state["done"].append(item)


@pytest.mark.parametrize("first", ["participant", "outsider"])
def test_a_module_outside_the_switch_that_a_participant_waits_for_may_ask_one_that_is_held(
    first: str,
) -> None:
    """Who waits for whom goes over modules that do not take part, in whichever order the waits began."""

    async def story() -> None:
        gates = {"a": asyncio.Event(), "x": asyncio.Event()}

        class A(Plain):
            @handles
            async def go(self) -> str:
                await gates["a"].wait()
                return await self.ask("x", "quick", timeout_s=3.0, returns=str)

        class X(Plain):
            @handles
            async def work(self) -> str:
                await gates["x"].wait()
                return await self.ask("b", "get", timeout_s=3.0, returns=str)

            @handles
            def quick(self) -> str:
                return "quick"

        class B(Plain):
            @handles
            def get(self) -> str:
                return "got"

        async with running({"a": A, "b": B, "x": X}) as app:
            a, b, x = (app.modules[name] for name in "abx")
            replies = [asyncio.ensure_future(app.ask("a", "go")), asyncio.ensure_future(app.ask("x", "work"))]
            await until(lambda: a.unit and x.unit)
            switch = asyncio.ensure_future(
                Quiesce(app, [a, b], lambda _: "switched", drain_s=2.0, patience_s=0.0).run()
            )
            await until(lambda: b.held)
            gates["a" if first == "participant" else "x"].set()
            await until(lambda: a.waits_on if first == "participant" else x.waits_on)
            gates["x" if first == "participant" else "a"].set()
            assert await switch == "switched"
            assert await asyncio.gather(*replies) == ["quick", "got"]

    asyncio.run(story())


def test_a_participant_that_waits_for_room_at_a_module_that_asks_a_held_one_gets_it() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        class A(Plain):
            @handles
            async def go(self) -> str:
                await gate.wait()
                self.send("x", "take")
                return await self.ask("y", "get", timeout_s=3.0, returns=str)

        class X(Plain):
            @handles
            async def work(self) -> str:
                await x_gate.wait()
                return await self.ask("b", "get", timeout_s=3.0, returns=str)

            @handles
            def take(self) -> None: ...

        class B(Plain):
            @handles
            def get(self) -> str:
                return "got"

        x_gate = asyncio.Event()
        async with running({"a": A, "b": B, "x": X, "y": B}, limit=1) as app:
            a, b, x = (app.modules[name] for name in "abx")
            replies = [asyncio.ensure_future(app.ask("a", "go")), asyncio.ensure_future(app.ask("x", "work"))]
            await until(lambda: a.unit and x.unit)
            await app.send("x", "take")  # its mailbox is full now
            switch = asyncio.ensure_future(
                Quiesce(app, [a, b], lambda _: "switched", drain_s=2.0, patience_s=0.0).run()
            )
            await until(lambda: b.held)
            x_gate.set()
            await until(lambda: b.mailbox.queue)
            gate.set()
            assert await switch == "switched"
            assert await asyncio.gather(*replies) == ["got", "got"]

    asyncio.run(story())


def test_a_switch_that_timed_out_leaves_nobody_held_or_admitted() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        class A(Plain):
            @handles
            async def go(self) -> str:
                return await self.ask("b", "get", timeout_s=3.0, returns=str)

        class B(Plain):
            @handles
            async def work(self) -> None:
                await gate.wait()

            @handles
            def get(self) -> str:
                return "got"

        async with running({"a": A, "b": B}) as app:
            a, b = app.modules["a"], app.modules["b"]
            await app.send("b", "work")
            await until(lambda: b.unit)
            reply = asyncio.ensure_future(app.ask("a", "go"))
            await until(lambda: b.mailbox.queue)
            with pytest.raises(QuiesceTimeout):
                await Quiesce(app, [a, b], lambda _: None, drain_s=0.05, patience_s=0.0).run()
            assert [(p.held, p.admit) for p in (a, b)] == [(None, 0), (None, 0)]
            gate.set()
            assert await reply == "got"

    asyncio.run(story())
