"""The Tables of one module: those of the version in service, those kept aside, and the releases they still need.

A switch makes the next value of this class from the one before, over the same shards: nothing is copied, and the old
value is as it was if the switch is undone.

A table that a new version does not declare is **kept aside**, unread, for as long as the module is part of the
application; a later version that declares the name again gets it back. Nothing of a table is lost by a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.table_live import LiveTable
from orchestrator.runtime.table_steps import Known, find_table_chain, known_of, layer_over, steps_in
from orchestrator.runtime.table_store import Layer, Shards, TableStore, new_shards
from orchestrator.runtime.table_types import TableType

if TYPE_CHECKING:
    from orchestrator.runtime.blueprint import Blueprint
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.module import Module
    from orchestrator.runtime.proxy import ModuleProxy


class ModuleTables:
    """What a module has in Tables, and under which version."""

    __slots__ = ("aside", "kept", "live", "loaded")

    def __init__(
        self,
        live: Mapping[str, LiveTable] | None = None,
        aside: Mapping[str, TableStore] | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        self.live = dict(live or {})
        self.aside = dict(aside or {})
        self.loaded = loaded  # the release whose tables these are
        self.kept: list[Loaded] = []  # releases that left service, loaded still for their steps

    @property
    def stores(self) -> dict[str, TableStore]:
        """All records there are, by table name."""
        return {**self.aside, **{name: table.store for name, table in self.live.items()}}

    def known_steps(self, name: str) -> dict[tuple[int, int], Any]:
        """The steps of a table that are at hand: its version's, and those that unconverted records need."""
        found: dict[tuple[int, int], Any] = {}
        store = self.stores.get(name)
        for layer in store.layers if store is not None else ():
            found.update(steps_in(layer))
        if name in self.live:
            found.update(known_of(self.live[name].type.steps, self.loaded))
        return found

    def check(self, blueprint: Blueprint, loaded: Loaded | None) -> None:
        """Could this version take over these tables? Raises MigrationMissing or StateInvalid."""
        stores = self.stores
        for name, type_ in blueprint.tables.items():
            store = stores.get(name)
            if store is None:
                continue
            known = {**self.known_steps(name), **known_of(type_.steps, loaded)}
            find_table_chain(name, known, store.version, type_.version)
            if store.key_schema is not None and store.key_schema != type_.key_schema:
                raise StateInvalid(
                    f"The Table {name} has keys of another type now. Steps change records, never keys: give the table "
                    "with the new keys another name, and fill it from the old one."
                )
            same = store.version == type_.version
            if same and store.record_schema is not None and store.record_schema != type_.record_schema:
                raise StateInvalid(
                    f"The records of the Table {name} are of another type, but still of version {store.version}. Write "
                    f"Table(version={store.version + 1}), and steps up and down: "
                    f'@YourModule.migrates("{name}", {store.version}, {store.version + 1}).'
                )

    def successor(
        self, blueprint: Blueprint, loaded: Loaded | None, fresh: Mapping[str, Shards]
    ) -> ModuleTables:
        """The tables as the next version has them. No record is touched; `fresh` has shards for tables that need some."""
        aside = self.stores
        live = {}
        for name, type_ in blueprint.tables.items():
            store = aside.pop(name, None)
            known = {**self.known_steps(name), **known_of(type_.steps, loaded)}
            live[name] = LiveTable(type_, _next_store(store, type_, known, fresh))
        following = ModuleTables(live, aside, loaded)
        following.kept = list(self.kept)
        return following

    def attach(self, port: ModuleProxy, instance: Module[Any]) -> None:
        """Enter service: the instance has its live tables, under the names of their declarations. Cannot raise."""
        for name, table in self.live.items():
            table.attach(port)
            vars(instance)[name] = table

    def detach(self, instance: Module[Any]) -> None:
        """Leave service: what is left of the version can neither read nor write them."""
        for name, table in self.live.items():
            table.detach()
            vars(instance).pop(name, None)

    @property
    def layers(self) -> list[Layer]:
        """The records that are still as older versions wrote them, of all tables."""
        return [layer for store in self.stores.values() for layer in store.layers]

    # -- releases that are still needed --------------------------------------------------------------------------

    def needs(self, loaded: Loaded) -> bool:
        """Whether a record waits for a step of this release."""
        return any(loaded in layer.needs for layer in self.layers)

    def keep(self, loaded: Loaded) -> bool:
        """Called with a release that leaves service. True: a record needs its steps, so it is unloaded later, by `let_go`."""
        if not self.needs(loaded):
            return False
        self.kept.append(loaded)
        return True

    def let_go(self) -> list[Loaded]:
        """Drop what no record needs any more; returns the releases that can be unloaded now."""
        for store in self.stores.values():
            store.drop_empty_layers()
        free = [loaded for loaded in self.kept if not self.needs(loaded)]
        self.kept = [loaded for loaded in self.kept if loaded not in free]
        return free

    @property
    def under_way(self) -> bool:
        """Whether a unit has written and not ended: what it took out of a layer may come back."""
        return any(table.before for table in self.live.values())


def fresh_shards(blueprint: Blueprint, before: ModuleTables) -> dict[str, Shards]:
    """Empty shards for each table of a version that has no records, or only older ones; made before the pause."""
    stores = before.stores
    return {
        name: new_shards()
        for name, type_ in blueprint.tables.items()
        if name not in stores or stores[name].version != type_.version
    }


def first_tables(implementation: Implementation) -> ModuleTables:
    """The tables of a first start: empty."""
    blueprint, none = implementation.blueprint, ModuleTables()
    return none.successor(blueprint, implementation.loaded, fresh_shards(blueprint, none))


def _next_store(
    store: TableStore | None, type_: TableType, known: Known, fresh: Mapping[str, Shards]
) -> TableStore:
    if store is None:
        current, older = fresh[type_.name], []
    else:
        older = [(layer.version, layer.shards) for layer in store.layers]
        if store.version == type_.version:
            current = store.shards
        else:
            older.insert(0, (store.version, store.shards))
            current = fresh[type_.name]
            for number, (version, shards) in enumerate(older):
                if version == type_.version:  # going back in mid-conversion: these never left this version
                    current = shards
                    del older[number]
                    break
    layers: list[Layer] = [layer_over(version, shards, type_, known) for version, shards in older]
    following = TableStore(type_.name, type_.version, current, layers)
    following.key_schema, following.record_schema = type_.key_schema, type_.record_schema
    return following
