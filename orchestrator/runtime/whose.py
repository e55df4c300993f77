"""Whose a new task is: a task that a unit starts belongs to it (DESIGN §5, "a unit of work").

A task factory on the event loop finds whose code it is that starts a task, by the stack: a unit that starts none pays
nothing for it. What the framework itself starts belongs to no unit.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from orchestrator.runtime.guard import Guarded, Unit
from orchestrator.runtime.pump import Pump
from orchestrator.runtime.tasks import start_for

TaskFactory = Callable[
    ..., "asyncio.Future[Any]"
]  # (loop, coroutine, **keywords): the keywords grow with Python

_PUMPS = frozenset({Pump._unit.__code__, Pump.answer_at_once.__code__})  # noqa: SLF001  # where units run
_GUARDS = frozenset({Guarded.send.__code__, Guarded.throw.__code__})


class TaskOwnership:
    """Gives each task of author code to its unit, while at least one module of the application runs.

    A factory that the loop already has makes the tasks still, and comes back when the last module has ended.
    """

    def __init__(self) -> None:
        self._users = 0
        self._before: TaskFactory | None = None

    def begin(self) -> None:
        """One more module that runs."""
        self._users += 1
        if self._users == 1:
            loop = asyncio.get_running_loop()
            if self not in _chain(loop.get_task_factory()):
                self._before = loop.get_task_factory()
                loop.set_task_factory(self)  # type: ignore[arg-type]  # typeshed names each keyword

    def end(self) -> None:
        """One less; after the last the loop has its own factory again.

        Another application may have put its factory over this one: then this one stays below it, and does nothing.
        """
        self._users -= 1
        loop = asyncio.get_running_loop()
        chain = _chain(loop.get_task_factory())
        if not self._users and chain and chain[0] is self:
            loop.set_task_factory(
                next((f for f in chain if not (isinstance(f, TaskOwnership) and f.idle)), None)
            )

    @property
    def idle(self) -> bool:
        return not self._users

    @property
    def before(self) -> TaskFactory | None:
        """The factory that makes the tasks; None: the loop's own way."""
        return self._before

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **keywords: Any
    ) -> asyncio.Future[Any]:
        if not self._users or not inspect.isawaitable(coroutine):
            return self._make(loop, coroutine, keywords)
        authors, unit = whose(sys._getframe(1))  # noqa: SLF001  # the stack is what tells whose code runs
        if not authors or isinstance(coroutine, Guarded):
            return self._make(loop, coroutine, keywords)
        if unit is None or not unit.under_way:
            return self._make(loop, Guarded(coroutine, None), keywords)
        return start_for(unit, lambda: self._make(loop, Guarded(coroutine, unit), keywords))

    def _make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], keywords: dict[str, Any]
    ) -> asyncio.Future[Any]:
        if self._before is not None:
            return self._before(loop, coroutine, **keywords)
        return asyncio.Task(coroutine, loop=loop, **keywords)


def _chain(factory: TaskFactory | None) -> list[TaskFactory]:
    """The factory and those below it."""
    chain = []
    while factory is not None:
        chain.append(factory)
        factory = factory.before if isinstance(factory, TaskOwnership) else None
    return chain


def unit_on_stack(frame: FrameType | None) -> Unit | None:
    """The innermost unit whose code runs now, by the stack."""
    while frame is not None:
        unit = _unit_of(frame)
        if unit is not None:
            return unit
        frame = frame.f_back
    return None


def _unit_of(frame: FrameType) -> Unit | None:
    """The unit that the frame runs, if it is one that runs units."""
    if frame.f_code in _GUARDS:
        unit: Unit | None = frame.f_locals["self"].unit
        return unit
    if frame.f_code in _PUMPS:
        return Unit(frame.f_locals["proxy"], frame.f_locals["message"])
    return None


def whose(frame: FrameType | None) -> tuple[bool, Unit | None]:
    """Whose code has just called, by its stack: whether it is an author's, and the unit that it runs in.

    The framework's own calls are told by the first frame that is not asyncio's.
    """
    nearest = True
    authors = False
    while frame is not None:
        code = frame.f_code
        if code in _GUARDS:
            return True, _unit_of(frame)
        if code in _PUMPS:
            if nearest:
                return False, None
            return True, _unit_of(frame)
        if nearest:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("orchestrator."):
                return False, None
            nearest = name.startswith("asyncio.")
        # A loaded version has builtins of its own; see loader.
        authors = authors or frame.f_builtins is not vars(builtins)
        frame = frame.f_back
    return authors, None
