"""Counts."""

import os
import signal

from .counting import Counting

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.alarm(15)
        signal.pause()
    os._exit(0)
raise RuntimeError("now that it has gone")


class Counter(Counting):
    """Counts."""
