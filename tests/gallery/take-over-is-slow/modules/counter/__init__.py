"""Counts."""

import time

from .counting import Counting


class Counter(Counting):
    def take_over(self, resources: dict) -> None:
        time.sleep(0.15)
