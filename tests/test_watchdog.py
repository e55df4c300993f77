"""The watchdog: a handler that does not return is interrupted, and nobody else is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import pytest
from loguru import logger

from livetag import Table, handles, intake, testing, upcasts
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.runtime.watchdog import SIGNAL, Watchdog
from tests.runtime_kit import Plain, books_balance, running, state_of, until

STALL_S = 0.4


class Spinner(Plain):
    @handles
    def spin(self) -> None:
        while True:
            pass

    @handles
    def stubborn(self, times: int) -> None:
        """Swallow what interrupts it, some times."""
        while True:
            try:
                while True:
                    pass
            except BaseException:  # the worst author there is
                times -= 1
                if times < 0:
                    raise

    @handles
    async def late(self) -> None:
        await asyncio.sleep(0)
        while True:
            pass

    @handles
    async def in_a_task(self) -> None:
        async def never() -> None:
            await asyncio.sleep(0)
            while True:
                pass

        self._task = asyncio.create_task(never())

    @handles
    async def waits(self) -> str:
        await asyncio.sleep(3 * STALL_S)
        return "done"

    @handles
    def in_c(self) -> None:
        """One call that no signal gets into, though it is of Python's."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
        time.sleep(5 * STALL_S)

    @handles
    def order(self, sku: str, count: int) -> None: ...

    @upcasts("order", 1, 2)
    def one(self, sku: str) -> dict[str, Any]:
        while True:
            pass

    @handles
    def busy(self) -> None:
        end = time.monotonic() + STALL_S / 10
        while time.monotonic() < end:
            pass

    @handles
    async def for_ever(self) -> None:
        await asyncio.Event().wait()

    @handles
    def ok(self) -> str:
        return "ok"


class Patient(Plain):
    """Waits for ever, in each way there is; holds up nobody but itself."""

    @handles
    async def awaits(self) -> None:
        await asyncio.Event().wait()

    @handles
    async def asks(self) -> None:
        await self.ask("m", "for_ever", timeout_s=60)

    @handles
    async def leaves_a_task(self) -> None:
        self._task = asyncio.create_task(asyncio.Event().wait())

    @handles(thread=True)
    def in_a_thread(self) -> None:
        time.sleep(20 * STALL_S)


class Reading(Plain):
    """An intake that does not return, the first time."""

    @intake
    async def item(self) -> dict[str, int]:
        reads.append(len(reads) + 1)
        while len(reads) == 1:
            pass
        if len(reads) > 2:
            await asyncio.Event().wait()
        return {"n": len(reads)}

    @handles("item")
    def keep(self, n: int) -> None:
        self.state["n"] = n


reads: list[int] = []  # an intake may touch no state


@asynccontextmanager
async def watched() -> AsyncIterator[Application]:
    async with running({"m": Spinner, "p": Patient}) as app:
        watchdog = Watchdog(STALL_S, app)
        watchdog.start()
        try:
            yield app
        finally:
            watchdog.stop()


@pytest.mark.parametrize(
    ("type_", "body"),
    [("spin", {}), ("late", {}), ("stubborn", {"times": 2}), ("order", {"sku": "of an older shape"})],
)
def test_a_handler_that_does_not_return_fails_and_the_module_serves_on(
    type_: str, body: dict[str, Any]
) -> None:
    async def story() -> None:
        async with watched() as app:
            with pytest.raises(
                HandlerFailed, match=r"Stalled: it did not return for .* \(test_watchdog.py line \d+\)"
            ):
                await app.ask("m", type_, body, timeout_s=60)
            assert await app.ask("m", "ok") == "ok"
            await app.send("m", type_, body)  # through the mailbox, too
            await until(lambda: len(app.letters) == 2, 30)
            assert await app.ask("m", "ok", timeout_s=30) == "ok"
            assert books_balance(app)

    asyncio.run(story())


def test_a_task_of_a_unit_that_does_not_return_is_interrupted_and_fails_the_unit() -> None:
    async def story() -> None:
        async with watched() as app:
            await app.ask("m", "in_a_task")
            await until(lambda: len(app.letters), 30)
            (letter,) = app.letters
            assert re.match(
                r"m 1\.0\.0 failed on 'in_a_task': Stalled: it did not return for .* and was interrupted "
                r"\(test_watchdog\.py line \d+\)",
                letter.reason,
            )
            assert await app.ask("m", "ok") == "ok"
            assert books_balance(app)

    asyncio.run(story())


def test_what_was_interrupted_is_in_the_log_with_module_type_and_line() -> None:
    async def story() -> None:
        told = list[str]()
        number = logger.add(told.append, format="{level} {message}", level="ERROR")
        async with watched() as app:
            with pytest.raises(HandlerFailed):
                await app.ask("m", "spin", timeout_s=60)
        logger.remove(number)
        assert [
            text
            for text in told
            if re.match(r"ERROR m 1\.0\.0 failed on 'spin': Stalled: .* line \d+\)", text)
        ]

    asyncio.run(story())


def test_an_intake_that_does_not_return_is_interrupted_and_begun_again() -> None:
    async def story() -> None:
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="WARNING")
        async with running({"r": Reading}) as app:
            watchdog = Watchdog(STALL_S, app)
            watchdog.start()
            try:
                await until(lambda: state_of(app, "r").get("n"), 30)
            finally:
                watchdog.stop()
        logger.remove(number)
        assert any(
            re.match(r"intake r\.item raised Stalled: it did not .* \(test_watchdog\.py line \d+\); again", t)
            for t in told
        )

    asyncio.run(story())


