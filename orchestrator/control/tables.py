"""Tables as the commands show them: how many records of which version, and some of them, never all."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from orchestrator.control.facts import part_of, plain
from orchestrator.control.table_facts import of_one, overview
from orchestrator.control.wire import Refused
from orchestrator.runtime.slices import in_slices
from orchestrator.runtime.table_store import SHARDS, TableStore
from orchestrator.runtime.tables import ModuleTables

SHOWN_MAX = 100  # records of one answer
WALKED_PER_TURN = 256

_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()  # Any: the author's records


async def part_of_module(state: object, tables: ModuleTables, path: str | None, name: str) -> object:
    """A module's state, or a part of it, with its tables beside it if it has any.

    `tables.routes` shows some records, `tables.routes.KEY` one, or those with KEY as a part of their key. Raises Refused.
    """
    if not tables.stores:
        return part_of(state, path, name)
    if path is None:
        return {"state": plain(state), "tables": overview(tables)}
    head, _, rest = path.partition(".")
    if head == "tables" and rest:
        table, dot, key = rest.partition(".")
        return await _records(tables, table, key if dot else None, module=name)
    if head == "tables":
        return overview(tables)
    return part_of(state, rest or None if head == "state" else path, name)


async def _records(tables: ModuleTables, table: str, key: str | None, *, module: str) -> object:
    store = tables.stores.get(table)
    if store is None:
        has = ", ".join(sorted(tables.stores))
        raise Refused(f"{module} has no Table {table!r}; there is: {has}.")
    found = await in_slices(_search(store, key))
    if key is not None and not found:
        raise Refused(
            f"The Table {table} of {module} has no key {key!r}. A key of several parts is written as JSON, "
            f'e.g. tables.{table}.["a",1]; or name one part of it.'
        )
    shown = [{"key": plain(k), "record": plain(_PLAIN.decode(data))} for k, data in found[:SHOWN_MAX]]
    more = {"more": True} if len(found) > SHOWN_MAX else {}
    return {**of_one(store, aside=table in tables.aside), "shown": shown, **more}


def _search(store: TableStore, key: str | None) -> Generator[None, None, list[tuple[Any, bytes]]]:
    """Up to one record more than is shown."""
    found: list[tuple[Any, bytes]] = []
    walked = 0
    for place in range(SHARDS):
        for shard in (store.shards[place], *(layer.shards[place] for layer in store.layers)):
            for each, data in list(shard.items()):
                walked += 1
                if key is None or key in _names(each):
                    found.append((each, data))
                if len(found) > SHOWN_MAX:
                    return found
                if not walked % WALKED_PER_TURN:
                    yield
    return found


def _names(key: object) -> Sequence[str]:
    """What a person may write for a key."""
    if isinstance(key, tuple):
        return (
            json.dumps(plain(key), separators=(",", ":"), ensure_ascii=False),
            *(str(plain(each)) for each in key),
        )
    return (str(plain(key)),)
