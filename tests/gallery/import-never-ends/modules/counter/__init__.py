"""Counts."""

from .counting import Counting

while True: pass


class Counter(Counting):
    """Counts."""
