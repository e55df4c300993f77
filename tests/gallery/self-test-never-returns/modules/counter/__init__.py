"""Counts."""

import asyncio

from .counting import Counting


class Counter(Counting):
    async def self_test(self) -> None:
        await asyncio.Event().wait()
