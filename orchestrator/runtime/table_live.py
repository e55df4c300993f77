"""A Table of a version in service: reads, writes, and the undo of a unit's writes. How it is meant: `table`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.runtime.errors import NotInService
from orchestrator.runtime.table import Table
from orchestrator.runtime.table_store import SHARDS, plain_key

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy
    from orchestrator.runtime.table_store import Before, Shards, TableStore
    from orchestrator.runtime.table_types import TableType


class LiveTable(Table[Any, Any]):  # Any: the author's own keys and records
    """A Table of a version in service, over a store that outlives the version."""

    def __init__(self, type_: TableType, store: TableStore) -> None:
        super().__init__(version=type_.version)
        self._name = type_.name
        self.type = type_
        self.store = store
        self.before: dict[Any, Before] = {}  # what was there when the unit under way first wrote to each key
        self._port: ModuleProxy | None = None
        self._edits = 0  # keys that were added or removed, for those who iterate
        self._shards = store.shards
        self._layers = store.layers
        self._encode = type_.encode
        self._decode = type_.decode

    def attach(self, port: ModuleProxy) -> None:
        """Enter service."""
        self._port = port

    def detach(self) -> None:
        """Leave service: whoever still holds this table can read and write no more."""
        self._port = None
        self._shards = _GONE  # type: ignore[assignment]  # refuses whatever is asked of it

    # -- reading -----------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, /) -> Any:
        data = self._shards[hash(key) % SHARDS].get(key)
        if data is None:
            if not self._layers:
                return default
            data = self.store.bring_up(key)
            if data is None:
                return default
        return self._decode(data)

    def __getitem__(self, key: Any) -> Any:
        data = self._shards[hash(key) % SHARDS].get(key)
        if data is None:
            data = self.store.bring_up(key)
            if data is None:
                raise KeyError(key)
        return self._decode(data)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) % SHARDS] or self.store.is_stale(key)

    def __len__(self) -> int:
        self._shards[0]  # refuses after service
        return len(self.store)

    def __bool__(self) -> bool:
        return any(self._shards) or len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        edits = self._edits
        for place in range(SHARDS):
            self._shards[place]  # refuses after service
            for key in self.store.keys_of(place):
                yield key
                if self._edits != edits:
                    raise RuntimeError(f"the Table {self._name} changed its keys while it was iterated over")

    def items(self) -> Iterator[tuple[Any, Any]]:
        shards, decode = self._shards, self._decode
        for key in self:
            data = shards[hash(key) % SHARDS].get(key)
            yield key, decode(data) if data is not None else self[key]

    # -- writing -----------------------------------------------------------------------------------------------

    def __setitem__(self, key: Any, record: Any) -> None:
        port = self._port
        if port is None or port.unit is None:
            raise self._write_refused(port)
        try:
            data = self._encode(record)
            self._decode(data)
        except Exception as error:  # noqa: BLE001  # whatever a record that is no plain data makes the encoder say
            raise self.type.record_refused(key, error) from None
        shard = self._shards[hash(key) % SHARDS]
        old = shard.get(key)
        if old is None:
            self._first_write(port, key)
        else:
            before = self.before
            if not before:
                port.written.append(self)
            if key not in before:
                before[key] = old
        shard[key] = data

    def _first_write(self, port: ModuleProxy, key: Any) -> None:
        """Check a key that has no record of the current version; what there was in an older one is taken away."""
        self.type.check_key(key)
        stale = self.store.find_stale(key)
        if stale is None:
            self._edits += 1
        self._note(port, key, stale)
        if stale is not None:
            stale.take(key)

    def _note(self, port: ModuleProxy, key: Any, old: Before) -> None:
        """Before the first change of a key, never after: the watchdog may interrupt the unit between any two steps."""
        if not self.before:
            port.written.append(self)
        self.before.setdefault(key, old)

    def __delitem__(self, key: Any) -> None:
        port = self._port
        if port is None or port.unit is None:
            raise self._write_refused(port)
        shard = self._shards[hash(key) % SHARDS]
        data = shard.get(key)
        stale = self.store.find_stale(key) if data is None else None
        if data is None and stale is None:
            raise KeyError(key)
        self._note(port, key, data or stale)
        if stale is not None:
            stale.take(key)  # not migrated: a record whose step raises can still be deleted
        shard.pop(key, None)
        self._edits += 1

    def pop(self, key: Any, /, *default: Any) -> Any:
        try:
            record = self[key]
        except KeyError:
            if not default:
                raise
            return default[0]
        del self[key]
        return record

    def _write_refused(self, port: ModuleProxy | None) -> NotInService:
        if port is None:
            return self._refused()
        return NotInService(
            f"The Table {self._name} of {port.name} was written outside a unit of work, where nobody could undo it. "
            "Write in a handler, an event or a tick, and in the tasks it waits for."
        )

    def replace_all(self, shards: Shards) -> None:
        """Let these be all records, of the version in service. Between two units; cannot raise."""
        self.store.replace_all(shards)
        self._edits += 1

    # -- the end of a unit ---------------------------------------------------------------------------------------

    def undo_writes(self) -> None:
        """The unit raised: every record is as it was when the unit began."""
        for key, old in self.before.items():
            shard = self.store.shards[hash(key) % SHARDS]
            if isinstance(old, bytes):
                shard[plain_key(key)] = old
            else:
                shard.pop(key, None)
                if old is not None:
                    old.restore(key)
        self.before.clear()
        self._edits += 1

    def changed(self) -> dict[Any, bytes | None]:
        """What the unit under way has changed: key → the record's bytes as they are now, None if it was deleted."""
        return {key: self._shards[hash(key) % SHARDS].get(key) for key in self.before}


def keep_writes(written: list[LiveTable]) -> None:
    """A unit ended well: what it wrote to these tables stays."""
    for table in written:
        table.before.clear()
    written.clear()


def undo_writes(written: list[LiveTable]) -> None:
    """A unit raised, or was cut: its writes to these tables never were."""
    for table in written:
        table.undo_writes()
    written.clear()


class _Gone:
    """Stands where the shards of a table were that is no longer in service."""

    def __getitem__(self, _place: int) -> NoReturn:
        raise NotInService(
            "This Table belongs to a version that has left service; nothing was read or written."
        )


_GONE = _Gone()
