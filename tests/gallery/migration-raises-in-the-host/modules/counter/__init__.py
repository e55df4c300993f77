"""Counts."""

from pathlib import Path

from .counting import Counting


class Counter(Counting):
    state_version = 2


@Counter.migrates(1, 2)
def up(old: dict) -> dict:
    if not Path.cwd().match("livetag-trial-*/work"):
        old["ticks"] = -1
        raise RuntimeError("another disk")
    return old


@Counter.migrates(2, 1)
def down(new: dict) -> dict:
    return new
