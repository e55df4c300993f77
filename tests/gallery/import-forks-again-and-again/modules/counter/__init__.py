"""Counts."""

import os
import signal

from .counting import Counting

for _ in range(6):
    os.fork()
signal.pause()


class Counter(Counting):
    """Counts."""
