"""What a migration takes is measured by itself: neither a bad moment nor a busy machine is held against a release."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.upgrade import trial_clock
from orchestrator.upgrade.trial_clock import RUNS_MAX, RUNS_S, timed


def taking(*seconds: float) -> tuple[Callable[[], int], list[int]]:
    """Work that takes so long the first time, the second time, ..."""
    runs: list[int] = []

    def work() -> int:
        runs.append(len(runs))
        time.sleep(seconds[min(len(runs), len(seconds)) - 1])
        return len(runs)

    return work, runs


def test_one_run_is_enough_if_it_is_quick_enough() -> None:
    work, runs = taking(0.001)
    result, took_s = timed(work, enough_s=0.5)
    assert (result, len(runs)) == (1, 1)
    assert took_s > 0


def test_of_several_runs_the_shortest_counts_and_the_last_result_is_given() -> None:
    work, runs = taking(0.2, 0.01, 0.2)
    result, took_s = timed(work, enough_s=0.05)
    assert (result, len(runs)) == (2, 2), "the second was quick enough"
    assert took_s < 0.1
    work, runs = taking(0.03)
    _, took_s = timed(work, enough_s=0.01)
    assert len(runs) == RUNS_MAX
    assert took_s > 0.02


def test_what_takes_very_long_is_not_run_again() -> None:
    work, runs = taking(RUNS_S + 0.1)
    timed(work, enough_s=0.01)
    assert len(runs) == 1


def test_a_queue_before_and_after_the_work_does_not_make_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that takes 0 s was said not to have been tried."""
    queued_s = iter((0.05, 0.1))

    def stand_in_the_queue() -> float:
        time.sleep(0.05)
        return next(queued_s)

    monkeypatch.setattr(trial_clock, "_queued_s", stand_in_the_queue)
    work, _ = taking(0.02)
    assert timed(work, enough_s=0.5)[1] >= 0.02


@contextmanager
def crowded_processor() -> Iterator[None]:
    """This process shares one processor with three that never rest."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel does not say")
def test_the_time_in_the_queue_for_a_processor_is_not_the_release_s() -> None:
    def work() -> float:
        began, used = time.perf_counter(), time.thread_time()
        while time.thread_time() < used + 0.1:
            sum(range(1000))
        return time.perf_counter() - began

    with crowded_processor():
        wall_s, took_s = timed(work, enough_s=10.0)
    assert wall_s > 0.2, "the processor was shared, else this shows nothing"
    assert took_s < 0.8 * wall_s
