"""Tables of units that are interrupted by the watchdog, work in a thread, or are cut when the module ends."""

from __future__ import annotations

import asyncio
import enum
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import pytest

from livetag import Table, handles
from orchestrator.runtime.errors import HandlerFailed, NotInService, Stalled
from orchestrator.runtime.table_sample import pick_records
from orchestrator.testing import ModuleUnderTest
from tests.runtime_kit import Plain
from tests.table_kit import begin

TABLE_CODE = ("orchestrator.runtime.table_live", "orchestrator.runtime.table_store")
THE_FRAMEWORKS = ("keep_writes", "undo_writes")  # called by no author's code, so never interrupted


class Numbers(Plain):
    numbers: Table[str, int] = Table(version=1)

    @handles
    def change(self) -> None:
        """All there is to do to records: one of an older version, one of this one, one that is new."""
        self.numbers["old"] = -1
        del self.numbers["old too"]
        self.numbers["own"] = -2
        self.numbers["new"] = -3
        del self.numbers["new"]
        del self.numbers["own"]
        self.numbers["old too"] = -4

    @handles
    def put(self, key: str, n: int) -> None:
        self.numbers[key] = n

    @handles
    def keys(self) -> list[str]:
        return [type(key).__name__ for key in self.numbers]


class Doubled(Numbers):
    numbers: Table[str, int] = Table(version=2)


Doubled.migrates("numbers", 1, 2)(lambda _, old: 2 * old)
Doubled.migrates("numbers", 2, 1)(lambda _, new: new // 2)


@contextmanager
def interrupted_at(step: int) -> Iterator[Callable[[], int]]:
    """Raise what the watchdog raises, at the given line of those that the code of Tables runs; gives how many ran."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_name in THE_FRAMEWORKS or frame.f_globals.get("__name__") not in TABLE_CODE:
            return None
        if event in {"line", "return"}:
            lines += 1
            if lines == step:
                raise Stalled("here")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: lines
    finally:
        sys.settrace(before)


async def _interrupted_everywhere() -> None:
    for step in itertools.count(1):
        one = {"numbers": {"old": 1, "old too": 2, "untouched": 3}}
        async with begin(Numbers, tables=one) as module:
            await module._swap(Numbers, Doubled, module._limits)
            await module.ask("put", {"key": "own", "n": 7})
            with interrupted_at(step) as lines:
                failed = await _change(module)
            assert failed == (lines() >= step)
            if not failed:
                assert step > 50, "the trace saw the table's code"
                return
            assert module.tables == {"numbers": {"old": 2, "old too": 4, "untouched": 6, "own": 7}}, step


async def _change(module: ModuleUnderTest) -> bool:
    try:
        await module.ask("change")
    except HandlerFailed:
        return True
    return False


def test_wherever_the_watchdog_interrupts_a_unit_its_writes_are_undone() -> None:
    asyncio.run(_interrupted_everywhere())


class Letter(str, enum.Enum):
    A = "a"


class Pair(NamedTuple):
    first: str
    second: int


class Keyed(Plain):
    letters: Table[str, int] = Table(version=1)
    pairs: Table[tuple[str, int], int] = Table(version=1)

    @handles
    def put(self) -> None:
        self.letters["a"] = self.pairs["p", 1] = 1

    @handles
    def look(self) -> list[Any]:
        return [self.letters.get(Letter.A), self.pairs.get(Pair("p", 1))]

    @handles
    def write(self) -> None:
        self.letters[Letter.A] = 3

    @handles
    def drop_and_fail(self) -> None:
        del self.letters[Letter.A]
        del self.pairs[Pair("p", 1)]
        raise RuntimeError("as it happens")

    @handles
    def kinds(self) -> list[str]:
        pair = next(iter(self.pairs))
        return [type(each).__name__ for each in (next(iter(self.letters)), pair, *pair)]


class KeyedTwo(Keyed):
    letters: Table[str, int] = Table(version=2)
    pairs: Table[tuple[str, int], int] = Table(version=2)


for table in ("letters", "pairs"):
    KeyedTwo.migrates(table, 1, 2)(lambda _, old: old + 1)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("type_", ["look", "drop_and_fail", "write"])
def test_an_equal_key_of_a_class_of_the_versions_never_comes_into_a_table(type_: str, swapped: bool) -> None:
    async def story() -> None:
        async with begin(Keyed) as module:
            await module.ask("put")
            if swapped:
                await module._swap(Keyed, KeyedTwo, module._limits)
            fails = type_ == "drop_and_fail" or (type_ == "write" and swapped)
            if fails:
                with pytest.raises(HandlerFailed, match=r"as it happens|is not of type str"):
                    await module.ask(type_)
            else:
                await module.ask(type_)
            assert await module.ask("kinds") == ["str", "tuple", "str", "int"]

    asyncio.run(story())


class Churning(Plain):
    numbers: Table[str, int] = Table()

    @handles(thread=True)
    def churn(self, seconds: float) -> None:
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            n += 1
            self.numbers[str(n % 5000)] = n
            self.numbers.pop(str(n * 7 % 5000), None)

    @handles(thread=True)
    def until_refused(self) -> None:
        try:
            for n in itertools.count():
                self.numbers[str(n % 100)] = n
                self.send("somebody", "n", {"n": n})
        except NotInService:
            refused.set()
            raise


refused = threading.Event()


@contextmanager
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00002)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_a_sample_for_a_trial_is_taken_while_a_unit_in_a_thread_writes() -> None:
    async def story() -> None:
        async with begin(Churning) as module:
            asked = asyncio.ensure_future(module.ask("churn", {"seconds": 0.5}))
            while not asked.done():
                await asyncio.sleep(0.001)
                pick_records(module.proxy.tables, "things", 1000)
            await asked

    with threads_take_turns_often():
        asyncio.run(story())


def test_a_unit_in_a_thread_that_is_cut_leaves_nothing_written_and_nothing_sent() -> None:
    async def story() -> None:
        async with begin(Churning) as module:
            refused.clear()
            await module.proxy.post(module._message("until_refused", None), 5.0)
            while not module.proxy.written:
                await asyncio.sleep(0)
            await asyncio.sleep(0.003)
            proxy = module.proxy
            await proxy.close("the test says so")
            written = len(proxy.tables.stores["numbers"])
            assert await asyncio.to_thread(refused.wait, 10)
            assert (written, len(proxy.tables.stores["numbers"]), proxy.written, module.sent) == (
                0,
                0,
                [],
                [],
            )

    with threads_take_turns_often():
        for _ in range(30):
            asyncio.run(story())
