"""What may go from one module to another: plain data, never an object whose class belongs to some version (DESIGN §5).

A body is handed over by reference, and decoding proves only what the receiver's types name; so the sender is asked, where
the line that is wrong can still be told. Exact types: a subclass brings its class along. Hot: two lookups for each field.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from orchestrator.runtime.errors import BodyRefused, ReplyRefused

#: Values without parts. They are immutable, so sharing them shares nothing.
FLAT: Final = frozenset(
    {type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID}
)
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})
_KEYS: Final = frozenset({str, int})
_DEPTH_MAX: Final = 100  # below what Python's recursion, and the encoder's, can walk


def check_body(body: object) -> None:
    """Raises BodyRefused, with the path of the first part that is not plain data. Changes nothing.

    What most bodies are, values and lists of them under names, is looked through here; the rest, and all that is wrong, is
    walked anew.
    """
    if body.__class__ is dict:
        for key, value in body.items():
            if key.__class__ is not str or not (
                value.__class__ in FLAT
                or (value.__class__ in _SEQUENCES and FLAT.issuperset(map(type, value)))
            ):
                break
        else:
            return
    elif body.__class__ in FLAT:
        return
    found = first_not_plain(body)
    if found:
        raise BodyRefused(f"the body is not plain data: {found} Nothing was sent.")


def check_reply(reply: object) -> None:
    """The same for what a handler returns to one who asks. Raises ReplyRefused."""
    found = first_not_plain(reply)
    if found:
        raise ReplyRefused(f"its reply is not plain data: {found}")


def apart(value: Any) -> Any:
    """The same plain data in containers of its own: whoever changes the one does not change the other."""
    cls = value.__class__
    if cls in FLAT:
        return value
    if cls is dict:
        return {key: item if item.__class__ in FLAT else apart(item) for key, item in value.items()}
    return cls([item if item.__class__ in FLAT else apart(item) for item in value])


def first_not_plain(value: object) -> str:
    """The first part that is not plain data, as a sentence with its path and what to do; empty if there is none."""
    return _bad(value, "it", 0)


def _bad(value: object, path: str, depth: int) -> str:
    cls = value.__class__
    if cls in FLAT:
        return ""
    parts: Any = value  # Any: its class is known, not its type
    if depth > _DEPTH_MAX:
        return f"{path[:60]}… goes deeper than {_DEPTH_MAX} levels, or contains itself."
    if cls is dict:
        return _bad_dict(parts, path, depth)
    if cls in _SEQUENCES:
        if FLAT.issuperset(map(type, parts)):
            return ""
        found = (_bad(item, f"{path}[{n}]", depth + 1) for n, item in enumerate(parts))
        return next(filter(None, found), "")
    return f"{path} is {_described(value)}."


def _bad_dict(value: Mapping[object, object], path: str, depth: int) -> str:
    for key, item in value.items():
        if key.__class__ not in _KEYS:
            return f"a key of {path} is {_described(key)}; keys are texts or integers."
        if item.__class__ not in FLAT:
            found = _bad(item, f"{path}[{key!r:.40}]", depth + 1)
            if found:
                return found
    return ""


def _described(value: object) -> str:
    """What it is, and what to send in its place. Never its repr, which is the author's code."""
    cls = value.__class__
    name = getattr(cls, "__qualname__", "an object")
    if isinstance(value, type):
        return f"the class {getattr(value, '__qualname__', '?')}; send its name"
    if isinstance(value, Enum):
        return f"a member of {name}; send its value"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}; no code goes from module to module"
    if isinstance(value, (dict, list, str, int, float, bytes, bytearray)):
        return f"a {name}; send a plain {_plain_base(value)}"
    return f"an instance of {name}, whose class another version need not have; send plain data, e.g. a dict of its fields"


def _plain_base(value: object) -> str:
    kinds = (dict, list, str, int, float, bytes)
    return next((kind.__name__ for kind in kinds if isinstance(value, kind)), "bytes")
