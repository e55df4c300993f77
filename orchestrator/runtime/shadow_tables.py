"""The Tables of a shadow: the records of the version in service as they were in one moment, and its own over them.

Nothing is copied for that moment, however many records there are. The version in service goes on in its own shards; what a
unit of it writes it notes before, for its undo, and at its end those notes are kept here: what a record was before it was
written first since. So a record of that moment is found by a look at the notes, else where it lies now. The shadow takes a
record over when it touches it, by the steps to its own version, and never writes to what the other one has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.table_live import LiveTable
from orchestrator.runtime.table_steps import Known, known_of, layer_over
from orchestrator.runtime.table_store import SHARDS, Before, Convert, Layer, Stale, TableStore, plain_key
from orchestrator.runtime.table_types import TableType
from orchestrator.runtime.tables import ModuleTables

_NOT_WRITTEN: Final = object()


class TableMoment:
    """The records of one table of the version in service as they were when this was made, between two units."""

    __slots__ = ("_live", "_store", "_written", "count", "known")

    def __init__(self, store: TableStore, live: LiveTable | None, known: Known) -> None:
        self._store = store
        self._live = live  # None: the version in service does not declare it, so nobody writes to it
        self.known = known  # the steps at hand, also for layers that the sweep empties meanwhile
        self._written: dict[int, dict[Any, Before]] = {}  # place → key → what was there
        self.count = len(store)

    def keep(self) -> None:
        """A unit that has written ends: keep what was there before it, if none has written to that before."""
        for key, before in self._live.before.items() if self._live is not None else ():
            self._written.setdefault(hash(key) % SHARDS, {}).setdefault(plain_key(key), before)

    def find(self, key: Any) -> tuple[int, bytes] | None:
        """Version and bytes of a record; None: there was none.

        First the record, then the notes: a unit in a thread may write it in between, and notes it before it does.
        """
        now = self._now(key)
        written: Any = self._written.get(hash(key) % SHARDS, {}).get(key, _NOT_WRITTEN)
        if written is _NOT_WRITTEN and self._live is not None:
            written = self._live.before.get(key, _NOT_WRITTEN)
        return now if written is _NOT_WRITTEN else self._found(written)

    def _found(self, before: Before) -> tuple[int, bytes] | None:
        if isinstance(before, Stale):
            return before.layer.version, before.data
        return None if before is None else (self._store.version, before)

    def _now(self, key: Any) -> tuple[int, bytes] | None:
        place = hash(key) % SHARDS
        # The version in service last once more: a record that a thread takes up is put there before it leaves its layer.
        for version, shards in (
            (self._store.version, self._store.shards),
            *((layer.version, layer.shards) for layer in self._store.layers),
            (self._store.version, self._store.shards),
        ):
            data = shards[place].get(key)
            if data is not None:
                return version, data
        return None

    def keys_of(self, place: int) -> list[Any]:
        """The keys of one shard."""
        keys = dict.fromkeys(self._store.keys_of(place))
        under_way = list(self._live.before.items()) if self._live is not None else []
        for key, before in (
            *under_way,
            *self._written.get(place, {}).items(),
        ):  # the first write last: it counts
            if hash(key) % SHARDS == place:
                if before is None:
                    keys.pop(key, None)
                else:
                    keys[key] = None
        return list(keys)


class ShadowStore(TableStore):
    """The records of a shadow: its own, and under them those of the moment that it has not touched."""

    __slots__ = ("_known", "_moment", "_taken", "_type", "_ways")

    def __init__(self, type_: TableType, moment: TableMoment, known: Known) -> None:
        # A layer of no records, so that whoever misses a record looks further.
        super().__init__(type_.name, type_.version, None, [layer_over(type_.version, [], type_, known)])
        self._moment = moment
        self._taken: set[Any] = set()  # keys that are no longer to be looked for in the moment
        self._type = type_
        self._known = known
        self._ways: dict[int, Convert] = {}

    def _convert(self, version: int, key: Any, data: bytes) -> bytes:
        way = self._ways.get(version)
        if way is None:
            way = self._ways[version] = layer_over(version, [], self._type, self._known).convert
        return way(key, data)

    def _below(self, key: Any) -> tuple[int, bytes] | None:
        return None if key in self._taken else self._moment.find(key)

    def __len__(self) -> int:
        return sum(map(len, self.shards)) + self._moment.count - len(self._taken)

    @property
    def stale(self) -> int:
        return self._moment.count - len(self._taken)

    def is_stale(self, key: object) -> bool:
        return self._below(key) is not None

    def bring_up(self, key: object) -> bytes | None:
        found = self._below(key)
        if found is None:
            return None
        plain = plain_key(key)
        data = self.shards[hash(key) % SHARDS][plain] = self._convert(found[0], plain, found[1])
        self._taken.add(plain)
        return data

    def find_stale(self, key: object) -> Stale | None:
        found = self._below(key)
        return None if found is None else _Below(self._taken, *found)

    def keys_of(self, place: int) -> list[Any]:
        below = [key for key in self._moment.keys_of(place) if key not in self._taken]
        return [*self.shards[place], *below]


class _Below(Stale):
    """A record of the moment that a unit of the shadow takes away, without having read it."""

    __slots__ = ("_taken",)

    def __init__(self, taken: set[Any], version: int, data: bytes) -> None:
        super().__init__(Layer(version, [], lambda _key, record: record), data)
        self._taken = taken

    def take(self, key: object) -> None:
        self._taken.add(plain_key(key))

    def restore(self, key: object) -> None:
        self._taken.discard(plain_key(key))


def moments_of(tables: ModuleTables, blueprint: Blueprint) -> dict[str, TableMoment]:
    """Of each table that the new version has and there are records of. Between two units; 25 µs each."""
    return {
        name: TableMoment(store, tables.live.get(name), tables.known_steps(name))
        for name, store in tables.stores.items()
        if name in blueprint.tables
    }


def shadow_tables(
    moments: Mapping[str, TableMoment], blueprint: Blueprint, loaded: Loaded | None
) -> ModuleTables:
    """The tables of the shadow."""
    found = {}
    for name, type_ in blueprint.tables.items():
        moment = moments.get(name)
        store = TableStore(name, type_.version)
        if moment is not None:
            store = ShadowStore(type_, moment, {**moment.known, **known_of(type_.steps, loaded)})
        found[name] = LiveTable(type_, store)
    return ModuleTables(found, {}, loaded)
