"""Free one unloaded version without a collection of the whole heap (DESIGN §8).

A version dies in reference cycles: classes, functions and their namespaces hold each other. A full collection walks every
container of the process with the interpreter held: 65 ms with a million of them, in whichever thread it runs, and none of
the frozen ones. So the version's own objects are put back into the youngest generation, and only that is collected: its
cost is that of the version (0.2 ms), not of the state that the application holds.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from orchestrator.runtime.ownership import Owner, namespaces_of_modules

OBJECTS_MAX = 100_000  # a version that is larger is freed by the next collection that Python makes by itself

#: Where a walk from a version would leave it: what the version refers to and never the other way round.
_OUTSIDE = (
    asyncio.AbstractEventLoop,
    logging.Manager,
    logging.RootLogger,
)
#: The same, of the runtime, by their modules: these import what uses this file.
_OUR_OUTSIDE = frozenset({"orchestrator.runtime.application", "orchestrator.runtime.proxy"})
#: A bound logger leads to all of the log. By name: a child that only looks at what a release is does not import it.
_LOG = ("loguru._logger", "Core")
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python from collecting by itself meanwhile: over a large heap that takes longer than a whole pause may."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def collect_version(owner: Owner, roots: Sequence[weakref.ref[Any]]) -> bool:
    """Free what is garbage among `roots` and all that they lead to.

    Safe in any thread. Returns False if the version has more than OBJECTS_MAX objects, and nothing was done.
    """
    # No assignment expression here: it would hold the last of them.
    members = members_of(owner, [thing for thing in [ref() for ref in roots] if thing is not None])
    if members is None:
        return False
    with _ONE_AT_A_TIME:
        _make_young(members)
        members.clear()
        gc.collect(0)
    return True


def members_of(owner: Owner, roots: list[object]) -> list[object] | None:
    """The containers that may be part of the version's cycles; None: more than OBJECTS_MAX. Empties `roots`.

    More than are is harmless: they only cost their visit.
    """
    namespaces = {id(names) for _, names in namespaces_of_modules() if not owner.owns(names)}
    seen: set[int] = set()
    found: list[object] = []
    while roots:
        thing = roots.pop()
        if id(thing) in seen or not gc.is_tracked(thing):
            continue
        seen.add(id(thing))
        if id(thing) in namespaces or _is_outside(owner, thing):
            continue
        found.append(thing)
        if len(found) > OBJECTS_MAX:
            return None
        roots.extend(gc.get_referents(thing))
    return found


def _is_outside(owner: Owner, thing: object) -> bool:
    kind = type(thing)
    if issubclass(
        kind, (ModuleType, type)
    ):  # of functions any: a wrapper made elsewhere holds one of the version's
        return not owner.owns(thing)
    return (
        issubclass(kind, _OUTSIDE)
        or kind.__module__ in _OUR_OUTSIDE
        or (kind.__module__, kind.__qualname__) == _LOG
    )


_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_track = ctypes.pythonapi.PyObject_GC_Track
_untrack.argtypes = _track.argtypes = [ctypes.py_object]
_untrack.restype = _track.restype = None


def _make_young(things: list[object]) -> None:
    """Move containers to the youngest generation, out of an older or the frozen one (C API, "cyclic garbage collection").

    Each pair of calls is made with no bytecode in between (`zip` over two `map`), and no collection: another thread that
    ran there could track the same object again, which the interpreter takes for a corrupt heap.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        tracked = [thing for thing in things if gc.is_tracked(thing)]
        deque(zip(map(_untrack, tracked), map(_track, tracked)), maxlen=0)  # noqa: B905  # the same list twice
    finally:
        if enabled:
            gc.enable()


def freeze_the_living() -> None:
    """Take what lives now out of all later collections (DESIGN §8). Once, after the start: costs one full collection."""
    gc.collect()
    gc.freeze()
