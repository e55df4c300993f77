"""Counts."""

from .counting import Counting


class Counter(Counting):
    """Counts."""


class Meter(Counting):
    """Counts, too."""
