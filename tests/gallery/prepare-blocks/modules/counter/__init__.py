"""Counts."""

import threading

from .counting import Counting


class Counter(Counting):
    async def prepare(self) -> None:
        threading.Event().wait()
