"""Counts."""

from livetag import handles

from .counting import Counting


class Counter(Counting):
    stuck = False

    @handles(again=True)
    def note(self, sender: str, n: int, checksum: int) -> None:
        if self.stuck:
            raise ValueError('it was stuck')
        self.stuck = True
        while True: pass
        super().note(sender, n, checksum)
