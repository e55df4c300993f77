"""Counts."""

import asyncio
from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles
    async def note(self, sender: str, n: int, checksum: int) -> None:
        await asyncio.sleep(0.02)
        super().note(sender, n, checksum)
