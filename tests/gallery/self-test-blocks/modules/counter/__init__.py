"""Counts."""

import threading

from .counting import Counting


class Counter(Counting):
    async def self_test(self) -> None:
        threading.Event().wait()
