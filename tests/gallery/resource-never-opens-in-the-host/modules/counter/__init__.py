"""Counts."""

import asyncio
from pathlib import Path
from livetag import resource

from .counting import Counting


class Counter(Counting):
    @resource
    async def line(self) -> object:
        while not Path.cwd().match("livetag-trial-*/work"):
            await asyncio.sleep(0.1)
        return object()
