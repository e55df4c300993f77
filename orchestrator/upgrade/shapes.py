"""Is every body that one schema takes taken by another? If not, which field says no, and how (DESIGN §7.1). Pure.

The schemas are those of `runtime/schema.py` and of the scan in `emits.py`. Three rules where plain set inclusion is no help:
1. What the old one *ignored* (unknown fields of a TypedDict or Struct) is no part of its shape: a new optional field of that
   name is compatible. But a new one that refuses unknown fields where the old one ignored them is narrower.
2. A keyword that is not known here is never passed over: a new schema that has it, and not the old one with the same
   value, `cannot be compared`, which counts as narrower. So do two different patterns.
3. `UNKNOWN`, which stands for what a literal does not say, fits everything: only what is known can be wrong.
A "no" may be too careful where a union is split in several branches at once; a "yes" never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.runtime.schema import NONE_IS_EMPTY, UNKNOWN, Schema
from orchestrator.upgrade.shape_limits import limits_that_tighten
from orchestrator.upgrade.shape_words import OVER_TIME, Phrases, kind, one_of, said, takes_some, takes_value

_INFINITE = float("inf")
_EMPTY: Schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
_COMPARED = frozenset(
    {"type", "format", "contentEncoding", "timezone", "enum", "anyOf", "$ref", "$defs"}
    | {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"}
    | {"items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
_SAY_NOTHING = frozenset(
    {"title", "description", "default", "examples", "discriminator", "uniqueItems", NONE_IS_EMPTY}
)


def narrower(
    old: Schema, new: Schema, upcasts: Sequence[Schema] = (), phrases: Phrases = OVER_TIME
) -> list[str]:
    """What the old schema takes and the new one does not: `field: what changed`, empty if it takes all of it.

    `upcasts` are further shapes that the new one takes. A whole body has the path `the body`.
    """
    found = _narrower(old, new, phrases)
    if not found or not upcasts:
        return found
    shapes = (new, *upcasts)
    taken = all(any(not _narrower(each, shape, phrases) for shape in shapes) for each in _branches(old))
    return [] if taken else found


def _branches(schema: Schema) -> list[Schema]:
    if "anyOf" not in schema:
        return [schema]
    return [{**each, "$defs": schema.get("$defs", {})} for each in schema["anyOf"]]


def _narrower(old: Schema, new: Schema, phrases: Phrases) -> list[str]:
    comparison = _Comparison(old.get("$defs", {}), new.get("$defs", {}), phrases)
    if new.get(NONE_IS_EMPTY):
        return comparison.problems(_EMPTY if old.get("enum") == [None] else old, new, "")
    problems = comparison.problems(old, new, "")
    if not problems and old.get(NONE_IS_EMPTY) and not comparison.old_of(old).get("required"):
        problems = comparison.problems({"type": "null"}, new, "")
    return problems


class _Comparison:
    """One pair of documents; pairs of named types that are being compared count as equal inside themselves."""

    def __init__(self, old_defs: Schema, new_defs: Schema, phrases: Phrases) -> None:
        self._phrases = phrases
        self._old_defs = old_defs
        self._new_defs = new_defs
        self._assumed: set[tuple[str, str]] = set()

    def old_of(self, schema: Schema) -> Schema:
        return _resolved(schema, self._old_defs)

    def problems(self, old: Schema, new: Schema, path: str) -> list[str]:
        pair = (old.get("$ref", ""), new.get("$ref", ""))
        if not all(pair):
            return self._compared(old, new, path)
        if pair in self._assumed:
            return []
        self._assumed.add(pair)
        problems = self._compared(old, new, path)
        if problems:
            self._assumed.discard(pair)
        return problems

    def _compared(self, old: Schema, new: Schema, path: str) -> list[str]:
        old, new = self.old_of(old), _resolved(new, self._new_defs)
        if old == UNKNOWN:
            return []
        strange = sorted(k for k in new if k not in _COMPARED | _SAY_NOTHING and new[k] != old.get(k))
        if strange:
            return [f"{_named(path)}: cannot be compared, its schema says {one_of(strange)}"]
        if not _COMPARED.intersection(new):
            return []
        if old.get("unknown"):
            branches = [_resolved(branch, self._new_defs) for branch in new.get("anyOf", (new,))]
            if any(takes_some(kind(old), branch) for branch in branches):
                return []
            return [self._kinds(old, " or ".join(map(said, branches)), path)]
        if "anyOf" in old:
            return _unique(p for branch in old["anyOf"] for p in self.problems(branch, new, path))
        if "anyOf" in new:
            return self._against_any(old, new["anyOf"], path)
        if "enum" in old:
            return self._values(old["enum"], new, path)
        return self._one_kind(old, new, path)

    def _against_any(self, old: Schema, branches: Sequence[Schema], path: str) -> list[str]:
        resolved = [_resolved(branch, self._new_defs) for branch in branches]
        if "enum" in old:
            refused = [v for v in old["enum"] if not any(takes_value(v, branch) for branch in resolved)]
            return [self._no_longer(path, refused)] if refused else []
        tried = [(b, self._tried(old, given, path)) for given, b in zip(branches, resolved, strict=True)]
        if any(not problems for _, problems in tried):
            return []
        like = [problems for branch, problems in tried if kind(branch) == kind(old)]
        if len(like) == 1:
            return like[0]
        return [self._kinds(old, " or ".join(map(said, resolved)), path)]

    def _tried(self, old: Schema, new: Schema, path: str) -> list[str]:
        """What a branch would say; one that says no must leave no assumption behind."""
        before = set(self._assumed)
        problems = self.problems(old, new, path)
        if problems:
            self._assumed = before
        return problems

    def _values(self, values: Sequence[object], new: Schema, path: str) -> list[str]:
        refused = [value for value in values if not takes_value(value, new)]
        if not refused:
            return []
        if "enum" in new or any(takes_value(value, new) for value in values) or kind(new) is None:
            return [self._no_longer(path, refused)]
        if any(takes_value(value, {"type": kind(new)}) for value in refused):
            return [self._no_longer(path, refused)]
        return [self._kinds({"enum": list(values)}, said(new), path)]

    def _one_kind(self, old: Schema, new: Schema, path: str) -> list[str]:
        if kind(old) == "null" and takes_value(None, new):
            return []
        if kind(old) != kind(new) and (kind(old), kind(new)) != ("integer", "number"):
            return [self._kinds(old, said(new), path)]
        problems = [f"{_named(path)}: {what}" for what in limits_that_tighten(old, new)]
        if kind(new) == "object":
            problems += self._objects(old, new, path)
        elif kind(new) == "array":
            problems += self._arrays(old, new, path)
        return problems

    def _kinds(self, old: Schema, new: str, path: str) -> str:
        return f"{_named(path)}: {self._phrases.kinds.format(old=said(old), new=new)}"

    def _no_longer(self, path: str, refused: Sequence[object]) -> str:
        return f"{_named(path)}: {self._phrases.value.format(value=one_of(refused))}"

    # -- objects -----------------------------------------------------------------------------------------------

    def _objects(self, old: Schema, new: Schema, path: str) -> list[str]:
        problems = self._keys(old, new, path)
        had, has = old.get("properties", {}), new.get("properties", {})
        for name, before in had.items():
            if name in has:
                problems += self.problems(before, has[name], _join(path, name))
            elif new.get("additionalProperties") is False:
                problems.append(f"{_join(path, name)}: {self._phrases.gone}")
            else:
                problems += self.problems(before, new.get("additionalProperties", {}), _join(path, name))
        problems += self._required(old, new, path)
        if "properties" not in old:
            problems += self._from_map(old, new, path)
        elif "additionalProperties" in new and "additionalProperties" not in old:
            kept = new["additionalProperties"]
            now = "they are refused" if kept is False else f"each must be {said(kept)}"
            problems.append(f"{_named(path)}: {self._phrases.ignored.format(new=now)}")
        return problems

    def _required(self, old: Schema, new: Schema, path: str) -> list[str]:
        if old.get("additionalProperties") == UNKNOWN:
            return []
        had, phrases = old.get("properties", {}), self._phrases
        return [
            f"{_join(path, name)}: {phrases.optional if name in had else phrases.required}"
            for name in new.get("required", ())
            if name not in old.get("required", ())
        ]

    def _from_map(self, old: Schema, new: Schema, path: str) -> list[str]:
        """From a dict with any keys: to a dict, or to named fields."""
        values = old.get("additionalProperties", {})
        if values == UNKNOWN:
            return []
        if "properties" not in new:
            return self.problems(values, new.get("additionalProperties", {}), _join(path, "*"))
        required = new.get("required", ())
        optional = [name for name in new["properties"] if name not in required]
        problems = [
            p for name in optional for p in self.problems(values, new["properties"][name], _join(path, name))
        ]
        if new.get("additionalProperties") is False:
            names = one_of(list(new["properties"])) if new["properties"] else "none"
            problems.append(f"{_named(path)}: {self._phrases.only.format(new=names)}")
        return problems

    def _keys(self, old: Schema, new: Schema, path: str) -> list[str]:
        text: Schema = {"type": "string"}
        before, after = old.get("propertyNames", text), new.get("propertyNames", text)
        if "properties" in old and after != text:
            before = {"enum": sorted(old["properties"])}
        return self.problems(before, after, _join(path, "(keys)"))

    # -- arrays ------------------------------------------------------------------------------------------------

    def _arrays(self, old: Schema, new: Schema, path: str) -> list[str]:
        least, most = _lengths(old)
        least_now, most_now = _lengths(new)
        problems = []
        if least_now > least:
            fewer = self._phrases.fewer.format(old=least, new=least_now)
            problems.append(f"{_named(path)}: {fewer}")
        if most_now < most:
            was = "any number of" if most == _INFINITE else f"up to {most:g}"
            more = self._phrases.more.format(old=was, new=f"{most_now:g}")
            problems.append(f"{_named(path)}: {more}")
        first, first_now = old.get("prefixItems", []), new.get("prefixItems", [])
        for index in range(max(len(first), len(first_now))):
            if index < min(most, most_now):
                problems += self.problems(_item(old, index), _item(new, index), f"{path}[{index}]")
        if most > max(len(first), len(first_now)) < most_now:
            problems += self.problems(_rest(old), _rest(new), f"{path}[]")
        return problems


def _resolved(schema: Schema, defs: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    named: Schema = defs.get(schema["$ref"].rpartition("/")[2], {"$ref": schema["$ref"]})
    return _resolved(named, defs) if "$ref" in named and named["$ref"] != schema["$ref"] else named


def _lengths(schema: Schema) -> tuple[int, float]:
    closed = len(schema.get("prefixItems", [])) if schema.get("items") is False else _INFINITE
    return schema.get("minItems", 0), schema.get("maxItems", closed)


def _item(schema: Schema, index: int) -> Schema:
    first: list[Schema] = schema.get("prefixItems", [])
    return first[index] if index < len(first) else _rest(schema)


def _rest(schema: Schema) -> Schema:
    items: Any = schema.get("items", {})
    return {} if items is False else items


def _named(path: str) -> str:
    return path if path and path[0] != "[" else f"the body{path}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unique(problems: Any) -> list[str]:  # Any: an iterable of texts
    return list(dict.fromkeys(problems))
