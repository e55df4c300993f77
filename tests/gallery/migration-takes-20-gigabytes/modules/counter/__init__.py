"""Counts."""

from .counting import Counting


class Counter(Counting):
    state_version = 2


@Counter.migrates(1, 2)
def up(old: dict) -> dict:
    room = bytearray(20 << 30)
    return {**old, "odd": len(room) * 0}


@Counter.migrates(2, 1)
def down(new: dict) -> dict:
    return new