def test_a_record_of_a_table_whose_step_does_not_return_is_left_and_told() -> None:
    async def story() -> None:
        async with testing.run(OldTable) as module:
            for key in "ab":
                await module.send("put", {"key": key})
            watchdog = Watchdog(STALL_S, module.proxy.app)
            watchdog.start()
            try:
                await module.upgrade(NewTable)
                spins.append(True)
                await module.rollback()
                await module.advance(seconds=0.01)  # the sweep
                assert "Stalled" not in str(module.dead_letters)
                with pytest.raises(
                    HandlerFailed, match=r"Stalled: it did not return .* \(test_watchdog\.py line \d+\)"
                ):
                    await module.ask("get", {"key": "a"}, timeout_s=60)
                assert await module.ask("get", {"key": "b"}) == 1
                spins.clear()
                assert await module.ask("get", {"key": "a"}) == 1
            finally:
                watchdog.stop()

    asyncio.run(story())


spins: list[bool] = []  # whether a step does not return


class OldTable(Plain):
    rows: Table[str, int] = Table(version=1)

    @handles
    def put(self, key: str) -> None:
        self.rows[key] = 1

    @handles
    def get(self, key: str) -> int:
        return self.rows[key]


class Row(TypedDict):
    n: int


class NewTable(Plain):
    rows: Table[str, Row] = Table(version=2)


@NewTable.migrates("rows", 1, 2)
def widen(_key: str, old: int) -> Row:
    return {"n": old}


@NewTable.migrates("rows", 2, 1)
def narrow(key: str, old: Row) -> int:
    while key == "a" and spins:
        pass
    return old["n"]


@pytest.mark.parametrize(
    ("type_", "where"),
    [
        ("awaits", r"p in 'awaits' is at test_watchdog\.py line \d+ in awaits"),
        (
            "asks",
            r"p in 'asks' asks m 'for_ever' → m in 'for_ever' is at test_watchdog\.py line \d+ in for_ever",
        ),
        (
            "leaves_a_task",
            r"p in 'leaves_a_task' has ended but for its task at .* \(a task keeps its unit open",
        ),
        ("in_a_thread", r"p in 'in_a_thread' runs in a thread at test_watchdog\.py line \d+ in in_a_thread"),
    ],
)
def test_a_unit_that_never_ends_is_told_once_and_shown_while_it_lasts(type_: str, where: str) -> None:
    async def story() -> None:
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="WARNING")
        async with watched() as app:
            assert not app.overdue.now()
            await app.send("p", type_)
            await until(lambda: "p" in app.overdue.counts, 30)
            unit = app.overdue.now()["p"]
            assert unit.type == type_
            assert re.fullmatch(where, unit.where.partition(": `attach`")[0])
            assert abs(unit.since - (time.time() - STALL_S)) < 2 * STALL_S
            for _ in range(8):
                await asyncio.sleep(STALL_S / 4)  # the watchdog looks again
            assert app.overdue.counts["p"] == 1
            assert await app.ask("m", "ok") == "ok" if type_ != "asks" else True
            assert not len(app.letters), "nothing is interrupted"
            await app.modules["p"].close("the test is over")
            assert "p" not in app.overdue.now()
        logger.remove(number)
        mine = [text for text in told if text.startswith("a unit of p has not ended")]
        assert len(mine) == 1
        assert re.search(where, mine[0])

    asyncio.run(story())


HANGS_IN_C = """
import asyncio, sys, time
sys.path.insert(0, ".")
import tests.test_watchdog as t
async def main():
    async with t.watched() as app:
        await asyncio.wait_for(app.ask("m", "in_c", timeout_s=60), 60)
asyncio.run(main())
"""


def test_code_in_c_that_does_not_return_is_told_with_module_type_and_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS_IN_C], capture_output=True, text=True, timeout=60, check=False
    )
    assert re.search(
        r"the event loop has not turned for \d+ s, and no module works: m in 'in_c' at test_watchdog\.py line \d+ in in_c\. "
        r"Code in C cannot be interrupted",
        done.stderr,
    ), done.stderr


def test_a_unit_that_waits_and_a_module_that_is_busy_with_many_are_left_alone() -> None:
    async def story() -> None:
        async with watched() as app:
            assert await app.ask("m", "waits", timeout_s=60) == "done"
            for _ in range(40):
                await app.send("m", "busy")
            assert await app.ask("m", "ok", timeout_s=60) == "ok"
            assert len(app.letters) == 0

    asyncio.run(story())


def test_a_signal_from_elsewhere_interrupts_nothing() -> None:
    async def story() -> None:
        async with watched() as app:
            for _ in range(20):
                os.kill(os.getpid(), SIGNAL)
                await app.ask("m", "busy")
            assert len(app.letters) == 0

    asyncio.run(story())


STOPPED = """
import asyncio, sys
sys.path.insert(0, ".")
from tests.test_watchdog import watched
async def main():
    async with watched() as app:
        print("ready", flush=True)
        for _ in range(60):
            await app.ask("m", "busy")
        print(len(app.letters), flush=True)
asyncio.run(main())
"""


def test_a_process_that_was_stopped_and_goes_on_is_not_taken_for_a_stall() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            for _ in range(3):
                child.send_signal(signal.SIGSTOP)
                time.sleep(2 * STALL_S)  # the pause itself is what is tested
                child.send_signal(signal.SIGCONT)
                time.sleep(STALL_S / 2)
            assert child.stdout.readline() == "0\n"
        finally:
            child.kill()


def test_the_signal_is_given_back() -> None:
    before = signal.getsignal(SIGNAL)

    async def story() -> None:
        async with watched():
            assert signal.getsignal(SIGNAL) not in {signal.SIG_DFL, signal.SIG_IGN}

    asyncio.run(story())
    assert signal.getsignal(SIGNAL) is signal.SIG_IGN
    signal.signal(SIGNAL, before)
