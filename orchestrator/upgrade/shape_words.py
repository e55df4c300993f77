"""Kinds of values as people say them, and whether one value fits a schema: small parts of `shapes.py`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from orchestrator.runtime.schema import Schema

_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "null": "None",
    "object": "an object",
    "array": "a list",
    "base64": "bytes",
    "date-time": "a datetime",
    "date": "a date",
    "time": "a time",
    "duration": "a timedelta",
    "uuid": "a UUID",
    "decimal": "a Decimal",
}


def kind(schema: Schema) -> str | None:
    """What a Python value of the schema is: a datetime is no text, though JSON writes it as one. None: anything."""
    found: str | None = schema.get("contentEncoding") or schema.get("format") or schema.get("type")
    return found


def said(schema: Schema) -> str:
    """The schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(said(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return one_of(schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "object" and "properties" in schema:
        return f"an object with the fields {one_of(list(schema['properties']))}"
    found = kind(schema)
    return "anything" if found is None else _WORDS.get(found, found)


@dataclass(frozen=True, slots=True)
class Phrases:
    """How a difference is said: between two versions, or between what is sent and what is taken."""

    kinds: str
    value: str
    gone: str
    required: str
    optional: str
    fewer: str
    more: str
    ignored: str
    only: str


OVER_TIME = Phrases(
    kinds="{old} before, now {new}",
    value="does not take {value} any more",
    gone="no longer a field, and unknown fields are refused",
    required="new, and required",
    optional="was optional, is required now",
    fewer="at least {old} items before, now at least {new}",
    more="{old} items before, now at most {new}",
    ignored="fields that it does not know were ignored, now {new}",
    only="any fields before, now only {new}",
)
SENT = Phrases(
    kinds="{old} is sent, {new} is taken",
    value="{value} is sent, which is not taken",
    gone="is sent, but it is no field there, and unknown fields are refused",
    required="is required there, and not sent",
    optional="is required there, and not always sent",
    fewer="{old} items are sent, at least {new} are taken",
    more="{old} items are sent, at most {new} are taken",
    ignored="other fields may be sent, there {new}",
    only="any fields may be sent, only {new} are taken",
)


def one_of(values: Sequence[object]) -> str:
    """The values as a list with `or`, texts in quotes unless all are names."""
    if all(isinstance(value, str) and value.isidentifier() for value in values):
        texts = [str(value) for value in values]
    else:
        texts = [msgspec.json.encode(value).decode() if value is not None else "None" for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}" if texts else "nothing"


def takes_some(wanted: str | None, schema: Schema) -> bool:
    """Whether any value of a kind fits; None: nothing is known of it."""
    if "anyOf" in schema:
        return any(takes_some(wanted, branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return wanted is None or any(takes_value(value, {"type": wanted}) for value in schema["enum"])
    found = kind(schema)
    return wanted is None or found in {None, wanted} or (wanted, found) == ("integer", "number")


def takes_value(value: object, schema: Schema) -> bool:
    """Whether one constant (None, bool, int, float, text) fits."""
    if "anyOf" in schema:
        return any(takes_value(value, branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(each) and value == each for each in schema["enum"])
    found = kind(schema)
    if found is None:
        return "$ref" not in schema
    if isinstance(value, str):
        return found == "string" and _text_fits(value, schema)
    if isinstance(value, bool) or value is None:
        return found == ("null" if value is None else "boolean")
    if isinstance(value, (int, float)):
        kinds = {"integer", "number"} if isinstance(value, int) else {"number"}
        return found in kinds and _number_fits(value, schema)
    return False


def _text_fits(value: str, schema: Schema) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    return "pattern" not in schema or re.search(schema["pattern"], value) is not None


def _number_fits(value: float, schema: Schema) -> bool:
    inside = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    above = "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]
    below = "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]
    return inside and above and below and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
