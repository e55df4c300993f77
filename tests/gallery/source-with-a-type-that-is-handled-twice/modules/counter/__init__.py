"""Counts."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles("tick")
    def tick_again(self) -> int:
        return 0
