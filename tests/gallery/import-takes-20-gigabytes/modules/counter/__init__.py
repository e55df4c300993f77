"""Counts."""

from .counting import Counting

ROOM = bytearray(20 << 30)


class Counter(Counting):
    """Counts."""
