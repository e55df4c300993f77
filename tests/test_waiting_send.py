"""A send to a name that nobody has yet: an error at once, or it waits for the name up to a deadline (issue 3.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed, UnknownName
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until, wire


class Sender(Plain):
    @handles
    def one(self, n: int, wait_s: float | None = None) -> None:
        self.send("late", "take", {"n": n}, wait_s=wait_s)
        self.send("there", "take", {"n": n})

    @handles
    async def asks(self) -> int:
        self.send("late", "take", {"n": 0}, wait_s=10)
        return int(await self.ask("there", "take", {"n": 0}, timeout_s=1.0))

    @handles
    def sees(self, name: str) -> bool:
        return self.bound(name)


class Takes(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def take(self, n: int) -> int:
        self.state["got"].append(n)
        return n


def got(app: Application, name: str) -> list[int]:
    return list(state_of(app, name)["got"])


def bind_late(app: Application) -> None:
    """What a switch does that adds a module under the name."""
    proxy = ModuleProxy(app, "late", 100)
    implementation = implement(Takes, "late")
    proxy.serve(implementation, implementation.first_state())
    wire(app, {**app.modules, "late": proxy})
    proxy.start()


def turns(count: int = 20) -> Any:
    async def settle() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    return settle()


def test_without_a_wish_to_wait_an_unbound_name_is_the_senders_error() -> None:
    async def story() -> None:
        async with running({"sender": Sender, "there": Takes}) as app:
            with pytest.raises(HandlerFailed, match="No module is bound to 'late'; nothing was sent"):
                await app.ask("sender", "one", {"n": 1})
            assert await app.ask("sender", "sees", {"name": "there"}) is True
            assert await app.ask("sender", "sees", {"name": "late"}) is False
            await idle(app)
            assert got(app, "there") == []

    asyncio.run(story())


def test_what_waits_for_a_name_leaves_in_order_when_it_is_bound() -> None:
    async def story() -> None:
        async with running({"sender": Sender, "there": Takes}) as app:
            for n in (1, 2, 3):
                await app.send("sender", "one", {"n": n, "wait_s": 5})
            sender = app.modules["sender"]
            await until(lambda: not sender.outbox.empty)
            await turns()
            assert sender.unit is None, "the unit has ended, only its output waits"
            assert len(sender.mailbox) == 2, "the next units wait behind it"
            assert got(app, "there") == []
            bind_late(app)
            await idle(app)
            assert got(app, "late") == got(app, "there") == [1, 2, 3]
            assert books_balance(app)
            await app.modules["late"].close("the test is over")

    asyncio.run(story())


def test_at_the_deadline_it_is_a_dead_letter_and_the_rest_goes_on() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with running({"sender": Sender, "there": Takes}, clock=clock) as app:
            await app.ask("sender", "one", {"n": 1, "wait_s": 2})
            await clock.advance(1.9, turns)
            assert got(app, "there") == []
            await clock.advance(0.2, turns)
            await idle(app)
            assert got(app, "there") == [1]
            (letter,) = app.letters
            assert (letter.module, letter.message.type, letter.message.body) == ("late", "take", {"n": 1})
            assert (
                letter.reason == "no module was bound to 'late' in the time that the sender gave it (wait_s)"
            )

    asyncio.run(story())


def test_a_switch_does_not_wait_for_a_module_whose_output_waits_for_a_name() -> None:
    async def story() -> None:
        async with running({"sender": Sender, "there": Takes}) as app:
            await app.ask("sender", "one", {"n": 1, "wait_s": 5})
            sender = app.modules["sender"]

            def add(_quiesce: object) -> str:
                bind_late(app)
                return "switched"

            assert await Quiesce(app, [sender], add, drain_s=0.5).run() == "switched"
            await idle(app)
            assert got(app, "late") == [1]
            await app.modules["late"].close("the test is over")

    asyncio.run(story())


def test_an_ask_behind_it_says_what_it_waited_for() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with running({"sender": Sender, "there": Takes}, clock=clock) as app:
            asking = asyncio.ensure_future(app.ask("sender", "asks", timeout_s=20))
            await turns()
            await clock.advance(1.1, turns)
            with pytest.raises(
                HandlerFailed, match=r"there was not asked 'take': .* waits for its name to be bound"
            ):
                await asking
            app.modules["sender"].outbox.hand_in()

    asyncio.run(story())


def test_a_module_that_ends_gives_up_waiting_for_names() -> None:
    async def story() -> None:
        async with running({"sender": Sender, "there": Takes}) as app:
            await app.ask("sender", "one", {"n": 1, "wait_s": 600})
            await app.modules["sender"].close("it was removed")
            assert [x.module for x in app.letters] == ["late"]
            await idle(app)
            assert got(app, "there") == [1]
            assert not app.names._awaited, "nobody is told any more"

    asyncio.run(story())


def test_from_outside_one_may_wait_for_a_name_too() -> None:
    async def story() -> None:
        async with running({"there": Takes}) as app:
            with pytest.raises(UnknownName):
                await app.send("late", "take", {"n": 1}, wait_s=0.01)
            sending = asyncio.ensure_future(app.send("late", "take", {"n": 2}, wait_s=5))
            await turns()
            bind_late(app)
            await sending
            await idle(app)
            assert got(app, "late") == [2]
            await app.modules["late"].close("the test is over")

    asyncio.run(story())


def test_a_name_moves_between_two_messages_and_each_goes_to_one() -> None:
    """Under load: whoever has the name when a unit ends gets what it sent; no number twice, none lost, each in order."""

    class Feeds(Plain):
        @handles
        def feed(self, start: int) -> None:
            for n in range(start, start + 10):
                self.send("target", "take", {"n": n})

    async def story() -> None:
        classes = {"feeds": Feeds, "left": Takes, "right": Takes}
        async with running(classes, limit=7) as app:
            wire(app, app.modules, {"target": "left"})

            async def load() -> None:
                for start in range(0, 5000, 10):
                    await app.send("feeds", "feed", {"start": start})

            loading = asyncio.ensure_future(load())
            moves = 0
            while not loading.done():
                await turns(7)
                moves += 1
                wire(app, app.modules, {"target": "right" if moves % 2 else "left"})
            await loading
            await idle(app)
            left, right = got(app, "left"), got(app, "right")
            assert sorted(left + right) == list(range(5000))
            assert left == sorted(left)
            assert right == sorted(right)
            assert left
            assert right
            assert moves > 10
            assert books_balance(app)

    asyncio.run(story())
