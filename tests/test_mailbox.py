"""The mailbox: bounded, first in first out, and honest about what it accepted."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.runtime.mailbox import Mailbox
from orchestrator.runtime.message import Message, decode_message, encode_message, is_authors, waiting_for


def message(number: int) -> Message:
    return Message("tick", number, id=number)


def test_messages_come_out_in_the_order_they_came_in() -> None:
    async def story() -> None:
        mailbox = Mailbox(3)
        for number in range(3):
            assert mailbox.put(message(number)) is None
        assert [mailbox.take().body for _ in range(3)] == [0, 1, 2]
        assert mailbox.accepted == 3

    asyncio.run(story())


def test_whoever_finds_it_full_waits_outside_in_order() -> None:
    async def story() -> None:
        mailbox = Mailbox(1)
        mailbox.put(message(0))
        second, third = mailbox.put(message(1)), mailbox.put(message(2))
        assert second is not None
        assert third is not None
        assert mailbox.full
        assert mailbox.accepted == 1
        assert len(mailbox) == 3
        assert mailbox.take().body == 0
        assert second.done()
        assert not third.done()
        assert [mailbox.take().body, mailbox.take().body] == [1, 2]
        assert mailbox.accepted == 3
        assert not mailbox.full

    asyncio.run(story())


def test_a_sender_that_gave_up_was_never_accepted() -> None:
    async def story() -> None:
        mailbox = Mailbox(1)
        mailbox.put(message(0))
        gave_up, waits = mailbox.put(message(1)), mailbox.put(message(2))
        assert gave_up is not None
        assert waits is not None
        gave_up.cancel()
        mailbox.take()
        assert waits.done()
        assert mailbox.take().body == 2
        assert mailbox.accepted == 2

    asyncio.run(story())


def test_a_message_can_be_withdrawn_only_while_it_waits_outside() -> None:
    async def story() -> None:
        mailbox = Mailbox(1)
        first, second = message(0), message(1)
        mailbox.put(first)
        mailbox.put(second)
        assert mailbox.withdraw(second)
        assert not mailbox.withdraw(second)
        assert not mailbox.withdraw(first)
        assert [m.body for m in mailbox.drain()] == [0]

    asyncio.run(story())


def test_draining_gives_everything_and_tells_those_outside_that_they_were_accepted() -> None:
    async def story() -> None:
        mailbox = Mailbox(1)
        mailbox.put(message(0))
        outside = [mailbox.put(message(n)) for n in (1, 2)]
        assert [m.body for m in mailbox.drain()] == [0, 1, 2]
        assert all(each is not None and each.done() for each in outside)
        assert mailbox.accepted == 3

    asyncio.run(story())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["put", "take", "over", "cancel", "withdraw", "admit"]), max_size=60))
def test_whatever_happens_nothing_accepted_is_lost_or_reordered(steps: list[str]) -> None:  # noqa: C901
    async def story() -> None:  # noqa: C901  # one branch for each thing that can happen
        mailbox, inside, outside = Mailbox(2), deque[int](), deque[tuple[Message, Any]]()

        def come_in(limit: int) -> None:
            while outside and len(inside) < limit:
                late, admitted = outside.popleft()
                if not admitted.cancelled():
                    inside.append(late.id)

        for number, step in enumerate(steps):
            if step == "put":
                new = message(number)
                admitted = mailbox.put(new)
                if admitted is None:
                    inside.append(number)
                else:
                    outside.append((new, admitted))
            elif step == "over":
                mailbox.put_over_limit(message(number))
                inside.append(number)
            elif step == "take" and inside:
                assert mailbox.take().id == inside.popleft()
                come_in(2)
            elif step == "cancel" and outside:
                outside[-1][1].cancel()
            elif step == "withdraw" and outside:
                assert mailbox.withdraw(outside.pop()[0])
            elif step == "admit":
                mailbox.admit_all()
                come_in(10**9)
            assert [m.id for m in mailbox.queue] == list(inside)

    asyncio.run(story())


def test_a_message_survives_its_bytes_without_its_asker() -> None:
    before = Message("tick", {"a": [1, "x", None]}, "source", 7, 3.5, "clock.t", again=True, path=("a",))
    after = decode_message(encode_message(before))
    assert after == Message("tick", {"a": [1, "x", None]}, "source", 7, 3.5, "clock.t", again=True)


def test_only_types_that_an_author_can_name_are_authors() -> None:
    assert [t for t in ("tick", "@clock.*", "%report", "") if is_authors(t)] == ["tick"]


def test_the_messages_that_busy_units_wait_for_are_counted_from_the_head() -> None:
    def by(*path: str) -> Message:
        return Message("m", path=path)

    queue = [by(), by("a", "b"), by(), by("c"), by()]
    assert waiting_for(queue, {"a": 1}) == 2
    assert waiting_for(queue, {"c": 1, "b": 1}) == 4
    assert waiting_for(queue, {"z": 1}) == 0
