"""Counts."""

import os
import signal

from .counting import Counting

os.kill(os.getpid(), signal.SIGTERM)


class Counter(Counting):
    """Counts."""
