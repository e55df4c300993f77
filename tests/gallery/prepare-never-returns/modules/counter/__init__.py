"""Counts."""

import asyncio

from .counting import Counting


class Counter(Counting):
    async def prepare(self) -> None:
        await asyncio.Event().wait()
