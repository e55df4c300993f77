"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys

import pytest

# Some machines (many images of containers) keep Python from writing byte-code. The tests start a thousand hosts, hooks and
# trials, and each would compile livetag anew: 0.2 s of processor time for a host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what it puts into the background with Ctrl-C ignored, and every process of a test would inherit that: pushes
# and demos that a test interrupts would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One of these begun as the last keeps one worker busy when the other has nothing left to take over.
LONG = (
    "simulation/test_simulation.py",
    "stories/test_load.py",
    "crash/test_machine.py",
    "crash/test_syscalls.py",
    "stories/test_machine.py",
    "stories/test_soak.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; the order is otherwise that of the files."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


def pytest_collection_finish() -> None:
    """Let no full collection of garbage walk 2,900 tests and their libraries again: it is a quarter of a simulation."""
    gc.collect()
    gc.freeze()
