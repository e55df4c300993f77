"""Counts."""

from .counting import Counting


class Counter(Counting):
    async def self_test(self) -> None:
        raise RuntimeError('not yet')
