"""The event manager: topics, and who gets what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import Message, handles, subscribes
from orchestrator.runtime.errors import MailboxFull
from orchestrator.runtime.events import EventManager
from orchestrator.runtime.topics import topic_matches
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until, wire


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("clock.tick", "clock.tick", True),
        ("clock.tick", "clock.tick.late", False),
        ("clock.*", "clock.tick", True),
        ("clock.*", "clock.tick.late", True),
        ("clock.*", "clock", False),
        ("clock.*", "clockwork", False),
        ("clock*", "clockwork", True),
        ("*", "anything", True),
        ("*", "", True),
        ("", "", True),
    ],
)
def test_a_pattern_is_a_topic_or_its_beginning(pattern: str, topic: str, matches: bool) -> None:
    assert topic_matches(pattern, topic) is matches


class Ear(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"heard": []}

    @subscribes("a.*")
    def wide(self, message: Message, body: dict[str, Any]) -> None:
        self.state["heard"].append(("wide", message.topic))

    @subscribes("a.b")
    def narrow(self, message: Message, body: dict[str, Any]) -> None:
        self.state["heard"].append(("narrow", message.topic))


class Mouth(Plain):
    @handles
    def say(self, topic: str) -> None:
        self.publish(topic, {})


def test_each_subscription_of_a_module_gets_the_event_once() -> None:
    async def story() -> None:
        async with running({"ear": Ear, "mouth": Mouth}) as app:
            for topic in ("a.b", "a.c", "b"):
                await app.ask("mouth", "say", {"topic": topic})
            await idle(app)
            assert state_of(app, "ear")["heard"] == [
                ("narrow", "a.b"),
                ("wide", "a.b"),
                ("wide", "a.c"),
            ]

    asyncio.run(story())


def test_a_new_table_holds_from_the_next_event_on() -> None:
    async def story() -> None:
        async with running({"ear": Ear, "mouth": Mouth}) as app:
            assert await app.publish("a.b", {}) == 2
            await idle(app)
            ear = app.modules["ear"]
            wire(app, {"mouth": app.modules["mouth"]})
            assert await app.publish("a.b", {}) == 0
            await ear.close("the test is over")

    asyncio.run(story())


def test_topics_made_of_data_do_not_grow_without_limit() -> None:
    manager = EventManager()
    for number in range(12_000):
        assert manager.subscribers(f"topic.{number}") == ()
    assert len(manager._found) == 10_000


def test_an_event_without_room_waits_for_its_deadline_and_is_refused() -> None:
    async def story() -> None:
        door, clock = asyncio.Event(), FakeClock()

        class Slow(Plain):
            @subscribes("t")
            async def on(self) -> None:
                await door.wait()

        async with running({"slow": Slow}, clock=clock, limit=1) as app:
            assert await app.publish("t") == 1
            await until(lambda: app.modules["slow"].unit)
            assert await app.publish("t") == 1
            third = asyncio.ensure_future(app.publish("t", timeout_s=1))
            await asyncio.sleep(0)
            app.announce("t", {})  # the framework's own events wait for nobody
            await clock.advance(1, lambda: asyncio.sleep(0))
            with pytest.raises(MailboxFull, match="slow's mailbox holds 1 messages"):
                await third
            door.set()
            await idle(app)
            assert app.modules["slow"].handled == 2
            assert books_balance(app)

    asyncio.run(story())


def test_an_event_that_nobody_takes_any_more_is_a_dead_letter_that_says_so() -> None:
    async def story() -> None:
        class Deaf(Plain):
            pass

        async with running({"ear": Ear}) as app:
            await app.publish("a.c", {})
            app.modules["ear"].serve(implement(Deaf, "ear", "2.0.0"), {})
            await idle(app)
            assert [x.reason for x in app.letters] == ["ear 2.0.0 no longer subscribes to 'a.*'"]

    asyncio.run(story())
