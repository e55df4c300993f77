"""Counts."""

from .counting import Counting


class Counter(Counting):
    state_version = 2


@Counter.migrates(1, 2)
def up(old: dict) -> dict:
    return old


@Counter.migrates(2, 1)
def down(new: dict) -> dict:
    return {**new, "odd": str(new["odd"])}
