"""Counts."""

from .counting import Counting


class Counter(Counting):
    async def prepare(self) -> None:
        self.log.info("ready")
