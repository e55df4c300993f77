"""What belongs to one load of a package: told by the load's own names, which no other object of the process carries."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)

#: How `Loaded` names a load: the top-level package, its tree and a number.
_ALIAS = re.compile(r"__[0-9a-f]{1,12}_\d+\b")


def public_name(name: str) -> str:
    """The name as its author wrote it, whichever load it is from."""
    return _ALIAS.sub("", name)


def _namespace(module: object) -> dict[str, object]:
    """A module's names, past a `__getattribute__` of its own: a lazy one would be loaded by the question."""
    names: dict[str, object] = ModuleType.__getattribute__(module, "__dict__")
    return names


def namespaces_of_modules() -> list[tuple[str, dict[str, object]]]:
    """Name and names of every module of the process."""
    modules = list(sys.modules.items())
    return [(name, _namespace(module)) for name, module in modules if issubclass(type(module), ModuleType)]


class Owner:
    """Tells the objects of one load from all others, without running code of theirs."""

    __slots__ = ("_aliases",)

    def __init__(self, aliases: Iterable[str]) -> None:
        self._aliases = frozenset(aliases)

    def owns(self, thing: object) -> bool:
        """Whether it is a module, class, function, frame, coroutine or generator of the load, or an instance of a class."""
        kind = type(thing)
        if kind is dict:
            return self._is_namespace(thing)
        if kind is FunctionType:
            return self._is_namespace(thing.__globals__)  # type: ignore[attr-defined]  # it is a function
        if kind is MethodType:
            return self.owns(thing.__func__) or self.owns(thing.__self__)  # type: ignore[attr-defined]
        if kind is FrameType:
            return self._is_namespace(thing.f_globals)  # type: ignore[attr-defined]
        if kind in _SUSPENDED:
            frame = frame_of(thing)
            return frame is not None and self._is_namespace(frame.f_globals)
        if issubclass(kind, ModuleType):
            return self._is_namespace(_namespace(thing))
        return self.owns_class(thing if issubclass(kind, type) else kind)  # type: ignore[arg-type]

    def owns_class(self, cls: type) -> bool:
        return self._has(type.__getattribute__(cls, "__dict__").get("__module__"))

    def _is_namespace(self, thing: object) -> bool:
        return isinstance(thing, dict) and self._has(thing.get("__name__"))

    def _has(self, name: object) -> bool:
        return isinstance(name, str) and name.partition(".")[0] in self._aliases

    def line(self, frame: FrameType | None) -> str:
        """`counter/__init__.py line 12` of the innermost frame of the load, going outward; empty if there is none."""
        while frame is not None:
            if self._is_namespace(frame.f_globals):
                return f"{_file(frame.f_globals, frame.f_code.co_filename)} line {frame.f_lineno}"
            frame = frame.f_back
        return ""

    def describe(self, thing: object) -> str:
        """What it is and where it was written, for a person: `function late (counter/lazy.py line 3)`."""
        kind = type(thing)
        if kind is MethodType:
            inner = thing.__func__  # type: ignore[attr-defined]
            return self.describe(inner if self.owns(inner) else thing.__self__)  # type: ignore[attr-defined]
        if kind is FunctionType:
            code = thing.__code__  # type: ignore[attr-defined]
            where = f"{_file(thing.__globals__, code.co_filename)} line {code.co_firstlineno}"  # type: ignore[attr-defined]
            return f"function {thing.__qualname__} ({where})"  # type: ignore[attr-defined]
        if kind in _SUSPENDED or kind is FrameType:
            frame = thing if isinstance(thing, FrameType) else frame_of(thing)
            return f"{kind.__name__.replace('_', ' ')} ({self.line(frame)})"
        if isinstance(thing, ModuleType):
            return f"module {public_name(thing.__name__)}"
        if kind is dict:
            return f"the names of module {public_name(str(thing['__name__']))}"  # type: ignore[index]
        if isinstance(thing, type):
            return f"class {_class_name(thing)}{self._methods_line(thing)}"
        return f"an instance of {_class_name(kind)}{self._methods_line(kind)}"

    def _methods_line(self, cls: type) -> str:
        """Where the class is, as near as can be said: its first method's line."""
        functions = [f for f in vars(cls).values() if isinstance(f, FunctionType) and self.owns(f)]
        if not functions:
            return ""
        first = min(functions, key=lambda f: f.__code__.co_firstlineno)
        where = _file(first.__globals__, first.__code__.co_filename)
        return f" ({where} line {first.__code__.co_firstlineno})"


_SUSPENDED = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


def frame_of(thing: object) -> FrameType | None:
    """The frame of a coroutine, generator or async generator; None once it has ended."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(thing, name, None)
        if frame is not None:
            return frame  # type: ignore[no-any-return]  # the interpreter's own attributes
    return None


def awaited_by(thing: object) -> object:
    """What a suspended coroutine or generator waits for, None if that is not one itself."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        inner = getattr(thing, name, None)
        if type(inner) in _SUSPENDED:
            return inner
    return None


def _class_name(cls: type) -> str:
    return f"{public_name(str(cls.__module__))}.{cls.__qualname__}"


def _file(namespace: dict[str, object], path: str) -> str:
    """The file within its package: as many folders as the module's name has parts."""
    parts = Path(path).parts
    name = str(namespace.get("__name__", ""))
    depth = name.count(".") + (2 if parts and parts[-1] == "__init__.py" else 1)
    return "/".join(parts[-depth:])
