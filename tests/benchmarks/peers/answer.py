"""What each side of a figure is: a process that measures what a line on its input names, and answers a line of JSON.

So a side keeps what it has built (an application, a million entries) while the other one is measured, and neither is
measured beside the other. It imports nothing of the project's: the peers run in an environment of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from time import perf_counter_ns

Measured = Mapping[str, "list[float]"]
Measure = Callable[..., Measured]


def answer(measures: Mapping[str, Measure]) -> None:
    """Serve until the input ends. What libraries print goes to stderr, so that answers stay whole."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, *words = line.split()
        try:
            told: Mapping[str, object] = measures[name](*map(_number, words))
        except Exception as error:  # noqa: BLE001  # told to who asked, who names it in the table
            told = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(told) + "\n")
        out.flush()


def _number(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdigit() else word


def each_ns(work: Callable[[], object], count: int) -> list[float]:
    """How long each of so many calls took, in nanoseconds."""
    found = []
    for _ in range(count):
        began = perf_counter_ns()
        work()
        found.append(float(perf_counter_ns() - began))
    return found
