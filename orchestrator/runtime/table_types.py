"""What a Table holds, read from its annotation once, when a version is loaded: key, record, and the steps it has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from orchestrator.runtime.description import TableDescription
from orchestrator.runtime.errors import DefinitionInvalid, StateInvalid, error_text
from orchestrator.runtime.first_use import decoder_of
from orchestrator.runtime.schema import schema_of_json
from orchestrator.runtime.state import Step, Steps
from orchestrator.runtime.table import Table

ATOMS = (str, int, bytes)
SHOWN_MAX = 80  # characters of a key in a message

_ENCODER = msgspec.msgpack.Encoder()


class TableType:
    """A Table of one version of a module: its name, version, types as code and as schema, and its steps."""

    __slots__ = (
        "decode",
        "encode",
        "key",
        "key_schema",
        "name",
        "record",
        "record_schema",
        "steps",
        "version",
    )

    def __init__(self, name: str, version: int, key: Any, record: Any, steps: Steps) -> None:
        self.name = name
        self.version = version
        self.key = key
        self.record = record
        self.steps = steps
        self.encode: Callable[[object], bytes] = _ENCODER.encode
        try:
            decoder = decoder_of(record)
            self.record_schema = plain_schema(record)
            self.key_schema = plain_schema(key)
        except (TypeError, NameError) as error:
            raise DefinitionInvalid(
                f"The records of Table {name} are of type {record!r}, which is not plain data: {error}. "
                "Use a TypedDict or a tuple of plain types."
            ) from error
        self.decode: Callable[[bytes], Any] = decoder.decode

    def check_key(self, key: object) -> None:
        """Raises StateInvalid if a key is not of the annotated type, or cannot be stored."""
        wrong = self.key_misfit(key)
        if wrong:
            raise StateInvalid(f"{wrong} Nothing was written.")

    def key_misfit(self, key: object) -> str:
        """Why this can be no key; empty if it can."""
        if not _fits(key, self.key):
            return f"Table {self.name}: the key {shown(key)} is not of type {type_name(self.key)}."
        try:
            _ENCODER.encode(key)
        except (OverflowError, UnicodeEncodeError) as error:
            return f"Table {self.name}: the key {shown(key)} cannot be stored: {error}."
        return ""

    def record_refused(self, key: object, error: Exception) -> StateInvalid:
        """What a write raises whose record does not fit."""
        said = str(error) if isinstance(error, msgspec.MsgspecError) else error_text(error)
        return StateInvalid(
            f"Table {self.name}: the record for {shown(key)} does not fit version {self.version}: {said}. "
            "Nothing was written."
        )

    def describe(self) -> TableDescription:
        """It as data."""
        return TableDescription(self.version, self.key_schema, self.record_schema, tuple(sorted(self.steps)))


def shown(key: object) -> str:
    """A key as a message shows it."""
    text = repr(key)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"


def type_name(type_: Any) -> str:
    """`tuple[str, str]` as its author wrote it."""
    return type_.__name__ if type_ in ATOMS else str(type_)


def _fits(key: object, type_: Any) -> bool:
    if type_ in ATOMS:
        return key.__class__ is type_
    arguments = get_args(type_)
    if key.__class__ is not tuple:
        return False
    assert isinstance(key, tuple)  # noqa: S101  # looked at above
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(each, arguments[0]) for each in key)
    return len(key) == len(arguments) and all(map(_fits, key, arguments))


def _is_key(type_: Any) -> bool:
    if type_ in ATOMS:
        return True
    arguments = [each for each in get_args(type_) if each is not Ellipsis]
    return get_origin(type_) is tuple and bool(arguments) and all(map(_is_key, arguments))


def find_tables(cls: type, steps: Mapping[str, Mapping[tuple[int, int], Step]]) -> dict[str, TableType]:
    """The Tables of a Module class, by name. Raises DefinitionInvalid, which says what to write."""
    found = {
        name: _table_type(cls, name, table, steps.get(name, {}))
        for name in dir(cls)
        if isinstance(table := inspect.getattr_static(cls, name), Table)
    }
    for name, known in steps.items():
        if name not in found:
            (before, after), *_ = known
            raise DefinitionInvalid(
                f'{cls.__name__}.migrates("{name}", {before}, {after}) is a step of a Table that the class does not have '
                f"(it has: {', '.join(sorted(found)) or 'none'}). Correct the name, or take the step out."
            )
        for step in known.values():
            if inspect.iscoroutinefunction(step):
                raise DefinitionInvalid(
                    f"{step.__qualname__}() is a step of the Table {name} and must be a plain `def`."
                )
    return found


def _table_type(cls: type, name: str, table: Table[Any, Any], steps: Steps) -> TableType:
    key, record = _arguments(cls, name, table)
    if not _is_key(key):
        raise DefinitionInvalid(
            f"{cls.__name__}.{name}: keys of type {type_name(key)} are not possible. "
            "A key is a str, an int, bytes, or a tuple of these, e.g. Table[tuple[str, int], Route]."
        )
    return TableType(name, table.version, key, record, dict(steps))


def _arguments(cls: type, name: str, table: Table[Any, Any]) -> tuple[Any, Any]:
    """Key and record type: of the annotation, or of `Table[K, R](version=1)`."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    annotation = inspect.get_annotations(owner).get(name)
    hint = getattr(table, "__orig_class__", None)
    if annotation is not None:
        # Not get_type_hints of the class: its base has names that exist for type checkers only.
        holder = type(owner.__name__, (), {"__annotations__": {name: annotation}})
        names = vars(sys.modules[owner.__module__])
        try:
            hint = get_type_hints(holder, names, dict(vars(owner)), include_extras=True)[name]
        except (NameError, TypeError, AttributeError) as error:
            raise DefinitionInvalid(
                f"{cls.__name__}.{name}: its annotation {annotation!r} cannot be read: {error}. Define the types at the "
                f"top of the module."
            ) from None
    if get_origin(hint) is not Table or len(get_args(hint)) != 2:
        raise DefinitionInvalid(
            f"{cls.__name__}.{name} does not say what it holds. Write `{name}: Table[str, Record] = "
            f"Table(version={table.version})` with the types of its keys and records."
        )
    key, record = get_args(hint)
    return getattr(key, "__supertype__", key), record


def plain_schema(type_: Any) -> dict[str, Any]:
    """The JSON Schema of a type without the names of classes and their docstrings: equal for what stores equal bytes."""
    schema = schema_of_json(type_)
    definitions = schema.pop("$defs", {})
    found = _inlined(schema, definitions, ())
    assert isinstance(found, dict)  # noqa: S101  # a schema stays one
    return found


def _inlined(part: object, definitions: Mapping[str, Any], within: tuple[str, ...]) -> object:
    if isinstance(part, list):
        return [_inlined(each, definitions, within) for each in part]
    if not isinstance(part, dict):
        return part
    name = str(part.get("$ref", "")).rpartition("/")[2]
    if name in within:  # a type that holds itself: how far up it is, not what it is called
        return {"$ref": len(within) - within.index(name)}
    if name in definitions:
        return _inlined(definitions[name], definitions, (*within, name))
    return {
        key: _inlined(value, definitions, within)
        if key != "properties"
        else _properties(value, definitions, within)
        for key, value in part.items()
        if key not in {"title", "description"}
    }


def _properties(
    part: Mapping[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]
) -> dict[str, Any]:
    """Fields keep their names, also one called `title`."""
    return {name: _inlined(schema, definitions, within) for name, schema in part.items()}
