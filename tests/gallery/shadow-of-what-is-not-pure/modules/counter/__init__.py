"""Counts, and keeps a book open."""

import io

from livetag import resource

from .counting import Counting


class Counter(Counting):
    @resource
    async def book(self) -> io.StringIO:
        return io.StringIO()
