"""Counts."""

from .counting import Counting


class Counter(Counting):
    state_version = 2
