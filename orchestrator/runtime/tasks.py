"""The tasks that a unit started: it ends when they have ended (DESIGN §5, "a unit of work")."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.runtime.guard import Unit


def start_for(unit: Unit, make: Callable[[], asyncio.Future[Any]]) -> asyncio.Future[Any]:
    """Make a task that belongs to the unit."""
    tasks = unit.proxy.tasks
    if tasks is None:
        tasks = unit.proxy.tasks = UnitTasks()
    task = make()
    tasks.add(task)
    return task


class UnitTasks:
    """The tasks that the unit under way started, and those that tasks of it started."""

    __slots__ = ("_ended", "_failed", "open")

    def __init__(self) -> None:
        self.open: set[asyncio.Future[Any]] = set()
        self._failed: list[asyncio.Future[Any]] = []
        self._ended: asyncio.Future[None] | None = None  # what the end of the unit waits for

    def __contains__(self, task: object) -> bool:
        return task in self.open

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(list(self.open))

    @property
    def waited_for(self) -> bool:
        """Whether the unit has ended but for them."""
        return self._ended is not None

    def add(self, task: asyncio.Future[Any]) -> None:
        self.open.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self.open.discard(task)
        if _failed_unseen(task):
            self._failed.append(task)
        if not self.open and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Return when none is left, those included that they start meanwhile."""
        while self.open:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    def error(self) -> BaseException | None:
        """What one of them raised and nobody looked at: not awaited, not gathered. None if there is nothing."""
        errors = [task.exception() for task in self._failed if _failed_unseen(task)]
        self._failed.clear()
        return errors[0] if errors else None

    async def cut(self, seconds: float) -> set[asyncio.Future[Any]]:
        """Cancel what is left; returns those that have not ended after `seconds`."""
        for task in self:
            task.cancel()
        if not self.open:
            return set()
        await asyncio.wait(self.open, timeout=seconds)
        return set(self.open)


def _failed_unseen(task: asyncio.Future[Any]) -> bool:
    """Has it raised, and has nobody asked for it? asyncio keeps the note to log it; told nowhere else."""
    return bool(getattr(task, "_log_traceback", False))
