"""Counts."""

import clock

from .counting import Counting


class Counter(Counting):
    """Counts."""
