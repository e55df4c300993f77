"""From a schema back to Python: the annotation of a value, and the TypedDicts that it needs. Pure."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]  # Any: JSON
_KINDS = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "null": "None",
    "base64": "bytes",
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_FROM = {
    "Any": "typing",
    "Literal": "typing",
    "TypedDict": "typing",
    "datetime": "datetime",
    "date": "datetime",
    "time": "datetime",
    "timedelta": "datetime",
    "UUID": "uuid",
    "Decimal": "decimal",
}


class Annotations:
    """Annotations of several schemas in one file: `classes` are the TypedDicts they name, `imports` what all of it needs."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}  # name → source, in the order in which they are to stand
        self._used: set[str] = set()
        self._names: dict[tuple[str, str], str] = {}  # (name in the schema, what it is) → name in the file

    @property
    def imports(self) -> list[str]:
        """The import lines, sorted."""
        modules: dict[str, list[str]] = {}
        for name in sorted(self._used):
            modules.setdefault(_FROM[name], []).append(name)
        return [f"from {module} import {', '.join(names)}" for module, names in sorted(modules.items())]

    def use(self, name: str) -> str:
        """The name, which the file will import."""
        self._used.add(name)
        return name

    def of(self, schema: Schema, defs: Schema | None = None) -> str:
        """The annotation of a value; what has none in Python is `Any`."""
        defs = schema.get("$defs", {}) if defs is None else defs
        if "$ref" in schema:
            return self._named(schema["$ref"].rpartition("/")[2], defs)
        if "anyOf" in schema:
            parts = dict.fromkeys(self.of(branch, defs) for branch in schema["anyOf"])
            return self.use("Any") if "Any" in parts else " | ".join(parts)
        if "enum" in schema:
            return self._literal(schema["enum"])
        kind = schema.get("contentEncoding") or schema.get("format") or schema.get("type")
        if kind == "array":
            return self._array(schema, defs)
        if kind == "object":
            return self._dict(schema, defs)
        found = _KINDS.get(str(kind), "Any")
        return self.use(found) if found in _FROM else found

    def _literal(self, values: list[object]) -> str:
        if values == [None]:
            return "None"
        return f"{self.use('Literal')}[{', '.join(map(repr, values))}]"

    def _array(self, schema: Schema, defs: Schema) -> str:
        first = schema.get("prefixItems")
        if first is None:
            whole = "set" if schema.get("uniqueItems") else "list"
            return f"{whole}[{self.of(schema.get('items', {}), defs)}]"
        if schema.get("items") is False and schema.get("minItems") == len(first):
            inner = ", ".join(self.of(item, defs) for item in first) or "()"
            return f"tuple[{inner}]"
        return f"tuple[{self.use('Any')}, ...]"

    def _dict(self, schema: Schema, defs: Schema) -> str:
        keys = self.of(schema["propertyNames"], defs) if "propertyNames" in schema else "str"
        values = (
            self.of(schema.get("additionalProperties") or {}, defs) if "properties" not in schema else None
        )
        return f"dict[{keys}, {values if values is not None else self.use('Any')}]"

    def _named(self, name: str, defs: Schema) -> str:
        schema = defs.get(name, {})
        fields = schema.get("properties")
        if fields is None:
            return self.of(schema, defs)
        if not fields or not all(is_name(field) for field in (name, *fields)):
            return f"dict[str, {self.use('Any')}]"
        key = (name, repr(schema))
        if key not in self._names:
            self._names[key] = name if name not in self._names.values() else f"{name}{len(self._names)}"
            self._define(self._names[key], schema, defs)
        return self._names[key]

    def _define(self, name: str, schema: Schema, defs: Schema) -> None:
        """A TypedDict; one that has both kinds of fields is two, as Python 3.10 has no NotRequired."""
        lines = {field: self._field(field, part, defs) for field, part in schema["properties"].items()}
        needed = [lines[field] for field in lines if field in schema.get("required", ())]
        optional = [lines[field] for field in lines if field not in schema.get("required", ())]
        base = self.use("TypedDict")
        if needed and optional:
            self.classes[f"_{name}"] = _class(f"_{name}", base, needed)
            self.classes[name] = _class(name, f"_{name}, total=False", optional)
        else:
            self.classes[name] = _class(name, base if needed else f"{base}, total=False", needed or optional)

    def _field(self, field: str, schema: Schema, defs: Schema) -> str:
        text = self.of(schema, defs)
        quoted = (
            f'"{text}"' if "$ref" in repr(schema) and '"' not in text else text
        )  # it may stand below, or be this one
        return f"    {field}: {quoted}"


def _class(name: str, bases: str, lines: list[str]) -> str:
    return "\n".join([f"class {name}({bases}):", *lines])


def is_name(text: str) -> bool:
    """Whether it can be a name in Python source."""
    return text.isidentifier() and not keyword.iskeyword(text)
