"""Counts."""

from livetag import resource

from .counting import Counting


class Counter(Counting):
    @resource
    async def line(self) -> object:
        raise ConnectionRefusedError("nobody there")
