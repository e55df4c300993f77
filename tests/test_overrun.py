"""A module that asks whom it gets its messages from: it is answered, and its mailbox stays near its limit (DESIGN §6 P4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import handles
from orchestrator.runtime.application import Application
from tests.durable_tape import Tape, living
from tests.runtime_kit import Plain, books_balance, running, state_of, until

LIMIT = 20


def upstream(fan_out: int, *, asks: str = "", to: str = "consumer") -> type[Plain]:
    """Gives out some messages for each; before or after it has asked another, if it does."""

    class Upstream(Plain):
        @handles
        async def work(self, n: int) -> None:
            for part in range(fan_out):
                self.send(to, "item", {"of": self.name, "n": n * fan_out + part})
            if asks:
                await self.ask(asks, "look_up", timeout_s=60)

        @handles
        def look_up(self) -> int:
            return 1

    return Upstream


def consumer(*asks: str) -> type[Plain]:
    """Asks for each item; keeps what it got, and how full its mailbox was."""

    class Consumer(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"got": [], "longest": 0, "refused": 0}

        @handles
        async def item(self, of: str, n: int) -> None:
            for target in asks:
                await self.ask(target, "look_up", timeout_s=60)
                assert self._voice is not None
                queue = self._voice.proxy.mailbox.queue
                self.state["longest"] = max(self.state["longest"], len(queue))
            self.state["got"].append([of, n])

    return Consumer


class Answers(Plain):
    @handles
    async def look_up(self) -> int:
        await asyncio.sleep(0)
        return 1


async def flood(app: Application, *names: str, count: int) -> None:
    """Three senders for each, who wait until theirs is accepted."""

    async def send(name: str, by: int) -> None:
        for n in range(by, count, 3):
            await app.send(name, "work", {"n": n}, timeout_s=60)

    await asyncio.wait_for(asyncio.gather(*(send(name, by) for name in names for by in range(3))), 30)
    await until(
        lambda: all(not len(p.mailbox) and p.unit is None and p.outbox.empty for p in app.modules.values()),
        30,
    )


@pytest.mark.parametrize("fan_out", [1, 3])
@pytest.mark.parametrize("asks", ["", "answers"])
@pytest.mark.parametrize("upstreams", [1, 2])
def test_a_consumer_that_asks_its_upstream_stays_near_its_limit(
    fan_out: int, asks: str, upstreams: int
) -> None:
    async def story() -> None:
        names = [f"up{number}" for number in range(upstreams)]
        classes = {
            **{name: upstream(fan_out, asks=asks) for name in names},
            "consumer": consumer(*names),
            "answers": Answers,
        }
        async with running(classes, limit=LIMIT) as app:
            await flood(app, *names, count=300)
            state = state_of(app, "consumer")
            assert len(state["got"]) == 300 * fan_out * upstreams
            # What one unit of each gave out, and no more.
            assert LIMIT <= state["longest"] + 1 <= LIMIT + fan_out * upstreams + 1
            assert not len(app.letters)
            assert books_balance(app)
            for name in names:
                mine = [n for of, n in state["got"] if of == name]
                for by in range(3):  # each sender's in its order
                    parts = [n for n in mine if n // fan_out % 3 == by]
                    assert parts == sorted(parts)

    asyncio.run(story())


def test_what_the_asker_sent_before_its_ask_is_handled_before_it_though_out_of_turn() -> None:
    class Consumer(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"said": 0, "heard": []}

        @handles
        async def item(self, of: str, n: int) -> None:
            self.state["said"] += 1
            self.state["heard"].append((self.state["said"] - 1, await self.ask("up0", "heard", timeout_s=60)))
            self.send("up0", "said")

    class Up(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"heard": 0}

        @handles
        def work(self, n: int) -> None:
            for _ in range(2):
                self.send("consumer", "item", {"of": self.name, "n": n})

        @handles
        def said(self) -> None:
            self.state["heard"] += 1

        @handles
        def heard(self) -> int:
            return int(self.state["heard"])

    async def story() -> None:
        async with running({"up0": Up, "consumer": Consumer}, limit=LIMIT) as app:
            await flood(app, "up0", count=100)
            heard = state_of(app, "consumer")["heard"]
            assert len(heard) == 200
            assert all(before == told for before, told in heard)

    asyncio.run(story())


def test_where_an_answer_takes_ever_more_room_the_ask_is_refused_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The consumer asks `between`, which asks `up0`; that must first handle what `between` sent it, all for the consumer."""

    class Between(Plain):
        @handles
        def work(self, n: int) -> None:
            self.send("up0", "work", {"n": n})

        @handles
        async def look_up(self) -> int:
            return int(await self.ask("up0", "look_up", timeout_s=60))

    monkeypatch.setattr("orchestrator.runtime.mailbox.OVERRUN_MIN", 100)
    longest = 0

    class Slow(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"got": 0}

        @handles
        async def item(self, of: str, n: int) -> None:
            nonlocal longest
            assert self._voice is not None
            longest = max(longest, len(self._voice.proxy.mailbox.queue))
            for _ in range(50):
                await asyncio.sleep(0)  # meanwhile `between` fills `up0`
            await self.ask("between", "look_up", timeout_s=60)
            self.state["got"] += 1

    async def story() -> None:
        classes: dict[str, type[Plain]] = {"between": Between, "up0": upstream(3), "consumer": Slow}
        async with running(classes, limit=LIMIT) as app:
            await flood(app, "between", count=300)
            assert LIMIT + 100 <= longest + 1 <= LIMIT + 103
            refused = [letter for letter in app.letters if letter.module == "consumer"]
            assert state_of(app, "consumer")["got"] + len(refused) == 900
            assert state_of(app, "consumer")["got"] > 100
            assert books_balance(app)
            assert all("ask would wait in a circle: " in letter.reason for letter in refused)
            assert any("a limit of 20, sent by those whom it asks" in letter.reason for letter in refused)

    asyncio.run(story())


@pytest.mark.parametrize("fan_out", [1, 3])
@pytest.mark.parametrize("durable", [("consumer",), ("up0",), ("up0", "consumer")])
def test_a_durable_consumer_or_upstream_stays_near_its_limit_too(
    fan_out: int, durable: tuple[str, ...]
) -> None:
    async def story() -> None:
        async with living(Tape(), {}) as it:
            classes = {"up0": upstream(fan_out), "consumer": consumer("up0")}
            await it.put(classes, durable, mailbox=LIMIT)
            await flood(it.app, "up0", count=200)
            await it.settled()
            state = state_of(it.app, "consumer")
            assert len(state["got"]) == 200 * fan_out
            ahead = (
                0 if "up0" not in durable or "consumer" in durable else 200 * fan_out
            )  # units not on disk yet
            assert LIMIT <= state["longest"] + 1 <= LIMIT + fan_out + 1 + ahead
            assert not it.letters

    asyncio.run(story())
