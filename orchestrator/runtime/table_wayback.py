"""What a way back loses of a Table's records (DESIGN §7.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from orchestrator.runtime.errors import MigrationMissing, StateInvalid
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.state import StateCodec
from orchestrator.runtime.table_live import LiveTable
from orchestrator.runtime.table_steps import Conversion, find_table_chain, known_of
from orchestrator.runtime.table_types import TableType
from orchestrator.runtime.wayback import lost_going_down

RECORDS_MAX = 100  # that are tried

_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def migrated(table: LiveTable) -> Iterator[tuple[Any, bytes]]:
    """The records as bytes of the version in service, without those that a step raises on: these go nowhere."""
    for key in table:
        with suppress(StateInvalid):
            yield key, table.type.encode(table[key])


def lost_in_table(
    type_: TableType, older: int, records: Iterable[tuple[Any, bytes]], origin: Loaded | None = None
) -> list[str] | None:
    """What records of this version do not have any more after going down to version `older` and up again.

    `routes.since` for a field of records that are objects, `routes` if records of another shape differ; None if no steps
    lead down. Raises StateInvalid if a step raises.
    """
    known = known_of(type_.steps, origin)
    try:
        down = find_table_chain(type_.name, known, type_.version, older)
        up = find_table_chain(type_.name, known, older, type_.version)
    except MigrationMissing:
        return None
    there_and_back = Conversion(type_.version, type_, [*down, *up], of_a_copy=True)
    codec = StateCodec(type_.record)
    lost: set[str] = set()
    for key, data in islice(records, RECORDS_MAX):
        before, after = _PLAIN.decode(data), _PLAIN.decode(there_and_back(key, data))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            steps = [[partial(known.step, key) for known in chain] for chain in (down, up)]
            lost |= {f"{type_.name}.{field}" for field in lost_going_down(before, codec, *steps)}
        elif before != after:
            lost.add(type_.name)
    return sorted(lost)
