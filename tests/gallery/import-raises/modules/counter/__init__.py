"""Counts."""

from .counting import Counting

raise RuntimeError("no licence")


class Counter(Counting):
    """Counts."""
