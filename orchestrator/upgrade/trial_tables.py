"""The Tables' part of a trial: the release's steps, run on a sample of the live records, up and down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.table_image import TableImage, records_of
from orchestrator.runtime.table_steps import Conversion, find_table_chain, known_of
from orchestrator.runtime.table_store import SHARDS
from orchestrator.runtime.table_types import TableType
from orchestrator.runtime.table_wayback import lost_in_table
from orchestrator.runtime.tables import ModuleTables, first_tables


def rehearse_tables(implementation: Implementation, images: Sequence[TableImage]) -> ModuleTables:
    """The release's tables, with the sample in them as it would migrate it.

    Raises StateInvalid, which names table, key and step. Records whose steps are in the version that leaves are left out.
    """
    tables = first_tables(implementation)
    for image in images:
        live = tables.live.get(image.name)
        if live is None:
            continue
        known = known_of(live.type.steps, implementation.loaded)
        try:
            chain = find_table_chain(image.name, known, image.version, live.version)
        except MigrationMissing:
            continue  # the plan knows the steps of both versions, and has judged
        convert = Conversion(image.version, live.type, chain, of_a_copy=True)
        for key, data in records_of(image):
            live.store.shards[hash(key) % SHARDS][key] = convert.checked(key, data)
    return tables


def lost_in_tables(
    implementation: Implementation, tables: ModuleTables, images: Sequence[TableImage]
) -> list[str] | None:
    """What the way back loses of the records of the sample; None if no table goes up, or none has a way back.

    Raises StateInvalid if a step down raises.
    """
    lost: list[str] | None = None
    for name, live in tables.live.items():
        older = [image.version for image in images if image.name == name and image.version < live.version]
        if older:
            found = lost_in_table(live.type, max(older), _records(tables, live.type), implementation.loaded)
            lost = lost if found is None else [*(lost or ()), *found]
    return lost


def taken_down(
    implementation: Implementation, images: Sequence[TableImage], versions: Mapping[str, int]
) -> tuple[TableImage, ...]:
    """The sample with the records of these tables in the older versions; a table that no steps lead down is left out.

    Raises StateInvalid if a step raises.
    """
    return tuple(
        lower
        for image in images
        if (lower := _lower(implementation, image, versions.get(image.name, image.version))) is not None
    )


def changed_below(
    implementation: Implementation, tables: ModuleTables, images: Sequence[TableImage]
) -> tuple[TableImage, ...]:
    """Of each image that went up, the records that are not what they were once the steps have taken them down again.

    Raises StateInvalid if a step raises.
    """
    found = []
    for image in images:
        live = tables.live.get(image.name)
        if live is None or image.version >= live.version:
            continue
        before = dict(records_of(image))
        mine = [(key, msgspec.Raw(data)) for key, data in _records(tables, live.type) if key in before]
        upper = TableImage(image.name, live.version, (msgspec.msgpack.encode(mine),))
        lower = _lower(implementation, upper, image.version)
        changed = [
            (key, msgspec.Raw(data))
            for key, data in (records_of(lower) if lower is not None else ())
            if data != before[key]
        ]
        if changed:
            found.append(TableImage(image.name, image.version, (msgspec.msgpack.encode(changed),)))
    return tuple(found)


def _lower(implementation: Implementation, image: TableImage, version: int) -> TableImage | None:
    if version >= image.version:
        return image
    type_ = implementation.blueprint.tables[image.name]
    known = known_of(type_.steps, implementation.loaded)
    try:
        chain = find_table_chain(image.name, known, image.version, version)
    except MigrationMissing:
        return None  # the plan knows the steps of both versions, and has judged
    older = TableType(
        image.name, version, type_.key, Any, type_.steps
    )  # what its records are is not known here
    down = Conversion(image.version, older, chain, of_a_copy=True)
    pairs = [(key, msgspec.Raw(down(key, data))) for key, data in records_of(image)]
    return TableImage(image.name, version, (msgspec.msgpack.encode(pairs),))


def lost_below(
    implementation: Implementation, images: Sequence[TableImage], versions: Mapping[str, int]
) -> list[str] | None:
    """What records of this release lose when its tables go down to these versions; None if no steps lead there and up.

    Raises StateInvalid if a step raises.
    """
    lost: list[str] = []
    for name, older in versions.items():
        type_ = implementation.blueprint.tables[name]
        mine = [image for image in images if (image.name, image.version) == (name, type_.version)]
        records = (record for image in mine for record in records_of(image))
        found = lost_in_table(type_, older, records, implementation.loaded)
        if found is None:
            return None
        lost += found
    return lost


def _records(tables: ModuleTables, type_: TableType) -> list[tuple[object, bytes]]:
    return [pair for shard in tables.live[type_.name].store.shards for pair in shard.items()]
