"""A kill at each prefix of the queue, around a way back that has what the version before failed on handled again.

A message is a letter up to COMMITTED and waits in the inbox, marked and before all others, from there on: never both,
never neither (DESIGN §7.7).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from livetag import Module, Table, handles
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.runtime.message import ASKED_BY, Message
from orchestrator.runtime.rest import Resting
from tests.durable_kit import Life, life, turns, until
from tests.durable_tape import TapeLife
from tests.test_durable_prefixes import LAGS, Promises, number_of, run

FAILED = [6, 9, 12]
WAITED = [20, 22, 23]


class Old(Module[dict[str, Any]]):
    """Keeps in a Table what it got, in its order, and whether it was marked."""

    got: Table[int, dict[str, Any]] = Table(version=1)

    @handles
    def add(self, n: int, message: Message) -> None:
        self.got[len(self.got)] = {"n": n, "again": message.again}


def new(*gates: asyncio.Event) -> type[Module[Any]]:
    """Fails on each third message; `hold` keeps it busy until that gate opens."""

    class New(Old):
        state_version = 2

        @handles
        def add(self, n: int, message: Message) -> None:
            super().add(n, message)
            if n % 3 == 0:
                raise ValueError("no")

        @handles
        async def hold(self, gate: int) -> None:
            await gates[gate].wait()

    New.migrates(1, 2)(lambda old: old)
    New.migrates(2, 1)(lambda new: new)
    return New


def records_of(it: TapeLife) -> list[dict[str, Any]]:
    return [record for _, record in sorted(it.app.modules["a"].tables.live["got"].items())]


def is_back(it: TapeLife) -> bool:
    implementation = it.app.modules["a"].implementation
    return implementation is not None and implementation.blueprint.cls is Old


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("new_is_durable", [True, False])
def test_each_is_a_letter_up_to_the_decision_and_then_a_message_before_those_that_wait(
    lag: int, new_is_durable: bool
) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        copied, switched = asyncio.Event(), asyncio.Event()
        promises.life = it
        await it.put({"a": Old}, {"a"})
        for n in (1, 2):
            await promises.send("a", n)
        since = time.time()
        await it.put({"a": new(copied, switched)}, {"a"} if new_is_durable else ())
        await asyncio.gather(*(promises.send("a", n) for n in range(4, 13)))
        await until(lambda: len(it.letters) == len(FAILED))
        it.offer("a", "hold", gate=0)
        await turns()
        back = asyncio.ensure_future(it.put({"a": Old}, {"a"}, failed_since=since))
        await until(lambda: it.app.at_boundary)  # its trial waits for a copy of the state
        it.offer("a", "hold", gate=1)
        for n in WAITED:
            it.offer("a", "add", n=n)
        copied.set()
        await until(lambda: it.app.quiesce is not None)
        switched.set()
        await back
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        assert it.recovered.failed == {}
        got, letters = records_of(it), [number_of(letter.message) for letter in it.letters]
        numbers = [record["n"] for record in got]
        assert len(set(numbers)) == len(numbers)
        assert not set(letters) & set(numbers)
        again = [record["n"] for record in got if record["again"]]
        if is_back(it) and numbers[:3] == [
            1,
            2,
            4,
        ]:  # the life that was not killed, or killed after the decision
            assert letters == []
            assert again == FAILED
            assert numbers[-6:] == [*FAILED, *WAITED]
        else:
            assert again == []
            assert set(letters) <= set(FAILED)
        if new_is_durable:
            accounted = {*numbers, *letters}
            assert not [n for at, _, n in promises.accepted if at <= count and n not in accounted]

    run(story, check, lag)


@pytest.mark.parametrize("lag", LAGS)
def test_back_to_a_version_in_memory_they_are_in_its_mailbox_and_no_letters_any_more(lag: int) -> None:
    async def story(it: TapeLife) -> None:
        await it.put({"a": Old})
        since = time.time()
        await it.put({"a": new()}, {"a"})
        for n in range(4, 13):
            await it.app.send("a", "add", {"n": n})
        await it.put({"a": Old}, failed_since=since)
        await it.settled()

    async def check(it: TapeLife, count: int) -> None:
        letters = [number_of(letter.message) for letter in it.letters]
        again = [record["n"] for record in records_of(it) if record["again"]]
        if count == len(it.tape.items) and again:
            assert (again, letters) == (FAILED, [])
        assert not again or again == FAILED
        assert not again or not letters

    run(story, check, lag)


@pytest.mark.parametrize("lag", LAGS)
def test_a_second_way_back_comes_before_what_the_first_one_gave(lag: int) -> None:
    """Places before all others are lower each time, over restarts as well."""

    class Wrong(Old):
        @handles
        def add(self, n: int, message: Message) -> None:
            raise ValueError("no")

    async def story(it: TapeLife) -> None:
        await it.put({"a": Old}, {"a"})
        since = time.time()
        await it.put({"a": new()}, {"a"})
        await asyncio.gather(*(it.app.send("a", "add", {"n": n}) for n in FAILED))
        await until(lambda: len(it.letters) == len(FAILED))
        rows = it.app.durability.rows_before_all(0)
        await it.put({"a": Old}, {"a"}, failed_since=since)
        assert it.app.durability.rows_before_all(0) == rows - len(FAILED)
        since = time.time()
        await it.put({"a": Wrong}, {"a"})
        for n in (30, 31):
            await it.app.send("a", "add", {"n": n})
        await until(lambda: len(it.letters) == 2)
        await it.put({"a": Old}, {"a"}, failed_since=since)
        await it.settled()

    async def check(it: TapeLife, count: int) -> None:
        numbers = [record["n"] for record in records_of(it)]
        letters = [number_of(letter.message) for letter in it.letters]
        assert not set(numbers) & set(letters)
        assert len(set(numbers)) == len(numbers)
        assert [n for n in numbers if n < 30] in ([], FAILED)
        if count == len(it.tape.items) and len(numbers) == 5:
            assert numbers == [*FAILED, 30, 31]

    run(story, check, lag)


CODE = """
    from livetag import Module, Table, handles

    class A(Module):
        got: Table[int, int] = Table(version=1)

        @handles
        def add(self, n: int) -> None:
            FAILS
            self.got[len(self.got)] = n
