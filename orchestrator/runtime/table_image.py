"""Tables as bytes, for the image of a clean stop and for a module that left.

A table is saved shard by shard, and restored record by record, as generators that yield between: `slices` runs them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import msgspec

from orchestrator.runtime.errors import MigrationMissing, StateInvalid
from orchestrator.runtime.table_steps import NoWay
from orchestrator.runtime.table_store import SHARDS, Layer, Shards, TableStore, new_shards
from orchestrator.runtime.table_types import TableType
from orchestrator.runtime.tables import ModuleTables

RECORDS_PER_TURN = 64

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[list[tuple[Any, msgspec.Raw]]] = msgspec.msgpack.Decoder(
    list[tuple[Any, msgspec.Raw]]  # Any: the author's keys
)


class TableImage(msgspec.Struct, frozen=True):
    """The records of one table that are of one version. Each part is msgpack: pairs of a key and a record.

    A table in mid-conversion has several images, that of the version in service first.
    """

    name: str
    version: int
    parts: tuple[bytes, ...]
    key_schema: dict[str, Any] | None = None
    record_schema: dict[str, Any] | None = None


def saving(tables: ModuleTables) -> Generator[None, None, tuple[TableImage, ...]]:
    """All tables as bytes."""
    return (yield from encoding(versions_of(tables)))


def copied(tables: ModuleTables) -> list[tuple[TableImage, list[dict[Any, bytes]]]]:
    """The records of all tables as they are in this moment, to be encoded later; takes some milliseconds per 10⁵."""
    return [(image, [dict(shard) for shard in shards]) for image, shards in versions_of(tables)]


def encoding(
    versions: Iterable[tuple[TableImage, Shards]],
) -> Generator[None, None, tuple[TableImage, ...]]:
    """Each image with its records in it."""
    images = []
    for image, shards in versions:
        parts = []
        for shard in shards:
            if shard:
                parts.append(_ENCODER.encode([(key, msgspec.Raw(data)) for key, data in shard.items()]))
                yield
        images.append(msgspec.structs.replace(image, parts=tuple(parts)))
    return tuple(images)


def versions_of(tables: ModuleTables) -> Iterator[tuple[TableImage, Shards]]:
    """Each table, and each version that it has records of, that in service first."""
    for name, store in tables.stores.items():
        for version, shards in (
            (store.version, store.shards),
            *((la.version, la.shards) for la in store.layers),
        ):
            yield TableImage(name, version, (), store.key_schema, store.record_schema), shards


def restoring(images: Iterable[TableImage]) -> Generator[None, None, ModuleTables]:
    """The tables again, kept aside until a version declares them. Raises StateInvalid if the bytes are not an image's."""
    stores: dict[str, TableStore] = {}
    for image in images:
        shards = new_shards()
        yield from _fill(shards, image)
        store = stores.get(image.name)
        if store is None:
            store = stores[image.name] = TableStore(image.name, image.version, shards)
            store.key_schema, store.record_schema = image.key_schema, image.record_schema
        else:
            missing = MigrationMissing(f"no version in service knows version {image.version} of it.")
            store.layers.append(Layer(image.version, shards, NoWay(image.name, missing)))
    return ModuleTables(aside=stores)


def _fill(shards: Shards, image: TableImage) -> Generator[None, None, None]:
    for number, (key, data) in enumerate(records_of(image)):
        shards[hash(key) % SHARDS][key] = data
        if not number % RECORDS_PER_TURN:
            yield


def records_of(image: TableImage) -> Iterator[tuple[Any, bytes]]:
    """Keys and records. Raises StateInvalid if the bytes are not an image's."""
    for part in image.parts:
        try:
            pairs = _DECODER.decode(part)
        except msgspec.MsgspecError as error:
            raise StateInvalid(
                f"The saved records of the Table {image.name} cannot be read: {error}."
            ) from error
        for stored, data in pairs:
            yield _key(stored), bytes(data)


def _key(stored: Any) -> Any:
    """A key as it was: msgpack has no tuples, and a key is never a list."""
    return tuple(map(_key, stored)) if stored.__class__ is list else stored


def image_of(type_: TableType, records: Iterable[tuple[Any, Any]]) -> TableImage:
    """A table with these records, as if it had been saved. Raises StateInvalid for one that does not fit."""
    pairs = []
    for key, record in records:
        type_.check_key(key)
        try:
            data = type_.encode(record)
            type_.decode(data)
        except Exception as error:  # noqa: BLE001  # whatever a record that is no plain data makes the encoder say
            raise type_.record_refused(key, error) from None
        pairs.append((key, msgspec.Raw(data)))
    parts = (_ENCODER.encode(pairs),)
    return TableImage(type_.name, type_.version, parts, type_.key_schema, type_.record_schema)
