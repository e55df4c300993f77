"""What a Module class says of itself, read once when a version is loaded, off the event loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

from orchestrator.runtime.description import Description
from orchestrator.runtime.errors import DefinitionInvalid
from orchestrator.runtime.handlers import Handler
from orchestrator.runtime.message import TIMER_MARK, TOPIC_MARK, is_authors
from orchestrator.runtime.module import MARK, Mark, Module
from orchestrator.runtime.replies import reply_schemas
from orchestrator.runtime.resource import resources_of
from orchestrator.runtime.schema import schema_of
from orchestrator.runtime.state import StateCodec, Steps
from orchestrator.runtime.table_types import find_tables
from orchestrator.runtime.upcasts import Upcast, attach, check_upcast


class Blueprint:
    """A Module class, compiled: handlers by message type, patterns, timers, intakes, state and its steps."""

    __slots__ = (
        "cls",
        "codec",
        "drop_oldest",
        "each",
        "handlers",
        "intakes",
        "resources",
        "state_version",
        "steps",
        "subscriptions",
        "tables",
        "timers",
    )

    def __init__(self, cls: type[Module[Any]]) -> None:
        _refuse_init(cls)
        _refuse_async_hooks(cls)
        self.cls = cls
        self.state_version: int = _state_version(cls)
        self.codec = StateCodec(state_type(cls))
        self.steps: Steps = dict(cls._migrations)  # the class keeps them for us
        self.tables = find_tables(cls, cls._table_steps)
        self.handlers: dict[str, Handler] = {}
        self.subscriptions: tuple[str, ...] = ()
        self.drop_oldest: frozenset[str] = (
            frozenset()
        )  # of these, patterns whose events may be given up for newer ones
        self.timers: dict[str, float] = {}
        self.intakes: tuple[str, ...] = ()
        self.each: tuple[str, ...] = ()  # intakes with one task for each source
        self.resources = resources_of(cls)
        for name, function, mark in _marked(cls):
            self._add(name, function, mark)
        #: Patterns whose waiting events may be given up for newer ones.
        self.drop_oldest = frozenset(mark.name for _, _, mark in _marked(cls) if mark.drop_oldest)
        attach(self.handlers, _upcasts(cls), cls.__name__)

    def _add(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        if name in FRAMEWORKS_OWN:
            raise DefinitionInvalid(
                f"{self.cls.__name__}.{name} is the framework's own and cannot be a handler. "
                f'Give the method another name, and the type in the decorator: @handles("{name}").'
            )
        if mark.role == "handles":
            if mark.name and not is_authors(mark.name):
                raise DefinitionInvalid(
                    f"{function.__qualname__}() handles {mark.name!r}; a type cannot begin with @ or %, "
                    "which mark events and ticks."
                )
            self._add_handler(mark.name or name, name, function, mark)
        elif mark.role == "subscribes":
            _check_pattern(mark.name, function)
            self.subscriptions = (*self.subscriptions, mark.name)
            self._add_handler(TOPIC_MARK + mark.name, name, function, mark)
        elif mark.role == "every":
            if (
                isinstance(mark.seconds, bool)
                or not isinstance(mark.seconds, (int, float))
                or not mark.seconds > 0
            ):
                raise DefinitionInvalid(
                    f"{function.__qualname__}(): @every(seconds=...) must be a number above 0."
                )
            self.timers[name] = mark.seconds
            self._add_handler(TIMER_MARK + name, name, function, mark)
        elif mark.role == "intake":
            if not inspect.iscoroutinefunction(function):
                raise DefinitionInvalid(f"{function.__qualname__}() is an @intake and must be `async def`.")
            if mark.each:
                _check_takes_source(function)
                self.each = (*self.each, name)
            else:
                self.intakes = (*self.intakes, name)

    def _add_handler(self, type_: str, method: str, function: Callable[..., Any], mark: Mark) -> None:
        if type_ in self.handlers:
            raise DefinitionInvalid(
                f"{self.cls.__name__} handles {type_!r} twice: in {self.handlers[type_].method}() and in "
                f"{method}(). Keep one."
            )
        if mark.thread and inspect.iscoroutinefunction(inspect.unwrap(function)):
            raise DefinitionInvalid(
                f"{function.__qualname__}() is `async def` and cannot run in a thread. "
                "Write thread=True on a plain `def`, or drop it."
            )
        self.handlers[type_] = Handler(type_, function, method=method, again=mark.again, thread=mark.thread)


#: Names that a handler would take from the framework.
FRAMEWORKS_OWN = frozenset(
    {name for name in vars(Module) if not name.startswith("_")}
    | {"state", "name", "version", "config", "log"}
)


def _marked(cls: type[Module[Any]]) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
    for name, value in [(n, inspect.getattr_static(cls, n)) for n in dir(cls)]:
        if isinstance(value, (staticmethod, classmethod)) and (
            hasattr(value, MARK) or hasattr(value.__func__, MARK)
        ):
            raise DefinitionInvalid(f"{cls.__name__}.{name} is a handler and must be a plain method.")
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        for mark in getattr(function, MARK, ()):
            yield name, function, mark


def _upcasts(cls: type[Module[Any]]) -> Iterator[tuple[Upcast, Handler]]:
    for name, function, mark in _marked(cls):
        if mark.upcast is not None:
            check_upcast(mark.upcast, function)
            yield mark.upcast, Handler(mark.upcast.type, function, method=name)


def _refuse_init(cls: type[Module[Any]]) -> None:
    if cls.__init__ is not Module.__init__:
        raise DefinitionInvalid(
            f"{cls.__name__} has an __init__ of its own; the framework constructs modules. "
            "Put what it does into prepare(), and state into initial_state()."
        )


def _refuse_async_hooks(cls: type[Module[Any]]) -> None:
    """The switch calls these and waits for nothing: a coroutine would never run, and nobody would hear of it."""
    for hook in (cls.initial_state, cls.hand_over, cls.take_over):
        if inspect.iscoroutinefunction(hook):
            raise DefinitionInvalid(
                f"{hook.__qualname__}() is `async def` and must be a plain `def`. "
                "Do what has to be awaited in prepare(), which runs while the version before still serves."
            )


def _check_takes_source(function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind not in {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }:
        raise DefinitionInvalid(
            f"{function.__qualname__}() is an @intake(each=True) and takes one parameter beside self: the source that "
            "was given to attach()."
        )


def _state_version(cls: type[Module[Any]]) -> int:
    version: object = cls.state_version
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DefinitionInvalid(
            f"{cls.__name__}.state_version is {version!r}; it must be a whole number from 1."
        )
    return version


def _check_pattern(pattern: str, function: Callable[..., Any]) -> None:
    if not pattern or "*" in pattern[:-1]:
        raise DefinitionInvalid(
            f"{function.__qualname__}() subscribes to {pattern!r}; a pattern is a topic, or a beginning and one `*`."
        )


def state_type(cls: type[Module[Any]]) -> Any:
    """The S of `class X(Module[S])`, from the class or what it inherits; a plain dict if none is named."""
    for base in cls.__mro__:
        for generic in getattr(base, "__orig_bases__", ()):
            origin = get_origin(generic)
            if isinstance(origin, type) and issubclass(origin, Module):
                (argument,) = get_args(generic)
                if not hasattr(argument, "__bound__"):  # a TypeVar: an abstract base in between
                    return argument
    return dict[str, Any]


def describe(blueprint: Blueprint, entry: str) -> Description:
    """The Description of a blueprint; `entry` is `module:Class`."""
    return Description(
        entry=entry,
        handles={t: h.schema for t, h in blueprint.handlers.items() if is_authors(t)},
        subscribes=blueprint.subscriptions,
        timers=dict(blueprint.timers),
        intakes=(*blueprint.intakes, *blueprint.each),
        state_version=blueprint.state_version,
        state_schema=_schema(blueprint.codec.type),
        migrations=tuple(sorted(blueprint.steps)),
        tables={name: table.describe() for name, table in blueprint.tables.items()},
        upcasts={t: tuple(u.schema for u in h.upcasts) for t, h in blueprint.handlers.items() if h.upcasts},
        returns=reply_schemas(blueprint.cls, blueprint.handlers),
        hears={t[1:]: h.schema for t, h in blueprint.handlers.items() if t.startswith(TOPIC_MARK)},
    )


def _schema(type_: Any) -> dict[str, Any]:
    try:
        return schema_of(type_)
    except TypeError as error:
        raise DefinitionInvalid(f"The state type {type_!r} is not plain data: {error}.") from error
