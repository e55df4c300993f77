"""The way back of a version that has failed: what it failed on is handled again by the one before (DESIGN §7.7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import Module, Table, handles, subscribes, testing
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.message import Message
from orchestrator.testing import ModuleUnderTest, UpgradeFailed
from orchestrator.upgrade import given_again
from repo_store.manifest import Limits
from tests.runtime_kit import books_balance, until

Plain = Module[dict[str, Any]]


class Good(Plain):
    """Keeps what it got, in a Table."""

    got: Table[int, dict[str, Any]] = Table(version=1)

    def note(self, n: int, *, again: bool) -> None:
        self.got[len(self.got)] = {"n": n, "again": again}

    @handles
    def add(self, n: int, message: Message) -> None:
        self.note(n, again=message.again)

    @subscribes("news")
    def on_news(self, event: dict[str, Any], message: Message) -> None:
        self.note(event["n"], again=message.again)


class Bad(Good):
    """Fails on every multiple of three."""

    gate: asyncio.Event

    async def prepare(self) -> None:
        self.gate = asyncio.Event()

    @handles
    async def hold(self) -> None:
        await self.gate.wait()

    def note(self, n: int, *, again: bool) -> None:
        super().note(n, again=again)
        if n % 3 == 0:
            raise ValueError("no")

    @handles
    def only_here(self) -> None:
        raise ValueError("no")

    @handles(again=False)
    def mail(self, n: int) -> None:
        raise ValueError("no")


def got(work: ModuleUnderTest) -> list[tuple[int, bool]]:
    return [(record["n"], record["again"]) for _, record in sorted(work.tables["got"].items())]


def dead(work: ModuleUnderTest) -> list[tuple[str, str]]:
    return [(letter.reason.partition(" ")[2].partition(" ")[0], letter.trace) for letter in work.dead_letters]


async def add(work: ModuleUnderTest, *numbers: int) -> None:
    for n in numbers:
        await work.send("add", {"n": n})


def waits(work: ModuleUnderTest, *numbers: int) -> None:
    """Messages that are accepted behind the unit under way."""
    for n in numbers:
        work.proxy.accept(work.proxy.app.message("add", {"n": n}, ""))


@pytest.mark.parametrize("durable", [False, True])
def test_what_the_version_failed_on_is_handled_by_the_one_before_marked_in_order_once(durable: bool) -> None:
    async def story() -> None:
        async with testing.run(Good, name="work", durable=durable) as work:
            await add(work, 1, 3)
            await work.upgrade(Bad)
            await add(work, 4, 6, 7, 9)
            await work.publish("news", {"n": 12})
            assert dead(work) == [("Bad", ""), ("Bad", ""), ("Bad", "")]
            report = await work.revert()
            assert report.given_again == 3
            assert work.dead_letters == []
            once = [(1, False), (3, False), (4, False), (7, False), (6, True), (9, True), (12, True)]
            assert got(work) == once
            await work.upgrade(Bad)
            assert (await work.revert()).given_again == 0
            assert got(work) == once
            assert books_balance(work.proxy.app)

    asyncio.run(story())


@pytest.mark.parametrize("durable", [False, True])
def test_they_stand_before_all_that_waits_and_over_the_limit_of_the_mailbox(durable: bool) -> None:
    async def story() -> None:
        limits = Limits(mailbox_messages=3)
        async with testing.run(Good, name="work", durable=durable, limits=limits) as work:
            await work.upgrade(Bad)
            await add(work, 3, 6, 9, 12)
            instance = work.proxy.implementation.instance  # type: ignore[union-attr]
            work.proxy.accept(work.proxy.app.message("hold", None, ""))
            waits(work, 100, 101, 102, 103)  # the last one outside
            going_back = asyncio.ensure_future(work.revert())
            await until(lambda: work.proxy.app.quiesce is not None)
            instance.gate.set()
            assert (await going_back).given_again == 4
            again = [(3, True), (6, True), (9, True), (12, True)]
            assert got(work) == [*again, (100, False), (101, False), (102, False), (103, False)]
            assert work.dead_letters == []
            assert books_balance(work.proxy.app)

    asyncio.run(story())


def test_a_rollback_by_hand_gives_nothing_again() -> None:
    async def story() -> None:
        async with testing.run(Good, name="work") as work:
            await work.upgrade(Bad)
            await add(work, 3)
            assert (await work.rollback()).given_again == 0
            assert dead(work) == [("Bad", "")]

    asyncio.run(story())


def test_what_left_a_trace_what_others_failed_on_and_what_failed_before_stay_letters() -> None:
    class Worse(Good):
        def note(self, n: int, *, again: bool) -> None:
            raise ValueError("no")

    async def story() -> None:
        async with testing.run(Worse, name="work") as work:
            await add(work, 1)  # of the version that comes back
            await work.upgrade(Bad)
            await add(work, 3)  # of its first time, long ago
            await work.rollback()
            await work.advance(seconds=10)
            await work.upgrade(Bad)
            app = work.proxy.app
            app.letters.add("other", Message("add"), "it failed", app.clock.wall(), version="Bad")
            app.letters.add("work", Message("add"), "nobody began it", app.clock.wall())
            await work.send("mail", {"n": 1})
            await add(work, 6)
            assert (await work.revert()).given_again == 1
            reasons = [(letter.module, letter.version, letter.message.again) for letter in work.dead_letters]
            assert reasons == [
                ("work", "Worse", False),
                ("work", "Bad", False),
                ("other", "Bad", False),
                ("work", "", False),
                ("work", "Bad", False),
                ("work", "Worse", True),  # 6, on which the one that came back failed as well
            ]

    asyncio.run(story())


def test_what_the_one_that_comes_back_cannot_take_is_a_letter_that_says_so_and_goes_no_further() -> None:
    class Narrow(Good):
        @handles
        def add(self, n: int, message: Message) -> None:
            self.note(n, again=message.again)

    class Wide(Narrow):
        @handles
        def add(self, n: int | str, message: Message) -> None:
            raise ValueError("no")

        @handles
        def only_here(self) -> None:
            raise ValueError("no")

    async def story() -> None:
        async with testing.run(Narrow, name="work") as work:
            await work.upgrade(Wide)
            for type_, body in [("add", {"n": "x"}), ("only_here", {}), ("add", {"n": 1})]:
                await work.send(type_, body)
            assert (await work.revert()).given_again == 3
            assert got(work) == [(1, True)]
            refused, unknown = work.dead_letters
            assert refused.reason.startswith("work Narrow refuses the body of 'add'")
            assert unknown.reason.startswith("work Narrow does not handle 'only_here'")
            assert {each.trace for each in (refused, unknown)} == {"it had been given again before"}
            await work.upgrade(Wide)
            assert (await work.revert()).given_again == 0

    asyncio.run(story())


@pytest.mark.parametrize("durable", [False, True])
def test_a_way_back_that_is_undone_leaves_the_letters(durable: bool) -> None:
    class Stubborn(Good):
        def take_over(self, resources: dict[str, Any]) -> None:
            if resources:
                raise RuntimeError("not again")

    class Failing(Bad):
        def hand_over(self) -> dict[str, Any]:
            return {"anything": 1}

        def take_over(self, resources: dict[str, Any]) -> None: ...

    async def story() -> None:
        async with testing.run(Stubborn, name="work", durable=durable) as work:
            await work.upgrade(Failing)
            await add(work, 3, 6)
            before = work.dead_letters
            with pytest.raises(UpgradeFailed, match="not again"):
                await work.revert()
            assert work.dead_letters == before
            await add(work, 7)
            assert got(work) == [(7, False)]
            assert books_balance(work.proxy.app)

    asyncio.run(story())


def test_so_many_at_once_as_a_pause_has_room_for_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_again, "GIVEN_MAX", 2)

    async def story() -> None:
        async with testing.run(Good, name="work") as work:
            await work.upgrade(Bad)
            await add(work, 3, 6, 9)
            assert (await work.revert()).given_again == 2
            assert got(work) == [(3, True), (6, True)]
            assert [letter.message.body for letter in work.dead_letters] == [{"n": 9}]

    asyncio.run(story())


def test_a_body_that_no_durable_module_could_keep_stays_a_letter() -> None:
    async def story() -> None:
        async with testing.run(Good, name="work", durable=True) as work:
            await work.upgrade(Bad)
            await add(work, 3)
            app = work.proxy.app
            app.letters.add("work", Message("add", {"n": object()}), "no", app.clock.wall(), version="Bad")
            await add(work, 6)
            assert (await work.revert()).given_again == 2
            assert got(work) == [(3, True), (6, True)]
            [letter] = work.dead_letters
            assert isinstance(letter, DeadLetter)

    asyncio.run(story())
