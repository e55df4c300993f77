"""Counts."""

import os

from .counting import Counting

os._exit(0)


class Counter(Counting):
    """Counts."""
