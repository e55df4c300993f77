"""Counts."""

import threading

from .counting import Counting

for _ in range(300):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
threading.Event().wait()


class Counter(Counting):
    """Counts."""
