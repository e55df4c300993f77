"""Modules whose resources are being closed: who is to open the same again, such as a port, waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Closing:
    """Which modules have versions that are leaving, with resources that only they used."""

    def __init__(self) -> None:
        self._under_way: dict[str, set[asyncio.Future[None]]] = {}

    @contextmanager
    def of(self, module: str) -> Iterator[None]:
        """While the block runs, resources of the module are being closed."""
        ends = asyncio.get_running_loop().create_future()
        under_way = self._under_way.setdefault(module, set())
        under_way.add(ends)
        try:
            yield
        finally:
            ends.cancel()
            under_way.discard(ends)
            if not under_way:
                self._under_way.pop(module, None)

    async def over(self, module: str) -> None:
        """Return when none is being closed; whoever closes has deadlines."""
        while under_way := self._under_way.get(module):
            await asyncio.wait(set(under_way))
