"""Counts."""

import time

from livetag import handles

from .counting import Counting


class Counter(Counting):
    """Looks something up for each note, and waits for it."""

    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        time.sleep(0.003)
        super().note(sender, n, checksum)
