"""The watchdog: a handler that does not return is interrupted, and nobody else is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from livetag import handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.runtime.watchdog import SIGNAL, Watchdog
from tests.runtime_kit import Plain, books_balance, running, until

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
    async def waits(self) -> str:
        await asyncio.sleep(3 * STALL_S)
        return "done"

    @handles
    def busy(self) -> None:
        end = time.monotonic() + STALL_S / 10
        while time.monotonic() < end:
            pass

    @handles
    def ok(self) -> str:
        return "ok"


@asynccontextmanager
async def watched() -> AsyncIterator[Application]:
    watchdog = Watchdog(STALL_S)
    watchdog.start()
    try:
        async with running({"m": Spinner}) as app:
            yield app
    finally:
        watchdog.stop()


@pytest.mark.parametrize(("type_", "body"), [("spin", {}), ("late", {}), ("stubborn", {"times": 2})])
def test_a_handler_that_does_not_return_fails_and_the_module_serves_on(
    type_: str, body: dict[str, int]
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
