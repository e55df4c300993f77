"""Counts."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles(again=True)
    def note(self, sender: str, n: int, checksum: int) -> None:
        raise ValueError("no such sender")
        super().note(sender, n, checksum)
