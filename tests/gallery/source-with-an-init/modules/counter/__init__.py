"""Counts."""

from .counting import Counting


class Counter(Counting):
    def __init__(self) -> None:
        self.total = 0
