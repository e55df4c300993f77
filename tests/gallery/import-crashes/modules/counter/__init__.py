"""Counts."""

import ctypes

from .counting import Counting

ctypes.string_at(0)


class Counter(Counting):
    """Counts."""
