"""A step that is missing, begun from the two types it stands between: what is kept, new, lost (DESIGN §7.2). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.runtime.schema import Schema
from orchestrator.upgrade.shape_words import kind, said
from orchestrator.upgrade.shapes import narrower

LINES_MAX = 12  # of fields; beyond it those that stay are taken over in one line
_EMPTY = {"integer": "0", "number": "0.0", "string": '""', "boolean": "False", "array": "[]", "base64": 'b""'}


@dataclass(frozen=True, slots=True)
class Missing:
    """A step that is missing: of the state, or of the records of a Table."""

    cls: str
    before: int
    after: int
    table: str = ""

    @property
    def decorator(self) -> str:
        """The line that makes a function the step."""
        table = f'"{self.table}", ' if self.table else ""
        return f"@{self.cls}.migrates({table}{self.before}, {self.after})"


def skeleton(missing: Missing, old: Schema | None, new: Schema | None) -> str:
    """The step as source, ready to paste: every field that both types have is taken over. None: a type is not known."""
    had, has = _fields(old), _fields(new)
    what, name = ("record", f"{missing.table}_") if missing.table else ("state", "")
    key = "key, " if missing.table else ""
    head = [missing.decorator, f"def {name}from_{missing.before}_to_{missing.after}({key}{what}):"]
    if had is None or has is None:
        be = (
            f"{said(old)} before, now {said(new)}"
            if old and new and said(old) != said(new)
            else "to be written"
        )
        return "\n".join([*head, f"    return ...  # {be}"])
    return "\n".join(
        [*head, "    return {", *(f"        {line}" for line in _filled(what, had, has)), "    }"]
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    each: Mapping[str, Schema]
    required: frozenset[str]
    defs: Schema


def _filled(what: str, had: _Fields, has: _Fields) -> Iterator[str]:
    """The lines between the braces."""
    kept = [name for name in has.each if name in had.each]
    gone = [name for name in had.each if name not in has.each]
    new = [name for name in has.each if name not in had.each]
    retyped = {name for name in kept if _changed(had, has, name)}
    sure = [name for name in kept if name in had.required and (len(kept) <= LINES_MAX or name in retyped)]
    unsure = [name for name in kept if name not in sure]
    if unsure and len(kept) > LINES_MAX:
        others = f" if field not in {sorted({*gone, *sure})!r}" if gone or sure else ""
        yield f"**{{field: value for field, value in {what}.items(){others}}},"
    elif unsure:
        yield f"**{{field: {what}[field] for field in {unsure!r} if field in {what}}},"
    for name in sure:
        change = f"  # {_said(had, name)} before, now {_said(has, name)}" if name in retyped else ""
        yield f'"{name}": {what}["{name}"],{change}'
    for name in new:
        yield f'"{name}": {_first(has, name)},  # new: {_said(has, name)}'
    if gone:
        yield f"# lost, unless you keep it elsewhere: {', '.join(gone)}"


def _fields(schema: Schema | None) -> _Fields | None:
    """The named fields of an object; None for what is none, or names none."""
    if not schema:
        return None
    defs = schema.get("$defs", {})
    body = defs.get(schema["$ref"].rpartition("/")[2], {}) if "$ref" in schema else schema
    if body.get("type") != "object" or "properties" not in body:
        return None
    return _Fields(body["properties"], frozenset(body.get("required", ())), defs)


def _changed(had: _Fields, has: _Fields, name: str) -> bool:
    """Whether the new type does not take every value that the field had."""
    old, new = {**had.each[name], "$defs": had.defs}, {**has.each[name], "$defs": has.defs}
    return bool(narrower(old, new))


def _said(fields: _Fields, name: str) -> str:
    return said(fields.each[name])


def _first(fields: _Fields, name: str) -> str:
    """An empty value of the field's type, where there is one that nobody takes for a real one."""
    schema = fields.each[name]
    if any(branch.get("type") == "null" for branch in schema.get("anyOf", ())):
        return "None"
    if schema.get("type") == "object" and "properties" not in schema:
        return "{}"
    return "..." if "enum" in schema else _EMPTY.get(str(kind(schema)), "...")
