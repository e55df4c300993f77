"""The sweep: takes up the records that nobody touches after a switch, in slices between other work (DESIGN §7.8).

It never holds the event loop longer than a slice (and one step), rests between slices, and stands still while a unit runs
in a thread, which shares the tables with it. When no record needs the steps of a release that left, that is unloaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.retirement import unload_and_free
from orchestrator.runtime.table_store import SHARDS, Layer, TableStore

if TYPE_CHECKING:
    from orchestrator.runtime.loader import Loaded
    from orchestrator.runtime.proxy import ModuleProxy
    from orchestrator.runtime.tables import ModuleTables

SLICE_S = 0.0005
REST_S = 0.001  # the grain of the loop's own timers
LOOK_AGAIN_S = 1.0  # at records that a step raised on: somebody may have written or deleted them


class Sweep:
    """The background task of one module whose records are not all of the version in service; else there is none."""

    __slots__ = ("_proxy", "_task")

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin, if there is anything to do."""
        tables = self._proxy.tables
        if not self.under_way and tables.layers:
            task = asyncio.get_running_loop().create_task(self._run(tables), name=f"sweep {self._proxy.name}")
            task.add_done_callback(self._ended)
            self._task = task

    def stop(self) -> None:
        """End it where it is; what was moved stays moved."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.bind(module=self._proxy.name).opt(exception=error).error(
                "the sweep of {}'s tables ended; records are still migrated when they are touched. This is a bug of livetag.",
                self._proxy.name,
            )

    async def _run(self, tables: ModuleTables) -> None:
        waiting = [(store, layer) for store in tables.stores.values() for layer in store.layers]
        while waiting:
            while waiting:  # no variable here may hold a layer, and with it the release that is freed below
                await self._take_up(*waiting.pop(0))
            if self._proxy.durable is not None:
                self._proxy.durable.write_converted()
            while tables.under_way:  # what that unit took out of a layer comes back if it raises
                await self._rest(REST_S)
            await _release_elsewhere(tables)
            await self._until_changed(tables)
            waiting = [(s, layer) for s in tables.stores.values() for layer in s.layers if layer.put_back]

    async def _take_up(self, store: TableStore, layer: Layer) -> None:
        """One pass over a layer."""
        layer.put_back, layer.bad, layer.reason = False, 0, ""
        await self._rest(REST_S)
        end = perf_counter() + SLICE_S
        for place in range(SHARDS):
            for key in list(layer.shards[place]):
                if perf_counter() >= end:
                    await self._rest(REST_S)
                    end = perf_counter() + SLICE_S
                store.bring_up_swept(layer, place, key)
        if layer.bad:
            logger.bind(module=self._proxy.name).error(
                "{} records of {} stay in version {}, units that touch them fail. The first: {}",
                layer.bad,
                self._proxy.name,
                layer.version,
                layer.reason,
            )

    async def _until_changed(self, tables: ModuleTables) -> None:
        """Return when a record was put back, or no layer is left."""
        while tables.layers:
            if any(layer.put_back for layer in tables.layers):
                return
            await self._rest(LOOK_AGAIN_S)
            if not tables.under_way and any(layer.empty for layer in tables.layers):
                await _release_elsewhere(tables)

    async def _rest(self, seconds: float) -> None:
        if self._proxy.durable is not None:
            self._proxy.durable.write_converted()
        clock = self._proxy.app.clock
        await sleep_until(clock, clock.now() + seconds)
        while self._proxy.thread is not None:
            await sleep_until(clock, clock.now() + REST_S)


def finishing(tables: ModuleTables) -> Generator[None, None, None]:
    """Take up all records, of a module that runs no units meanwhile: before they are saved, or the steps leave."""
    yield from _all_taken_up(tables)
    release(tables)


def _all_taken_up(tables: ModuleTables) -> Generator[None, None, None]:
    for store in tables.stores.values():
        for layer in store.layers:
            layer.bad, layer.reason = 0, ""
            for place in range(SHARDS):
                for key in list(layer.shards[place]):
                    store.bring_up_swept(layer, place, key)
                    yield


def release(tables: ModuleTables) -> None:
    """Unload the releases whose steps no record needs any more. Takes 1 ms for a small one, so not on a loop that serves."""
    _unload(tables.let_go())


async def _release_elsewhere(tables: ModuleTables) -> None:
    """The same, in a thread; to its end, though the sweep be stopped meanwhile."""
    if free := tables.let_go():
        await asyncio.shield(in_own_thread(_unload, free))


def _unload(releases: Sequence[Loaded]) -> None:
    for loaded in releases:
        unload_and_free(loaded)