"""


def test_a_way_back_in_a_later_run_comes_before_what_one_of_the_run_before_has_left_waiting(
    tmp_path: Path,
) -> None:
    good, bad = CODE.replace("FAILS", "pass"), CODE.replace("FAILS", "raise ValueError")

    async def back(it: Life, *numbers: int) -> None:
        """Fail on these, and go back out of service: they wait in the inbox, before what waited."""
        since = time.time()
        await it.deploy("2.0.0", {"a": bad}, durable={"a"})
        for n in numbers:
            await it.app.send("a", "add", {"n": n})
        await until(lambda: len(it.letters) == len(numbers))
        outcome = await it.deploy(
            "1.0.0", {"a": good}, durable={"a"}, enabled=False, back_from=("2.0.0", since)
        )
        assert outcome.result == "committed"
        assert it.letters == []

    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": good}, durable={"a"})
            await back(it, 1, 2)
            await it.app.durability.settled()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            waiting = it.stored().modules["a"].messages
            assert [(message.row, message.again) for message in waiting] == [(-2, True), (-1, True)]
            proxy = it.app.modules["a"]
            proxy.mailbox.queue.clear()  # as if they were still on their way: the disk alone knows them
            await back(it, 3)
            await it.app.durability.settled()
            last = it.killed(tmp_path)
        async with life(tmp_path, last) as it:
            await it.enable("a", enabled=True)
            await it.settled()
            assert [n for _, n in sorted(it.app.modules["a"].tables.live["got"].items())] == [3, 1, 2]

    asyncio.run(story())


@pytest.mark.parametrize("durable", [True, False])
def test_the_letters_of_a_module_that_the_way_back_removes_stay(tmp_path: Path, durable: bool) -> None:
    bad = CODE.replace("FAILS", "raise ValueError")

    async def story() -> None:
        async with life(tmp_path) as it:
            since = time.time()
            await it.deploy("2.0.0", {"a": bad}, durable={"a"} if durable else ())
            await it.app.send("a", "add", {"n": 1})
            await until(lambda: len(it.letters) == 1)
            assert (await it.remove("a", back_from=("2.0.0", since))).result == "committed"
            assert [letter.message.body for letter in it.letters] == [{"n": 1}]
            await it.settled()
            assert len(it.stored().letters) == durable

    asyncio.run(story())


def test_what_failed_before_a_clean_stop_is_given_again_after_it(tmp_path: Path) -> None:
    """A module in memory: its letters are kept with what failed on them, and so a probation goes on over a restart."""
    good, bad = CODE.replace("FAILS", "pass"), CODE.replace("FAILS", "raise ValueError")

    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": good})
            since = time.time()
            await it.deploy("2.0.0", {"a": bad})
            await it.app.send("a", "add", {"n": 1})
            with pytest.raises(HandlerFailed):
                await it.app.ask("a", "add", {"n": 2})
            await it.settled()
            await it.stopped()
            before, after = it.letters, it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert it.letters == before
            await it.deploy("1.0.0", {"a": good}, back_from=("2.0.0", since))
            await it.settled()
            assert dict(it.app.modules["a"].tables.live["got"].items()) == {0: 1}
            assert [letter.trace for letter in it.letters] == [ASKED_BY]

    asyncio.run(story())


def test_a_start_that_puts_back_after_deaths_in_the_probation_gives_again_what_failed_in_it(
    tmp_path: Path,
) -> None:
    """Once, however often it is killed right after; and what waited still waits behind it."""
    good, bad = CODE.replace("FAILS", "pass"), CODE.replace("FAILS", "if n < 9: raise ValueError")

    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": good}, durable={"a"})
            it.has_probations = True
            await it.deploy("2.0.0", {"a": bad}, durable={"a"})
            for n in (1, 9, 2):
                await it.app.send("a", "add", {"n": n})
            await until(lambda: len(it.letters) == 2)
            await it.settled()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert len(it.letters) == 2
            it.app.modules["a"].held = Resting("it is killed with a message that waits")
            await it.app.send("a", "add", {"n": 10})
            after = it.killed(tmp_path)
        for _ in range(2):
            async with life(tmp_path, after) as it:
                implementation = it.app.modules["a"].implementation
                assert implementation is not None
                assert implementation.version == "1.0.0"
                assert it.letters == []
                await it.settled()
                got = [n for _, n in sorted(it.app.modules["a"].tables.live["got"].items())]
                assert got == [9, 1, 2, 10]
                after = it.killed(tmp_path)

    asyncio.run(story())
