"""What is looked at in the Tables of a release: keys, versions, steps up and down (DESIGN §7.1). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.runtime.description import Description, TableDescription
from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.schema import Schema
from orchestrator.runtime.state import find_path
from orchestrator.upgrade.skeleton import Missing, skeleton


@dataclass(frozen=True, slots=True)
class TableInService:
    """A Table as it is now: its version, the versions that its records are of, and the steps that are at hand."""

    version: int
    versions: frozenset[int] = frozenset()
    steps: frozenset[tuple[int, int]] = frozenset()
    key_schema: Schema | None = None  # None: not known
    record_schema: Schema | None = None
    records: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that was looked at in a Table. `bad`: the release cannot go live with it, but perhaps with `paste`."""

    what: str
    bad: bool
    why: str
    paste: str = ""


@dataclass(frozen=True, slots=True)
class TableChecks:
    """Looks at the tables of one release against those in service."""

    module: str
    description: Description
    live: Mapping[str, TableInService] = field(default_factory=dict)
    one_way: bool = False

    def found(self) -> Iterable[Found]:
        """Everything, in the order of the tables' names."""
        for name in sorted({*self.live, *self.description.tables}):
            now, then = self.live.get(name), self.description.tables.get(name)
            if now is None:
                continue  # a new table begins empty
            if then is None:
                why = (
                    f"{self.module}: does not declare the Table {name}; its {now.records} records are kept aside, unread, "
                    "until a version declares it again"
                )
                yield Found(f"{self.module}: Table {name}", bad=False, why=why)
            else:
                yield from self._of(name, now, then)

    def _of(self, name: str, now: TableInService, then: TableDescription) -> Iterable[Found]:
        what = f"{self.module}: Table {name}"
        if now.key_schema is not None and now.key_schema != then.key_schema:
            why = (
                f"{self.module}: the keys of the Table {name} are of another type. Steps change records, never keys: give the "
                "table with the new keys another name, and fill it from the old one"
            )
            yield Found(what, bad=True, why=why)
            return
        same_type = now.record_schema is None or now.record_schema == then.record_schema
        if now.version == then.version and not same_type:
            up = self._missing(name, now.version, now.version + 1)
            down = self._missing(name, now.version + 1, now.version)
            why = (
                f"{self.module}: the records of the Table {name} are of another type, but still of version {now.version}. "
                f"Write Table(version={now.version + 1}), and steps: {up.decorator} and {down.decorator}"
            )
            old, new = now.record_schema, then.record_schema
            paste = f"{skeleton(up, old, new)}\n\n{skeleton(down, new, old)}"
            yield Found(what, bad=True, why=why, paste=paste)
            return
        steps = {*now.steps, *then.migrations}
        for version in sorted({now.version, *now.versions} - {then.version}):
            old = now.record_schema if version == now.version else None
            paste = skeleton(self._missing(name, version, then.version), old, then.record_schema)
            yield self._chain(name, steps, version, then.version, paste)
        if then.version > now.version and not self.one_way:
            missing = self._missing(name, then.version, now.version)
            paste = skeleton(missing, then.record_schema, now.record_schema)
            yield self._way_back(name, steps, then.version, now.version, paste)

    def _chain(
        self, name: str, steps: Collection[tuple[int, int]], start: int, end: int, paste: str
    ) -> Found:
        what = f"{self.module}: Table {name} {start}→{end}"
        if _leads(steps, start, end):
            way = "up" if end > start else "down"
            return Found(what, bad=False, why=f"{self.module}: steps {way} {start}→{end} of the Table {name}")
        has = ", ".join(f"{a}→{b}" for a, b in sorted(steps)) or "none"
        why = (
            f"{self.module}: no step leads from version {start} to {end} of the Table {name} (steps there are: {has}). "
            f"Add a step: {self._missing(name, start, end).decorator}"
        )
        return Found(what, bad=True, why=why, paste=paste)

    def _way_back(
        self, name: str, steps: Collection[tuple[int, int]], start: int, end: int, paste: str
    ) -> Found:
        what = f"{self.module}: way back of Table {name} {start}→{end}"
        if _leads(steps, start, end):
            return Found(
                what, bad=False, why=f"{self.module}: way back {start}→{end} of the Table {name}: yes"
            )
        why = (
            f"{self.module}: there is no way back from version {start} to {end} of the Table {name}, so a rollback would "
            f"lose its records. Add a step down: {self._missing(name, start, end).decorator}; or say one_way = true in "
            "module.toml"
        )
        return Found(what, bad=True, why=why, paste=paste)

    def _missing(self, name: str, before: int, after: int) -> Missing:
        return Missing(self.description.entry.rpartition(":")[2], before, after, name)


def _leads(steps: Collection[tuple[int, int]], start: int, end: int) -> bool:
    try:
        find_path(steps, start, end)
    except MigrationMissing:
        return False
    return True
