"""Steps that only what is on disk still needs: those of releases that left service, borrowed at a start of the host.

A kill in the middle of a way back leaves records that the newer release wrote, and its steps down are in its code alone;
and a release that was put back after deaths finds the state of the one that died. In memory such a release stays loaded
as long as a record needs it (DESIGN §7.8); after a kill it is loaded again, for its steps and for nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import cast

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.slices import in_slices
from orchestrator.runtime.state import Steps, find_path
from orchestrator.runtime.table_image import TableImage, restoring
from orchestrator.runtime.table_steps import Known, NoWay, known_of
from orchestrator.runtime.tables import ModuleTables
from orchestrator.upgrade.incoming import Code, KeptState


@dataclass(frozen=True)
class Borrowed:
    """Steps of the state and of each table, those of the release itself first, and the loads that they came with."""

    steps: Steps
    known: Mapping[str, Known]
    loads: tuple[Loaded, ...]

    def enough(self, kept: KeptState, blueprint: Blueprint) -> bool:
        """Whether they lead from all that is kept to the versions of this release."""
        try:
            find_path(self.steps, kept.state_version, blueprint.state_version)
            for image in kept.tables:
                if image.name in blueprint.tables:
                    find_path(self.known[image.name], image.version, blueprint.tables[image.name].version)
        except MigrationMissing:
            return False
        return True

    def and_of(self, code: Code) -> Borrowed:
        """The same with the steps of one more release."""
        tables = code.blueprint.tables
        known = {
            name: {**(known_of(tables[name].steps, code.loaded) if name in tables else {}), **mine}
            for name, mine in self.known.items()
        }
        loads = (*self.loads, code.loaded) if code.loaded is not None else self.loads
        return Borrowed({**code.blueprint.steps, **self.steps}, known, loads)


async def borrow(kept: KeptState, blueprint: Blueprint, earlier: AsyncIterator[Code]) -> Borrowed | None:
    """Steps for what is kept, of as few earlier releases as are needed; None if the release needs none, or none help."""
    own = Borrowed(
        blueprint.steps, {name: known_of(type_.steps, None) for name, type_ in blueprint.tables.items()}, ()
    )
    found = own
    if found.enough(kept, blueprint):
        return None
    async for code in earlier:
        found = found.and_of(code)
        if found.enough(kept, blueprint):
            return found
    for loaded in found.loads:
        loaded.unload()
    return None


async def tables_with(borrowed: Borrowed, kept: KeptState, blueprint: Blueprint) -> ModuleTables:
    """What is kept in Tables, each record with the steps that it needs at hand."""
    # An empty table of the release's version first: all that is there are then layers under it, each with its own way.
    first = [TableImage(name, type_.version, ()) for name, type_ in blueprint.tables.items()]
    tables = await in_slices(restoring([*first, *kept.tables]))
    for name, store in tables.stores.items():
        for layer in store.layers:
            known = borrowed.known.get(name, {}).values()
            cast("NoWay", layer.convert).chain = tuple(step for step in known if step.origin is not None)
    tables.kept = list(borrowed.loads)  # unloaded when no record needs them
    return tables
