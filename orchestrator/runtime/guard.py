"""Author code that runs as a task of its own: to which unit it belongs, and that no error of it ends the event loop.

asyncio lets SystemExit and KeyboardInterrupt of a task out of the loop, which would end the host. A guarded coroutine
ends by `TaskExit` instead, which is an error of the task like any other.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.runtime.errors import TaskExit, error_text

if TYPE_CHECKING:
    from orchestrator.runtime.message import Message
    from orchestrator.runtime.proxy import ModuleProxy


class Unit(NamedTuple):
    """A unit of work: the module, and the message that it handles."""

    proxy: ModuleProxy
    message: Message

    @property
    def under_way(self) -> bool:
        return self.proxy.unit is self.message


class Guarded(Coroutine[Any, Any, Any]):
    """A coroutine of the author's as a task runs it. `unit` is the one it belongs to; None: it was started outside one.

    Not a coroutine around a coroutine: one that is cancelled before its first step would leave the inner never awaited.
    """

    __slots__ = ("__name__", "__qualname__", "__weakref__", "inner", "unit")

    def __init__(self, inner: Coroutine[Any, Any, Any], unit: Unit | None) -> None:
        self.inner = inner
        self.unit = unit
        self.__name__ = getattr(inner, "__name__", type(inner).__name__)
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)

    def send(self, value: Any) -> Any:
        try:
            return self.inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _exit(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self.inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise _exit(raised) from raised
        finally:
            del error  # what comes out again holds this frame: a circle that would hold the version, too

    def close(self) -> None:
        self.inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.inner.__await__()

    # What `repr` of a task and its stack look at.

    @property
    def cr_await(self) -> object:
        return getattr(self.inner, "cr_await", None)

    @property
    def cr_code(self) -> object:
        return getattr(self.inner, "cr_code", None)

    @property
    def cr_frame(self) -> FrameType | None:
        return getattr(self.inner, "cr_frame", None)

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self.inner, "cr_running", False))


def runs_now(task: asyncio.Task[Any] | None) -> bool:
    """Whether the task is the one that runs.

    Of a GeneratorExit it tells whose that is: the author's own; or Python's, which closes a task that is thrown away.
    """
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:  # no loop runs any more
        return False


def was_cancelled() -> bool:
    """Whether a CancelledError that author code raised is that of the task it runs in; else it is the author's own.

    Python 3.10 does not tell; there every one counts as the task's.
    """
    task = asyncio.current_task()
    return sys.version_info < (3, 11) or task is None or task.cancelling() > 0


def _exit(error: BaseException) -> TaskExit:
    told = TaskExit(f"a task raised {error_text(error)}; in a module that ends the task, never the host")
    return told.with_traceback(error.__traceback__)  # the author's line
