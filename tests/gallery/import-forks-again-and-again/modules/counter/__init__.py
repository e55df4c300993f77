"""Counts."""

import os
import signal

from .counting import Counting

signal.alarm(15)
for _ in range(6):
    os.fork()
signal.pause()


class Counter(Counting):
    """Counts."""
