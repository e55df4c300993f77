"""What a type takes, as JSON Schema: from msgspec's own description of the type, so that it says what decoding does.

`msgspec.json.schema` describes JSON text, in which a datetime is any string and every key of a dict is one. Bodies and
states are Python values: a datetime stays a datetime and an int key an int, so both are said here (`format`,
`propertyNames`; `timezone` is ours).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import inspect

Schema = dict[str, Any]  # Any: JSON
UNKNOWN: Schema = {"unknown": True}  # what nobody can say without running the code
NONE_IS_EMPTY = (
    "noneIsEmpty"  # of a body whose fields are a handler's parameters: sent without a body, it is {}
)


def schema_of(type_: Any) -> Schema:
    """The JSON Schema of the values that `msgspec.convert(value, type_)` takes; named types are under `$defs`.

    Raises TypeError if msgspec cannot decode the type, or if it is an instance of some class.
    """
    return _Writer().document(inspect.type_info(type_))


def schema_of_json(type_: Any) -> Schema:
    """`msgspec.json.schema`, without what that leaves: a function that holds itself and, in a cell, each class that it met.

    Such a circle would hold a version of a module until Python's own full collection. Raises TypeError.
    """
    enabled = gc.isenabled()
    gc.disable()  # so that the circle is in the youngest generation still, whose collection is short
    try:
        return msgspec.json.schema(type_)
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()


class _Writer:
    """Walks one type; a class that it meets is written once, so that a type may contain itself."""

    def __init__(self) -> None:
        self._defs: Schema = {}
        self._names: dict[Any, str] = {}  # Any: a class, or a generic alias of one

    def document(self, info: inspect.Type) -> Schema:
        schema = self._schema(info)
        return {**schema, "$defs": self._defs} if self._defs else schema

    def _schema(self, info: inspect.Type) -> Schema:
        if isinstance(info, inspect.Metadata):
            return self._schema(info.type)
        write = _WRITERS.get(type(info))
        if write is None:
            raise TypeError(f"{getattr(info, 'cls', type(info).__name__)!r} is not plain data")
        return write(self, info)

    def _scalar(self, info: Any) -> Schema:
        return {
            **_SCALARS[type(info)],
            **_limits(info, "gt", "ge", "lt", "le", "multiple_of"),
            **_lengths(info),
        }

    def _time(self, info: Any) -> Schema:
        return {**_SCALARS[type(info)], **({} if info.tz is None else {"timezone": info.tz})}

    def _union(self, info: Any) -> Schema:
        return {"anyOf": [self._schema(each) for each in info.types]}

    def _literal(self, info: Any) -> Schema:
        return {"enum": sorted(info.values, key=lambda value: (str(type(value)), value))}

    def _array(self, info: Any) -> Schema:
        items = self._schema(info.item_type)
        unique = {"uniqueItems": True} if isinstance(info, (inspect.SetType, inspect.FrozenSetType)) else {}
        return {"type": "array", **({"items": items} if items else {}), **_lengths(info, "Items"), **unique}

    def _tuple(self, info: Any) -> Schema:
        count = len(info.item_types)
        items = [self._schema(each) for each in info.item_types]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": count, "maxItems": count}

    def _dict(self, info: Any) -> Schema:
        key, value = self._schema(info.key_type), self._schema(info.value_type)
        names = {} if key in ({}, {"type": "string"}) else {"propertyNames": key}
        values = {"additionalProperties": value} if value else {}
        return {"type": "object", **names, **values, **_lengths(info, "Properties")}

    def _enum(self, info: Any) -> Schema:
        return self._named(info.cls, lambda: {"enum": sorted(member.value for member in info.cls)})

    def _typed_dict(self, info: Any) -> Schema:
        return self._named(info.cls, lambda: self._object(info.fields))

    def _struct(self, info: Any) -> Schema:
        return self._named(info.cls, lambda: self._fields(info))

    def _fields(self, info: Any) -> Schema:
        tag = {} if info.tag is None else {info.tag_field: {"enum": [info.tag]}}
        if info.array_like:
            return self._positions(info.fields, tag=list(tag.values()), closed=info.forbid_unknown_fields)
        closed = {"additionalProperties": False} if info.forbid_unknown_fields else {}
        return {**self._object(info.fields, tag), **closed}

    def _named_tuple(self, info: Any) -> Schema:
        return self._named(info.cls, lambda: self._positions(info.fields, closed=True))

    def _object(self, fields: Iterable[inspect.Field], tag: Schema | None = None) -> Schema:
        tag = tag or {}
        properties = {field.encode_name: self._field(field) for field in fields}
        required = [*tag, *(field.encode_name for field in fields if field.required)]
        return {"type": "object", "properties": {**tag, **properties}, "required": required}

    def _positions(
        self, fields: Iterable[inspect.Field], *, closed: bool, tag: list[Schema] | None = None
    ) -> Schema:
        tag = tag or []
        items = [*tag, *(self._field(field) for field in fields)]
        schema = {
            "type": "array",
            "prefixItems": items,
            "minItems": len(tag) + sum(f.required for f in fields),
        }
        return {**schema, "items": False, "maxItems": len(items)} if closed else schema

    def _field(self, field: inspect.Field) -> Schema:
        return {**self._schema(field.type), **_default(field)}

    def _named(self, cls: Any, write: Callable[[], Schema]) -> Schema:
        name = self._names.get(cls)
        if name is None:
            plain = getattr(cls, "__name__", None) or str(cls)
            name = self._names[cls] = plain if plain not in self._defs else f"{plain}_{len(self._defs)}"
            self._defs[name] = {}  # its place, for what contains itself
            self._defs[name] = {"title": plain, **write()}
        return {"$ref": f"#/$defs/{name}"}


_SCALARS: dict[type, Schema] = {
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
    inspect.BytesType: {"type": "string", "contentEncoding": "base64"},
    inspect.ByteArrayType: {"type": "string", "contentEncoding": "base64"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.TimeType: {"type": "string", "format": "time"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.TimeDeltaType: {"type": "string", "format": "duration"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
    inspect.DecimalType: {"type": "string", "format": "decimal"},
    inspect.AnyType: {},
    inspect.RawType: {},
}
_WRITERS: dict[type, Callable[[_Writer, Any], Schema]] = {  # Any: each has the fields of its own kind
    **dict.fromkeys(_SCALARS, _Writer._scalar),  # noqa: SLF001  # its own table
    inspect.DateTimeType: _Writer._time,  # noqa: SLF001
    inspect.TimeType: _Writer._time,  # noqa: SLF001
    inspect.UnionType: _Writer._union,  # noqa: SLF001
    inspect.LiteralType: _Writer._literal,  # noqa: SLF001
    inspect.EnumType: _Writer._enum,  # noqa: SLF001
    inspect.ListType: _Writer._array,  # noqa: SLF001
    inspect.SetType: _Writer._array,  # noqa: SLF001
    inspect.FrozenSetType: _Writer._array,  # noqa: SLF001
    inspect.VarTupleType: _Writer._array,  # noqa: SLF001
    inspect.TupleType: _Writer._tuple,  # noqa: SLF001
    inspect.DictType: _Writer._dict,  # noqa: SLF001
    inspect.TypedDictType: _Writer._typed_dict,  # noqa: SLF001
    inspect.NamedTupleType: _Writer._named_tuple,  # noqa: SLF001
    inspect.DataclassType: _Writer._typed_dict,  # noqa: SLF001
    inspect.StructType: _Writer._struct,  # noqa: SLF001
}
_LIMITS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}


def _limits(info: object, *names: str) -> Schema:
    return {_LIMITS[n]: v for n in (*names, "pattern") if (v := getattr(info, n, None)) is not None}


def _lengths(info: object, what: str = "Length") -> Schema:
    found = (("min", getattr(info, "min_length", None)), ("max", getattr(info, "max_length", None)))
    return {f"{side}{what}": value for side, value in found if value is not None}


def _default(field: inspect.Field) -> Schema:
    """The default as JSON says it, if JSON can."""
    if field.default_factory in (list, dict):
        return {"default": field.default_factory()}
    if field.default is msgspec.NODEFAULT or field.default is msgspec.UNSET:
        return {}
    try:
        return {"default": msgspec.json.decode(msgspec.json.encode(field.default))}
    except (TypeError, ValueError):
        return {}
