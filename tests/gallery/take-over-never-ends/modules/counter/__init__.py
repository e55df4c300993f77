"""Counts."""

from .counting import Counting


class Counter(Counting):
    def take_over(self, resources: dict) -> None:
        while True: pass
