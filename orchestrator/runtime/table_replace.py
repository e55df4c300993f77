"""All records of Tables replaced by others: made ready beside them, in slices, and put in between two units.

What is put in goes the way of any record: the steps to the version in service, and its types. A table that the version
in service does not declare is put aside, as it is.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.runtime.table_image import TableImage, records_of, restoring
from orchestrator.runtime.table_steps import Conversion, find_table_chain
from orchestrator.runtime.table_store import SHARDS, Shards, TableStore, new_shards
from orchestrator.runtime.tables import ModuleTables


@dataclass(frozen=True, slots=True)
class Replacement:
    """Records that are ready to be put in: of tables in service, and of those that are kept aside."""

    live: Mapping[str, Shards]
    aside: Mapping[str, TableStore]
    versions: Mapping[str, int]  # of those in service

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.live, *self.aside}))

    def put_in(self, tables: ModuleTables) -> None:
        """Let these be the records of the tables they name; others stay. Between two units; cannot raise."""
        for name, shards in self.live.items():
            tables.live[name].replace_all(shards)
        tables.aside.update(self.aside)


def preparing(tables: ModuleTables, images: Sequence[TableImage]) -> Generator[None, None, Replacement]:
    """The records of the images as the version in service has them.

    Raises StateInvalid, which names table and key, and MigrationMissing.
    """
    live: dict[str, Shards] = {}
    for image in images:
        if image.name in tables.live:
            shards = live.setdefault(image.name, new_shards())
            type_, known = tables.live[image.name].type, tables.known_steps(image.name)
            chain = find_table_chain(image.name, known, image.version, type_.version)
            convert = Conversion(image.version, type_, chain, of_a_copy=True)
            for key, data in records_of(image):
                # Of a table in mid-conversion the image of the version in service comes first.
                shards[hash(key) % SHARDS].setdefault(key, convert.checked(key, data))
                yield
    others = yield from restoring(image for image in images if image.name not in tables.live)
    return Replacement(live, others.aside, {name: tables.live[name].type.version for name in live})
