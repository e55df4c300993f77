"""The release tables that changes would lead to, and what would not hold in them (DESIGN §4, "waits"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.upgrade.candidate import Candidate, candidate_of
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.edges import Face, Interfaces, edge_checks
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.successor import goes_back
from repo_store.release import Version


class Resulting:
    """One table, changed step by step: `unmet` asks, `settle` makes the changes."""

    def __init__(
        self, candidates: Mapping[str, Candidate], table: Mapping[str, Entry], live: Mapping[str, Live]
    ) -> None:
        self._candidates = candidates
        self._live = live
        self._interfaces = Interfaces()
        self._faces = {name: self._face(entry) for name, entry in table.items()}

    def checks(self, changes: Sequence[Change]) -> list[Check]:
        """What these changes would mean for requirements and for those who send: those that fail make them wait."""
        after = self._after(changes)
        back = {change.name for change in changes if goes_back(change)}
        requires = [check for change in changes for check in self._requirements(change, after)]
        return [*requires, *edge_checks(self._interfaces, self._faces, after, back)]

    def unmet(self, changes: Sequence[Change]) -> list[Check]:
        """The checks that fail."""
        return [check for check in self.checks(changes) if not check.ok]

    def settle(self, changes: Sequence[Change]) -> None:
        """From now on the table is the one after these changes."""
        self._faces = self._after(changes)

    def _after(self, changes: Sequence[Change]) -> dict[str, Face]:
        result = dict(self._faces)
        for change in changes:
            if change.after is None:
                result.pop(change.name, None)
            else:
                result[change.name] = self._face(change.after, candidate_of(change, self._candidates))
        return result

    def _face(self, entry: Entry, candidate: Candidate | None = None) -> Face:
        live = self._live.get(entry.name, Live()).description
        known = candidate.description if candidate is not None and candidate.description is not None else live
        if candidate is not None and candidate.problem is not None:
            known = None
        return Face(entry.name, entry.version, tuple(entry.also), entry.tree_id, known)

    def _requirements(self, change: Change, after: Mapping[str, Face]) -> list[Check]:
        """The requirements of a module on others that this table would not meet."""
        candidate = candidate_of(change, self._candidates)
        if change.after is None or candidate is None:
            return []
        unmet = []
        for other, specifiers in sorted(candidate.manifest.requires.modules.items()):
            has = after[other].version if other in after else None
            if has is None or not Version.parse(has).satisfies(specifiers):
                state = f"{other} {has} is" if has is not None else f"no {other} is"
                why = f"{change.name} requires {other} {specifiers}, and {state} in service"
                about = frozenset({other, change.name})
                unmet.append(Check(f"{change.name}: {other} {specifiers}", False, why, about=about))
        return unmet
