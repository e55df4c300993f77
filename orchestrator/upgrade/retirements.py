"""Proof of retirement: a version that left service is gone, or its holder is named (DESIGN §7.8)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.holders import find_holders, loop_roots, process_roots
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.retirement import Remains

#: What was under way when a version left (a reply, a thread that ends by itself) has so long to let go of it.
LOOK_AGAIN_AFTER_S = (0.0, 0.05, 0.2, 1.0, 3.0)
LEFTOVERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Leftover:
    """A version that is still loaded though it left service. `at`: seconds since the epoch."""

    remains: Remains
    held_by: tuple[str, ...]
    at: float


class Retirements:
    """Proves each version gone, and remembers those that are not."""

    def __init__(self, app: Application, look_again_after_s: Sequence[float] = LOOK_AGAIN_AFTER_S) -> None:
        self._app = app
        self._look_again_after_s = look_again_after_s
        self._leftovers: list[Leftover] = []
        self._kept: list[Remains] = []
        self._proving: set[asyncio.Task[None]] = set()
        self.proven = 0
        self.full_collections = 0  # each stalls the loop by as much as the application holds

    @property
    def leftovers(self) -> list[Leftover]:
        """The versions that are still held, oldest first; one that was let go of meanwhile is no longer among them."""
        self._leftovers = [each for each in self._leftovers if not each.remains.gone]
        return list(self._leftovers)

    @property
    def kept(self) -> list[Remains]:
        """Versions that left service and stay loaded for a purpose, which `kept_as` says."""
        self._kept = [each for each in self._kept if not each.gone]
        return list(self._kept)

    def begin(self, left: Sequence[Remains]) -> None:
        """Prove each of them gone, one after the other, beside whoever calls; then look again at what was held before."""

        async def prove_all() -> None:
            before = self.leftovers
            for remains in left:
                await self.prove(remains)
            for (
                leftover
            ) in before:  # who held it may have let go, and what is in a circle goes by a collection only
                await in_own_thread(leftover.remains.collect)

        task = asyncio.ensure_future(prove_all())
        self._proving.add(task)
        task.add_done_callback(self._proving.discard)

    async def stop(self) -> None:
        """Give up what is not proven yet: the process ends, and with it all that a version left."""
        for task in self._proving:
            task.cancel()
        if self._proving:
            await asyncio.wait(self._proving)

    async def prove(self, remains: Remains) -> bool:
        """Return True once nothing of the version is left; False, and a warning in the log, if something holds it.

        A release that is kept as a converter is meant to stay, and is among `kept` until it is unloaded.
        """
        if remains.kept_as:
            self._kept = [*self.kept, remains]
            return False
        clock = self._app.clock
        for seconds in self._look_again_after_s:
            if seconds:
                await sleep_until(clock, clock.now() + seconds)
            if await in_own_thread(remains.collect):
                self.proven += 1
                return True
        held_by = await self._holders(remains)
        if remains.gone:
            self.proven += 1
            return True
        self._leftovers = [*self.leftovers, Leftover(remains, held_by, clock.wall())][-LEFTOVERS_MAX:]
        logger.bind(module=remains.name).warning(still_loaded(remains, held_by))
        return False

    async def _holders(self, remains: Remains) -> tuple[str, ...]:
        roots = loop_roots(remains.owner, self._app)

        def search() -> tuple[str, ...]:
            found = find_holders(remains.owner, [*roots, *process_roots(remains.owner)])
            if not found:  # nobody: then it is garbage in a circle that the quick collection does not see
                self.full_collections += 1
                gc.collect()
            return tuple(found)

        try:
            return await in_own_thread(search)
        finally:
            roots.clear()


def still_loaded(remains: Remains, held_by: Sequence[str]) -> str:
    """Who holds a version that left service, and what to do about it."""
    if not held_by:
        return (
            f"{remains.label} left service and is still loaded; what holds it was not found. It serves nothing and costs its "
            "memory until livetag restart."
        )
    return (
        f"{remains.label} left service and is still loaded: {'; '.join(held_by)}. It serves nothing and costs its memory. "
        "Let go of it in stop() of the next version; livetag restart frees it at once."
    )
