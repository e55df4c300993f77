"""Counts ticks, and the numbered notes of each sender: one that is lost, doubled, overtaken or damaged is seen."""

import asyncio
from zlib import crc32

from livetag import Module, handles

from .state import State


class Counting(Module[State]):
    def initial_state(self) -> State:
        return {"ticks": 0, "expected": {}, "odd": 0}

    @handles
    def tock(self) -> int:
        self.state["ticks"] += 1
        return self.state["ticks"]

    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        expected = self.state["expected"].get(sender, 1)
        self.state["odd"] += n != expected or checksum != crc32(f"{sender} {n}".encode())
        self.state["expected"][sender] = n + 1

    @handles
    async def linger(self) -> None:
        """Take a while, so that messages wait."""
        await asyncio.sleep(0.03)
