"""Where author code stands: the line at which a coroutine, a task or a thread is now, for a report to its author."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.runtime.guard import Guarded
from orchestrator.runtime.ownership import Owner, frame_of

if TYPE_CHECKING:
    from orchestrator.runtime.loader import Loaded

NOWHERE = "no line that can be seen"


def place_of_coroutine(coroutine: object, loaded: Loaded | None) -> str:
    """`counter/__init__.py line 12 in tick`: the innermost line of the author's that waits."""
    return _place(reversed(list(_awaiting(coroutine))), loaded)


def place_of_task(task: asyncio.Future[object], loaded: Loaded | None) -> str:
    """The same for a task that waits."""
    return place_of_coroutine(task.get_coro(), loaded) if isinstance(task, asyncio.Task) else NOWHERE


def place_of_thread(ident: int | None, loaded: Loaded | None) -> str:
    """The innermost line of the author's at which a thread is."""
    frame = sys._current_frames().get(ident) if ident is not None else None  # noqa: SLF001  # no other way to see one
    return _place(_outward(frame), loaded)


def place_on_stack(frame: FrameType | None, loaded: Loaded | None) -> str:
    """The innermost line of the author's, from a frame outward."""
    return _place(_outward(frame), loaded)


def _awaiting(coroutine: object) -> Iterator[FrameType]:
    """The frames from a coroutine to what it waits for in the end."""
    while coroutine is not None:
        if isinstance(coroutine, Guarded):
            coroutine = coroutine.inner
        frame = frame_of(coroutine)
        if frame is not None:
            yield frame
        coroutine = next(
            (
                inner
                for name in ("cr_await", "gi_yieldfrom", "ag_await")
                if (inner := getattr(coroutine, name, None)) is not None
            ),
            None,
        )


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frames: Iterable[FrameType], loaded: Loaded | None) -> str:
    """The first frame that is the author's."""
    for frame in frames:
        if loaded is not None:
            line = Owner(loaded.aliases.values()).line(frame)
            if line:
                return f"{line} in {frame.f_code.co_name}"
        elif _is_authors(frame):
            return f"{Path(frame.f_code.co_filename).name} line {frame.f_lineno} in {frame.f_code.co_name}"
    return NOWHERE


def _is_authors(frame: FrameType) -> bool:
    """Neither of the framework nor of Python itself; for classes that were not loaded from a release, as in a test."""
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return top != "orchestrator" and top not in sys.stdlib_module_names
