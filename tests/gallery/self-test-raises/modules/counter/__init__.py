"""Counts."""

from .counting import Counting


class Counter(Counting):
    async def self_test(self) -> None:
        assert not self.state["expected"], "somebody has sent something"
