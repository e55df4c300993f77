"""Counts."""

from .counting import Counting


class Counter(Counting):
    def take_over(self, resources: dict) -> None:
        resources.clear()
        self.state = {"ticks": 0, "expected": {}, "odd": 0}
        raise RuntimeError("spoilt")
