"""What `status` and `state` say of Tables: versions, counts, and what could not be migrated."""

from __future__ import annotations

from typing import Any

from orchestrator.runtime.table_store import TableStore
from orchestrator.runtime.tables import ModuleTables


def overview(tables: ModuleTables) -> dict[str, Any]:  # Any: JSON
    """Table name → its version, how many records it has, and what is to say of them."""
    return {name: of_one(store, aside=name in tables.aside) for name, store in sorted(tables.stores.items())}


def of_one(store: TableStore, *, aside: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"version": store.version, "records": len(store)}
    if store.stale:
        document["to_migrate"] = {str(layer.version): len(layer) for layer in store.layers if not layer.empty}
    bad = [layer for layer in store.layers if layer.bad and not layer.empty]
    if bad:
        document["problem"] = (
            f"a step raised on {sum(layer.bad for layer in bad)} of its records; the first: {bad[0].reason}"
        )
    if aside:
        document["aside"] = "the version in service does not declare it"
    return document
