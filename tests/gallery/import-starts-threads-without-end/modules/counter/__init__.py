"""Counts."""

import threading

from .counting import Counting

while True:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


class Counter(Counting):
    """Counts."""
