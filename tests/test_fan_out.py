"""One slow subscriber never loses an event, nor blocks another; one that wishes so loses its oldest (DESIGN §3, issue 3.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import Message, handles, subscribes
from orchestrator.runtime.errors import MailboxFull
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until

DOORS: dict[str, asyncio.Event] = {}


class Hears(Plain):
    """Keeps the numbers it hears; waits at its door for each."""

    def initial_state(self) -> dict[str, Any]:
        return {"heard": []}

    @subscribes("t")
    async def on(self, n: int) -> None:
        await DOORS.setdefault(self.name, asyncio.Event()).wait()
        self.state["heard"].append(n)

    @handles
    async def other(self, n: int) -> None:
        self.state["heard"].append(-n)


class Says(Plain):
    @handles
    def say(self, n: int) -> None:
        self.publish("t", {"n": n})

    @handles
    def many(self, numbers: list[int]) -> None:
        for n in numbers:
            self.publish("t", {"n": n})


class Newest(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"heard": []}

    @subscribes("t", drop_oldest=True)
    async def on(self, n: int) -> None:
        await DOORS.setdefault(self.name, asyncio.Event()).wait()
        self.state["heard"].append(n)

    @handles
    def other(self, n: int) -> None:
        self.state["heard"].append(-n)


@pytest.fixture(autouse=True)
def _closed_doors() -> None:
    DOORS.clear()


def heard(app: Any, name: str) -> list[int]:
    return list(state_of(app, name)["heard"])


def open_door(name: str) -> None:
    DOORS.setdefault(name, asyncio.Event()).set()


def test_those_with_room_get_an_event_that_another_has_no_room_for() -> None:
    async def story() -> None:
        async with running({"a": Hears, "says": Says, "z": Hears}, limit=2) as app:
            open_door("z")
            await app.ask(
                "says", "many", {"numbers": [1, 2, 3, 4, 5]}
            )  # a: one in hand, two waiting, the fourth outside
            await until(lambda: heard(app, "z") == [1, 2, 3, 4])
            assert app.modules["says"].outbox.room_at is app.modules["a"]
            await app.send("says", "say", {"n": 6})
            await asyncio.sleep(0.01)
            assert heard(app, "z") == [1, 2, 3, 4], "nothing lost, so the publisher waits with its next event"
            open_door("a")
            await idle(app)
            assert heard(app, "a") == heard(app, "z") == [1, 2, 3, 4, 5, 6]
            assert books_balance(app)

    asyncio.run(story())


def test_two_slow_ones_are_waited_for_side_by_side() -> None:
    async def story() -> None:
        async with running({"a": Hears, "b": Hears, "says": Says}, limit=1) as app:
            await app.send("says", "many", {"numbers": [1, 2, 3, 4]})
            await until(lambda: len(app.modules["says"].outbox.rooms) == 2)
            open_door("b")
            await until(lambda: len(heard(app, "b")) == 3)
            assert app.modules["says"].outbox.rooms == [app.modules["a"]]
            open_door("a")
            await idle(app)
            assert heard(app, "a") == heard(app, "b") == [1, 2, 3, 4]
            assert books_balance(app)

    asyncio.run(story())


def test_from_outside_the_others_have_it_though_one_made_no_room() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with running({"a": Hears, "z": Hears}, clock=clock, limit=1) as app:
            open_door("z")
            for n in (1, 2):
                assert await app.publish("t", {"n": n}) == 2
                await until(lambda: app.modules["a"].unit)
            third = asyncio.ensure_future(app.publish("t", {"n": 3}, timeout_s=1))
            await until(lambda: heard(app, "z") == [1, 2, 3])
            await clock.advance(1, lambda: asyncio.sleep(0))
            with pytest.raises(MailboxFull, match=r"^a's mailbox .* 1 of 2 subscriptions have the event\.$"):
                await third
            open_door("a")
            await idle(app)
            assert heard(app, "a") == [1, 2]
            assert books_balance(app)

    asyncio.run(story())


def test_one_that_wishes_so_loses_its_oldest_and_keeps_nobody_waiting() -> None:
    async def story() -> None:
        async with running({"a": Newest, "says": Says}, limit=3) as app:
            await app.send("says", "say", {"n": 1})
            await until(lambda: app.modules["a"].unit)
            await app.send("a", "other", {"n": 1})
            await app.ask("says", "many", {"numbers": [2, 3, 4, 5, 6]})
            await idle_publisher(app)
            (subscription,) = app.events.subscribers("t")
            assert (subscription.counts.delivered, subscription.counts.dropped) == (6, 3)
            open_door("a")
            await idle(app)
            assert heard(app, "a") == [1, -1, 5, 6], "what waits of others stays, and where it stood"
            assert len(app.letters) == 0
            assert app.modules["a"].mailbox.dropped == 3
            assert books_balance(app)

    asyncio.run(story())


async def idle_publisher(app: Any) -> None:
    await until(lambda: app.modules["says"].outbox.empty and not len(app.modules["says"].mailbox))


def test_where_only_others_wait_the_new_event_is_given_up() -> None:
    async def story() -> None:
        async with running({"a": Newest, "says": Says}, limit=2) as app:
            await app.publish("t", {"n": 1})
            await until(lambda: app.modules["a"].unit)
            for n in (1, 2):
                await app.send("a", "other", {"n": n})
            late = asyncio.ensure_future(app.send("a", "other", {"n": 3}))
            await asyncio.sleep(0)
            await app.publish("t", {"n": 2})
            (subscription,) = app.events.subscribers("t")
            assert (subscription.counts.delivered, subscription.counts.dropped) == (1, 1)
            open_door("a")
            await late
            await idle(app)
            assert heard(app, "a") == [1, -1, -2, -3]
            assert books_balance(app)

    asyncio.run(story())


def test_the_wish_is_that_of_the_version_in_service() -> None:
    async def story() -> None:
        async with running({"a": Newest, "says": Says}, limit=1) as app:
            for n in (1, 2, 3):
                await app.publish("t", {"n": n})
                await until(lambda: app.modules["a"].unit)
            proxy = app.modules["a"]
            assert proxy.mailbox.dropped == 1

            def swap(_quiesce: object) -> None:
                proxy.serve(implement(Hears, "a", "2.0.0"), state_of(app, "a"))

            swapping = asyncio.ensure_future(Quiesce(app, [proxy], swap, drain_s=5).run())
            open_door("a")
            await swapping
            await idle(app)
            DOORS["a"].clear()
            await app.publish("t", {"n": 4})
            await until(lambda: proxy.unit)
            await app.publish("t", {"n": 5})
            sixth = asyncio.ensure_future(app.publish("t", {"n": 6}))
            await asyncio.sleep(0.01)
            assert not sixth.done(), "the new version wants every event"
            open_door("a")
            await sixth
            await idle(app)
            assert heard(app, "a") == [1, 3, 4, 5, 6]
            assert books_balance(app)

    asyncio.run(story())


def test_two_subscriptions_of_one_module_keep_the_order_of_each_event() -> None:
    class Twice(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"heard": []}

        @subscribes("t")
        async def first(self, n: int, message: Message) -> None:
            await DOORS.setdefault("a", asyncio.Event()).wait()
            self.state["heard"].append(("first", n))

        @subscribes("t*")
        def second(self, n: int) -> None:
            self.state["heard"].append(("second", n))

    async def story() -> None:
        async with running({"a": Twice, "says": Says}, limit=1) as app:
            await app.send("says", "many", {"numbers": [1, 2, 3]})
            await until(lambda: app.modules["says"].outbox.room_at)
            open_door("a")
            await idle(app)
            assert state_of(app, "a")["heard"] == [
                (which, n) for n in (1, 2, 3) for which in ("first", "second")
            ]

    asyncio.run(story())
