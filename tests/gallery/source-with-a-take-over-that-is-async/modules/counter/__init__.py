"""Counts."""

from .counting import Counting


class Counter(Counting):
    async def take_over(self, resources: dict) -> None:
        self.socket = resources
