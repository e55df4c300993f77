"""The counter as its last good release has it."""

from .counting import Counting


class Counter(Counting):
    """Counts."""
