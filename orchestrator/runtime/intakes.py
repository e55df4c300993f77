"""The intakes of a module: what reads its input, one task for each, and one for each source of an @intake(each=True)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.runtime.reader import Reader
from orchestrator.runtime.sources import Sources

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class Intakes:
    """The intake tasks of one module, and its attached sources."""

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._readers: dict[str, Reader] = {}
        self.failures = 0
        self.sources = Sources(proxy, self._failed)

    def set(self, names: Iterable[str]) -> None:
        """Run exactly these intakes of the implementation now in service; what ran before goes on in its code.

        Sources follow: a module that rests reads none of them, else the version in service does.
        """
        wanted = set(names)
        for name in [n for n in self._readers if n not in wanted]:
            self._readers.pop(name).stop()
        for name in wanted:
            reader = self._readers.get(name)
            if reader is None or reader.task.done():
                self._readers[name] = Reader(name, self._proxy, self._failed)
            elif (
                reader.behind
            ):  # after a switch this is called twice; the new version's read must not be interrupted
                reader.move()
        if self._proxy.resting is not None:
            self.sources.pause()
        else:
            self.sources.go_on()

    @property
    def quiet(self) -> bool:
        """Whether no intake is about to run: each waits for what has not come yet, or delivers what it has.

        Sources do not count: there may be thousands, and each moves over a swap when its read under way has ended.
        """
        return all(reader.quiet for reader in self._readers.values())

    async def stop(self) -> None:
        """End all intakes and the reading of all sources; an item that one has returned is still delivered."""
        readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.stop()
        readers += self.sources.stop()
        if readers:
            # A second for author code to end, and time for the loop to turn to each of many.
            _, still_there = await asyncio.wait(
                [reader.task for reader in readers], timeout=1.0 + len(readers) * 0.001
            )
            for task in still_there:
                logger.bind(module=self._proxy.name).warning(
                    "{} did not end when it was cancelled; an intake may not swallow CancelledError",
                    task.get_name(),
                )

    def _failed(self) -> None:
        self.failures += 1
