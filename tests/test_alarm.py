"""The alarm: author code on the event loop that takes too long is interrupted, and nothing else is."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import suppress

import pytest

from orchestrator.runtime.errors import Overrun
from orchestrator.upgrade.alarm import interrupt_after, stepwise


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_block_that_takes_too_long_is_interrupted_and_one_in_time_is_not() -> None:
    began = time.monotonic()
    with pytest.raises(Overrun, match="interrupted after 50 ms"), interrupt_after(0.05):
        spin(30)
    assert time.monotonic() - began < 10
    with interrupt_after(30):
        spin(0.001)


def test_a_patient_alarm_leaves_alone_who_goes_on_at_once_after_a_stop_of_the_process() -> None:
    with interrupt_after(0.02, patient=True):
        signal.raise_signal(signal.SIGALRM)  # as one that became due while the process was stopped
        spin(0.001)
    with pytest.raises(Overrun), interrupt_after(0.02, patient=True):
        spin(30)


def test_what_follows_the_block_is_never_hit() -> None:
    for _ in range(200):
        with suppress(Overrun), interrupt_after(0.0005):
            spin(0.0004)  # the alarm rings inside the block, at its end, or not at all
        spin(0.0005)


def test_the_signal_s_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with interrupt_after(1):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread_is_left_alone() -> None:
    ended: list[str] = []

    def work() -> None:
        with interrupt_after(0.01):
            spin(0.05)
        ended.append("in peace")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert ended == ["in peace"]


def test_a_coroutine_may_wait_long_but_not_hold_the_loop() -> None:
    async def waits() -> str:
        await asyncio.sleep(0.2)
        return "done"

    async def holds() -> None:
        await asyncio.sleep(0)
        spin(30)

    async def story() -> None:
        assert await stepwise(waits(), 0.05) == "done"
        with pytest.raises(Overrun):
            await stepwise(holds(), 0.05)

    asyncio.run(story())
