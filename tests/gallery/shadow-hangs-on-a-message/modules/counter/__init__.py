"""Counts, and goes round and round once the numbers are large."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        while n > 99:
            pass
        super().note(sender, n, checksum)
