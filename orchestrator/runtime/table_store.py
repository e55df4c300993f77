"""Where the records of a Table lie, whichever version serves: shards of the current version, and layers of older ones.

A key is in exactly one place: in a shard of `shards`, or in the same shard of one layer. What moves a record up from a
layer to `shards` is its first touch, or the sweep. Nothing here knows a unit of work; the live table undoes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from orchestrator.runtime.errors import Stalled, StateInvalid

SHARDS = 1021  # a prime, so that keys in even steps spread too; at 10⁶ records the longest copy of a dict is of 1,000

Shards: TypeAlias = list[dict[Any, bytes]]  # Any: the author's keys
Convert: TypeAlias = Callable[[Any, bytes], bytes]
"""Key and bytes of one version → bytes of another. Raises StateInvalid, which names table, key and step."""


def new_shards() -> Shards:
    """Shards without a record; takes 0.1 ms, so do it before the pause."""
    return [{} for _ in range(SHARDS)]


class Layer:
    """The records that are still as an older version of the table wrote them."""

    __slots__ = ("bad", "convert", "needs", "put_back", "reason", "shards", "version")

    def __init__(
        self, version: int, shards: Shards, convert: Convert, needs: frozenset[object] = frozenset()
    ) -> None:
        self.version = version
        self.shards = shards
        self.convert = convert
        self.needs = needs  # the releases whose steps `convert` runs
        self.put_back = False  # an undo has brought back a record that the sweep may have passed
        self.bad = 0  # records that the last sweep left, because a step raised on them
        self.reason = ""  # what it said on the first of them

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def empty(self) -> bool:
        return not any(self.shards)


class Stale:
    """A record that a unit takes out of a layer, and where it belongs if the unit raises."""

    __slots__ = ("data", "layer")

    def __init__(self, layer: Layer, data: bytes) -> None:
        self.layer = layer
        self.data = data

    def take(self, key: object) -> None:
        """Take it out, without migrating it."""
        self.layer.shards[hash(key) % SHARDS].pop(key, None)

    def restore(self, key: object) -> None:
        """Put it back as it was."""
        self.layer.shards[hash(key) % SHARDS][plain_key(key)] = self.data
        self.layer.put_back = True


def plain_key(key: Any) -> Any:
    """The key as it is stored: not an equal one of another class, such as an Enum's or a NamedTuple.

    That would hold its class, and with it a version that left.
    """
    kind = key.__class__
    if kind is str or kind is int or kind is bytes:
        return key
    if isinstance(key, tuple):
        return tuple(map(plain_key, key))
    if isinstance(key, str):
        return str.__str__(key)
    return bytes(key) if isinstance(key, bytes) else int(key)


Before: TypeAlias = "bytes | Stale | None"
"""What was there before a write: the record's bytes, a record of an older version, or nothing."""


class TableStore:
    """All records of one table of one module."""

    __slots__ = ("converted", "key_schema", "layers", "name", "record_schema", "shards", "version")

    def __init__(
        self, name: str, version: int, shards: Shards | None = None, layers: Sequence[Layer] = ()
    ) -> None:
        self.name = name
        self.version = version
        self.shards: Shards = new_shards() if shards is None else shards
        self.layers: list[Layer] = list(layers)
        self.key_schema: dict[str, Any] | None = None  # what keys and records are; None: not known
        self.record_schema: dict[str, Any] | None = None
        self.converted: list[tuple[Any, bytes]] | None = None  # what was brought up and is not written yet

    def __len__(self) -> int:
        return sum(map(len, self.shards)) + sum(map(len, self.layers))

    @property
    def stale(self) -> int:
        """How many records are still of an older version."""
        return sum(map(len, self.layers))

    def is_stale(self, key: object) -> bool:
        """Whether an older version wrote the record of this key, and nobody has touched it since."""
        place = hash(key) % SHARDS
        return any(key in layer.shards[place] for layer in self.layers)

    def bring_up(self, key: object) -> bytes | None:
        """The record of this key after its migration, which is done now; None if there is no such key.

        Raises StateInvalid if a step raises; the record stays as it is.
        """
        place = hash(key) % SHARDS
        for layer in self.layers:
            shard = layer.shards[place]
            old = shard.get(key)
            if old is not None:
                plain = plain_key(key)
                data = self.shards[place][plain] = layer.convert(plain, old)
                del shard[key]
                if self.converted is not None:
                    self.converted.append((plain, data))
                return data
        return None

    def find_stale(self, key: object) -> Stale | None:
        """The record of an older version that nobody has touched since, as it is."""
        place = hash(key) % SHARDS
        for layer in self.layers:
            data = layer.shards[place].get(key)
            if data is not None:
                return Stale(layer, data)
        return None

    def keys_of(self, place: int) -> list[Any]:
        """The keys of one shard, as they are now, whatever their version."""
        keys = list(self.shards[place])
        for layer in self.layers:
            keys += layer.shards[place]
        return keys

    def bring_up_swept(self, layer: Layer, place: int, key: object) -> bool:
        """Move one record of a layer up, if it is still there; False: a step raised, and it stays."""
        shard = layer.shards[place]
        old = shard.get(key)
        if old is None:
            return True
        try:
            data = self.shards[place][key] = layer.convert(key, old)
        except (StateInvalid, Stalled) as error:  # the watchdog's: it did not return
            layer.bad += 1
            layer.reason = layer.reason or str(error)
            return False
        del shard[key]
        if not shard:
            shard.clear()  # a dict keeps its room for what it once held: of all shards at the end it takes milliseconds to free
        if self.converted is not None:
            self.converted.append((key, data))
        return True

    def replace_all(self, shards: Shards) -> None:
        """Let these be all records. In place: the live table, and a sweep under way, look into the same lists."""
        self.shards[:] = shards
        for layer in self.layers:
            layer.shards[:] = new_shards()
        if self.converted is not None:
            self.converted = []

    def drop_empty_layers(self) -> bool:
        """Let go of layers without a record, and with them of the versions that knew their steps; True: of any."""
        left = [layer for layer in self.layers if not layer.empty]
        dropped = len(left) != len(self.layers)
        self.layers[:] = left  # in place: the live table looks into this list
        return dropped
