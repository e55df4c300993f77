"""A copy of a plain state that takes the event loop some milliseconds at most: whole, or with its large parts cut.

A cut state is still of its type: only dicts with any keys, lists and sets lose items, never an object a field. What is
cut is said, and how much larger the whole is, so that a time measured on the copy can be told of the whole.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
from msgspec import inspect

from orchestrator.runtime.collecting import no_collection
from orchestrator.runtime.state import PLAIN_STATE, StateCodec

WHOLE_MAX = 60_000
"""Values in a state that is copied whole, 64 characters of text being one: 10,000 records of four. Up to 3 ms."""
CUT_MAX = 5_000
"""Values in a copy that is cut. To make one takes up to 3 ms."""
LIMITS = (1_000, 100, 10, 3)
"""How many items of each large part are taken: the first of these with which the copy is small enough."""
RECORD_MAX = 64  # an untyped dict with no more items may be a record, and is not cut
ROW_MAX = 16  # the same of a list
TEXT_MAX = 100_000  # characters of one text that are taken
CHARACTERS = 64

_ROWS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
    inspect.CollectionType,
)
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
_TEXTS = frozenset({str, bytes})
_LOOKED_INTO = _CONTAINERS | _TEXTS


class Cut(msgspec.Struct, frozen=True):
    """A part of a state of which `taken` of `whole` items were taken; `where` is its path, empty for the state itself."""

    where: str
    taken: int
    whole: int


class StateSample(msgspec.Struct, frozen=True):
    """A state as msgpack. `cuts`: what was cut; none: it is whole. `times`: how much larger the whole is, about."""

    data: bytes
    cuts: tuple[Cut, ...] = ()
    times: float = 1.0


def state_sample(state: object, codec: StateCodec) -> StateSample:
    """Copy a state of the codec's type. Raises StateInvalid if it is not plain data."""
    with no_collection():
        return _sample(state, codec)


def _sample(state: object, codec: StateCodec) -> StateSample:
    if _is_small(state):
        return StateSample(PLAIN_STATE.encode(state))
    info = inspect.type_info(codec.type)
    for limit in LIMITS:
        cutting = _Cutting(limit)
        try:
            copy, whole = cutting.copy(state, info, "")
        except (_TooLarge, RecursionError):
            continue
        times = max(1.0, whole / max(cutting.weight, 1))
        return StateSample(PLAIN_STATE.encode(copy), cutting.found(), times)
    return StateSample(
        PLAIN_STATE.encode(state)
    )  # nothing in it may be cut: objects of objects, by the ten thousand


def _is_small(state: Any) -> bool:
    """Whether it has at most WHOLE_MAX values. Level by level, as only this is fast enough: ten thousand records take 3 ms."""
    weight, found = 0, [state]
    while found:
        weight += sum([len(v) for v in found if v.__class__ in _TEXTS]) // CHARACTERS
        level = [v for v in found if v.__class__ in _CONTAINERS]
        weight += sum([len(v) for v in level]) + len(level)
        if weight > WHOLE_MAX:
            return False
        found = [v for v in gc.get_referents(*level) if v.__class__ in _LOOKED_INTO]
    return True


class _TooLarge(Exception):
    """The copy would have more than CUT_MAX values."""


class _Cutting:
    """One attempt to copy a state, taking at most `limit` items of each part that may be cut."""

    def __init__(self, limit: int) -> None:
        self.weight = 0
        self._limit = limit
        self._cuts: dict[str, Cut] = {}

    def found(self) -> tuple[Cut, ...]:
        """What was cut, the largest first."""
        return tuple(sorted(self._cuts.values(), key=lambda cut: -cut.whole))

    def copy(self, value: Any, info: object, where: str) -> tuple[Any, float]:
        """The value with its large parts cut, and how many values it had whole, about. Raises _TooLarge."""
        kind = value.__class__
        if kind in _TEXTS:
            return self._text(value, where)
        if kind not in _CONTAINERS:
            self._take(1)
            return value, 1.0
        self._take(1)
        info = _branch(info, kind)
        return self._dict(value, info, where) if kind is dict else self._row(value, info, where)

    def _take(self, weight: int) -> None:
        self.weight += weight
        if self.weight > CUT_MAX:
            raise _TooLarge

    def _text(self, value: Any, where: str) -> tuple[Any, float]:
        whole = len(value)
        if whole > TEXT_MAX:
            value = value[:TEXT_MAX]
            self._note(where, TEXT_MAX, whole)
        self._take(1 + len(value) // CHARACTERS)
        return value, 1.0 + whole / CHARACTERS

    def _dict(self, value: dict[Any, Any], info: object, where: str) -> tuple[Any, float]:
        if isinstance(info, inspect.TypedDictType):
            fields = {field.encode_name: field.type for field in info.fields}
            copies = {k: self.copy(v, fields.get(k), _below(where, k)) for k, v in value.items()}
            return _values(copies), 1.0 + sum(whole for _, whole in copies.values())
        item = info.value_type if isinstance(info, inspect.DictType) else None
        known = item is not None and not isinstance(item, inspect.AnyType)
        count = min(len(value), self._limit if known else max(self._limit, RECORD_MAX))
        record = not known and count == len(value)
        copies = {k: self.copy(v, item, _below(where, k if record else "*")) for k, v in _ends(value, count)}
        whole = sum(whole for _, whole in copies.values())
        return _values(copies), 1.0 + self._of(where, whole, count, len(value))

    def _row(self, value: Any, info: object, where: str) -> tuple[Any, float]:
        known = isinstance(info, _ROWS)
        count = min(len(value), self._limit if known else max(self._limit, ROW_MAX))
        item = getattr(info, "item_type", None)
        some = value[:: -(-len(value) // count)] if count and isinstance(value, list) else value
        copies = [self.copy(v, item, _below(where, "*")) for v in islice(some, count)]
        whole = sum(whole for _, whole in copies)
        return value.__class__(v for v, _ in copies), 1.0 + self._of(where, whole, len(copies), len(value))

    def _of(self, where: str, weight: float, taken: int, whole: int) -> float:
        """The weight of all items, by that of those that were taken."""
        if taken == whole:
            return weight
        self._note(where, taken, whole)
        return weight * whole / taken

    def _note(self, where: str, taken: int, whole: int) -> None:
        """Parts at the same place, under other keys, are told as one."""
        before = self._cuts.get(where, Cut(where, 0, 0))
        self._cuts[where] = Cut(where, before.taken + taken, before.whole + whole)


def _branch(info: object, kind: type) -> object:
    """Of a union, the one type that a value of this class can be of; None if that is not known."""
    if not isinstance(info, inspect.UnionType):
        return info
    of_class = (inspect.DictType, inspect.TypedDictType) if kind is dict else (*_ROWS, inspect.TupleType)
    fitting = [each for each in info.types if isinstance(each, of_class)]
    return fitting[0] if len(fitting) == 1 else None


def _values(copies: Mapping[Any, tuple[Any, float]]) -> dict[Any, Any]:
    return {key: copy for key, (copy, _) in copies.items()}


def _ends(items: dict[Any, Any], count: int) -> Iterable[tuple[Any, Any]]:
    """So many items: all, or the oldest and the newest."""
    if count == len(items):
        return items.items()
    newest = count // 2
    return [*islice(items.items(), count - newest), *islice(reversed(items.items()), newest)]


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
