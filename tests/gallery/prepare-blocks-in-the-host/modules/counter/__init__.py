"""Counts."""

from pathlib import Path

from .counting import Counting


class Counter(Counting):
    async def prepare(self) -> None:
        while not Path.cwd().match("livetag-trial-*/work"): pass
