"""Counts."""

import sys

from .counting import Counting

sys.exit(3)


class Counter(Counting):
    """Counts."""
