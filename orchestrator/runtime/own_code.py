"""Finds code of a version in an object that is to outlive it: an instance of its class, a callback, a closure.

The search is bounded, and for a warning: what it does not find is found when the version is retired.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from contextvars import Context
from types import BuiltinFunctionType, CoroutineType, FrameType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation

OBJECTS_MAX = 300  # some 0.1 ms
#: What leads to everything, or to nothing: whoever waits for the object now is not held by it for long.
_OPAQUE = (
    *(type, ModuleType, FrameType, CoroutineType, BuiltinFunctionType, Context),
    *(asyncio.AbstractEventLoop, asyncio.Task, asyncio.Handle),
    *(str, bytes, bytearray, int, float),
)


def own_code_in(value: object, implementation: Implementation) -> str | None:
    """What of the version's own code the object holds, as words; None if nothing is found."""
    own = _own_names(implementation)
    ahead: deque[object] = deque([value])
    seen = {id(value)}
    while ahead and len(seen) < OBJECTS_MAX:
        each = ahead.popleft()
        if each is implementation.instance:
            return "the module's instance"
        if isinstance(each, (FunctionType, MethodType)) and _is_own(each.__module__, own):
            return f"the function {each.__qualname__}()"
        if _is_own(type(each).__module__, own):
            return f"an instance of {type(each).__qualname__}"
        for held in _held_by(each):
            if id(held) not in seen and not isinstance(held, _OPAQUE):
                seen.add(id(held))
                ahead.append(held)
    return None


def _own_names(implementation: Implementation) -> tuple[str, ...]:
    if implementation.loaded is not None:
        return tuple(implementation.loaded.aliases.values())
    return (implementation.blueprint.cls.__module__,)  # a class in a test


def _is_own(module: object, own: tuple[str, ...]) -> bool:
    return isinstance(module, str) and any(module == name or module.startswith(name + ".") for name in own)


def _held_by(value: object) -> list[object]:
    if isinstance(value, FunctionType):  # its globals are a whole module: not what it was given
        return [*(value.__closure__ or ()), *(value.__defaults__ or ())]
    return gc.get_referents(value)
