"""Counts, and tells everybody."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        super().note(sender, n, checksum)
        self.publish("counter.noted", {"sender": sender, "n": n})
