"""Counts."""

import flying_carpet

from .counting import Counting


class Counter(Counting):
    """Counts."""
