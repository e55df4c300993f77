"""A signal that asks for an end finds every process known, also one that is just being started."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.control.demo.playground import Playground
from orchestrator.control.interrupts import ENDING, interrupted_by_signals, uninterrupted
from tests.test_demo import processes_in


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_put_off_and_then_taken(number: signal.Signals) -> None:
    done = []

    def start() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append("the block")

    with interrupted_by_signals():
        with pytest.raises(KeyboardInterrupt):
            start()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert done == ["the block"]


@pytest.mark.parametrize("number", ENDING)
def test_a_process_whose_start_is_interrupted_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    start = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def interrupted(child: subprocess.Popen[bytes], command: list[str], *rest: object) -> None:
        start(child, command, *rest)
        if command[0] == "sleep":
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted)
    with (
        interrupted_by_signals(),
        pytest.raises(KeyboardInterrupt),
        Playground(time.monotonic() + 30) as ground,
    ):
        ground._start(["sleep", "600"], stdout=None, stderr=None)
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
