"""Counts."""

from .counting import Counting


class Counter(Counting):
    async def prepare(self) -> None:
        raise OSError("no such port")
