"""`livetag check`: all that a host would look at before a release goes live, on a working copy and without a host.

The very same path as in production: staged out of Git objects, described and tried in a child under limits, planned by
the same pure plan, once against nothing (the whole working copy as one table) and once against the releases before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.environment import host_environment
from orchestrator.control.working_copy import WorkingCopy, made_from, opened
from orchestrator.runtime.description import TableDescription
from orchestrator.runtime.errors import MigrationMissing, ModuleError
from orchestrator.runtime.message import is_authors
from orchestrator.runtime.state import PLAIN_STATE, find_path
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.errors import TrialFailed, UpgradeError
from orchestrator.upgrade.incoming import StateCopy
from orchestrator.upgrade.plan import Plan, make_plan
from orchestrator.upgrade.preview import check_text, is_remark
from orchestrator.upgrade.source import StagedSource, resolve_config
from orchestrator.upgrade.state_file import FileRefused, read_state_file
from orchestrator.upgrade.table_checks import TableChecks, TableInService
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import TrialSection


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at in a module; `ok` None: it could not be looked at here, or is only said.

    `paste`: source with which it would be ok.
    """

    module: str
    ok: bool | None
    what: str
    why: str
    paste: str = ""

    @property
    def text(self) -> str:
        return check_text(Check(self.what, ok=self.ok is not False, why=self.why))


@dataclass(frozen=True, slots=True)
class State:
    """A state to start from, of one module: its version and its msgpack, and its Tables' records."""

    module: str
    version: int
    data: bytes
    tables: tuple[TableImage, ...] = ()
    whose: str = "the file"


def read_state(path: Path) -> State:
    """The state in a file of `livetag state NAME --export`. Raises FileRefused."""
    try:
        file = read_state_file(path.read_bytes())
    except OSError as error:
        raise FileRefused(f"{path} cannot be read: {error.strerror}.") from None
    data = PLAIN_STATE.encode(file.content())
    whose = f"{file.package} {file.version} in {path.name}"
    return State(file.module, file.state_version, data, file.images(), whose)


async def check(path: Path, names: Sequence[str] = (), state: State | None = None) -> list[Finding]:
    """Check the working copy at `path`: everything, or what has to do with these modules or packages.

    `state` is what its module starts from, in the place of the first state of the release before. Writes nothing there.
    Raises StoreError, and ModuleUnknown for a name that is not there.
    """
    limits = TrialSection()
    async with opened(path, limits) as copy:
        chosen = made_from(copy, names)
        unknown = set(names) - {n for m in chosen for n in (m, copy.candidates[m].wish.package)}
        if unknown:
            raise ModuleUnknown(sorted(unknown), copy)
        if state is not None and state.module not in chosen:
            raise ModuleUnknown([f"{state.module}, which the state is of"], copy)
        findings = [*_layout(copy)] if not names else []
        findings += [_read(name, copy) for name in chosen if copy.candidates[name].problem is None]
        findings += _planned(copy, set(chosen))
        trials = _Trials(copy, limits, state)
        said = {finding.what for finding in findings}
        for found in await asyncio.gather(*(trials.of(name) for name in chosen)):
            findings += [finding for finding in found if finding.what not in said]
        order = {name: number for number, name in enumerate(["", *chosen])}
        return sorted(findings, key=lambda finding: order.get(finding.module, len(order)))


class ModuleUnknown(UpgradeError):
    """A module was named that the working copy does not have."""

    def __init__(self, names: Iterable[str], copy: WorkingCopy) -> None:
        there = ", ".join(sorted({*copy.candidates, *copy.content.packages})) or "none"
        super().__init__(f"{copy.top} has no module or package {', '.join(names)}; it has: {there}.")


def _layout(copy: WorkingCopy) -> Iterator[Finding]:
    """What is wrong outside of any module."""
    if copy.app_problem is not None:
        yield Finding("", False, "app.toml", copy.app_problem)
    elif copy.content.has_app:
        yield Finding("", True, "app.toml", "it can be read")
    for name in copy.content.odd:
        why = f"modules/{name} is no package: its name must be lower-case letters, digits and _. Rename it"
        yield Finding("", False, f"modules/{name}", why)
    if not copy.candidates:
        yield Finding("", None, "modules", "there is no module to check")


def _read(name: str, copy: WorkingCopy) -> Finding:
    """What a module was read as: the version that it would get, and what it handles."""
    candidate, before = copy.candidates[name], copy.content.released.get(copy.candidates[name].wish.package)
    description, tag = candidate.description, candidate.wish.ref.tag.name
    handles = ", ".join(sorted(description.handles)) if description is not None else ""
    if candidate.wish.package not in copy.content.packages:
        since = f"not in this working copy, so as {tag} has it"
    else:
        since = f"the same code as {tag}" if before == candidate.wish.ref else f"the next tag would be {tag}"
    return Finding(name, True, f"{name}: read", f"{since}; it handles {handles or 'no messages'}")


def _planned(copy: WorkingCopy, chosen: set[str]) -> Iterator[Finding]:
    """What the plan says: of the whole working copy as one table, and of each module after the release before it."""
    environment = host_environment()
    one = [frozenset(c.wish.ref.tag.name for c in copy.candidates.values())]  # all of it at once
    alone = make_plan(copy.candidates, {}, app_ref=None, live={}, environment=environment, together=one)
    table = {name: c.entry() for name, c in copy.before.items() if c.problem is None}
    live = {name: _live(copy.before[name]) for name in table}
    after = make_plan(copy.candidates, table, app_ref=None, live=live, environment=environment, together=one)
    whole, later = _checks(alone), _checks(after)
    said = {each.what for each in whole}
    for each in dict.fromkeys([*whole, *(each for each in later if each.what not in said)]):
        module = _module_of(each)
        if module in chosen:
            yield Finding(module, _verdict(each), each.what, each.why, each.paste)


def _checks(plan: Plan) -> list[Check]:
    return [each for group in (*plan.ready, *plan.waiting, *plan.refused) for each in group.checks]


def _live(before: Candidate) -> Live:
    description = before.description
    if description is None:
        return Live()
    accepts = frozenset(t for t in description.handles if is_authors(t))
    tables = {name: _in_service(table) for name, table in description.tables.items()}
    return Live(accepts, frozenset(description.migrations), description, tables)


def _in_service(table: TableDescription) -> TableInService:
    """A Table as the release before would have it, all of its records of its own version."""
    return TableInService(
        table.version,
        frozenset({table.version}),
        frozenset(table.migrations),
        table.key_schema,
        table.record_schema,
    )


def _module_of(each: Check) -> str:
    """The module that a check is about; of an edge, the one that sends."""
    return each.what.partition(": ")[0].partition(" → ")[0]


def _verdict(each: Check) -> bool | None:
    """A check that fails fails; one that holds may only be said."""
    return False if not each.ok else None if is_remark(each) else True


class _Trials:
    """Runs the trials of a working copy, as many at once as there are processors."""

    def __init__(self, copy: WorkingCopy, limits: TrialSection, state: State | None) -> None:
        self._copy = copy
        self._limits = limits
        self._state = state
        self._places = asyncio.Semaphore(os.cpu_count() or 1)

    async def of(self, name: str) -> list[Finding]:
        """What the trials of one module find: a first start, and a start on the state of the release before."""
        candidate = self._copy.candidates[name]
        if candidate.problem is not None or candidate.folder is None:
            return []  # its check says what is wrong
        async with self._places:
            first = await self._first_start(name, candidate)
            later = await self._on_a_state(name, candidate) if first.ok else None
            return [first, *_steps(name, candidate), *([later] if later is not None else [])]

    def _source(self, candidate: Candidate) -> StagedSource:
        """Raises VoteRefused if the config names what is not here."""
        assert candidate.folder is not None  # noqa: S101  # it was staged
        config = resolve_config(candidate.wish.config)
        return StagedSource(candidate.folder, candidate.entry(), candidate.manifest, config, self._limits)

    async def _first_start(self, name: str, candidate: Candidate) -> Finding:
        what = f"{name}: first start"
        try:
            source = self._source(candidate)
        except UpgradeError as error:
            return Finding(name, None, what, f"not checked: {str(error).partition('. ')[0]}")
        try:
            report = await source.try_out(None, {})
        except TrialFailed as error:
            return Finding(name, False if error.fault == "release" else None, what, str(error))
        return Finding(name, True, what, f"passed its trial in {sum(report.seconds.values()):.2f} s")

    async def _on_a_state(self, name: str, candidate: Candidate) -> Finding | None:
        """On the state that was given, else on the first state of the release before; None if there is none."""
        given = self._state if self._state is not None and self._state.module == name else None
        start = given or await self._first_of_the_one_before(name, candidate)
        if start is None:
            return None
        what = f"{name}: on the state of {start.whose}"
        missing = _no_way(candidate, start)
        if missing:  # of the release before, the check of the steps has said it
            return Finding(name, False, what, missing) if given else None
        try:
            report = await self._source(candidate).try_out(
                StateCopy(start.version, start.data), {}, start.tables
            )
        except TrialFailed as error:
            return Finding(name, False if error.fault == "release" else None, what, str(error))
        except ModuleError as error:
            return Finding(name, False, what, str(error))
        return Finding(name, True, what, _migrated(candidate, start, report))

    async def _first_of_the_one_before(self, name: str, candidate: Candidate) -> State | None:
        before = self._copy.before.get(name)
        if before is None or before.folder is None or before.description is None:
            return None
        release, old = candidate.release, before.release
        if release is not None and old is not None and release.tree_id == old.tree_id:
            return None
        version = before.description.state_version
        if candidate.description is not None and version > candidate.description.state_version:
            return None  # a way back: its steps are in the release before
        try:
            report = await self._source(before).try_out(None, {})
        except UpgradeError:
            return None  # the release before cannot start here, which is not this one's fault
        if report.first_state is None:
            return None
        whose = f"{before.wish.package} {before.entry().version}"
        return State(name, version, report.first_state, whose=whose)


def _no_way(candidate: Candidate, start: State) -> str:
    """Which steps from this state and its records are missing; empty if none is."""
    description = candidate.description
    if description is None:
        return ""
    try:
        find_path(description.migrations, start.version, description.state_version)
    except MigrationMissing as error:
        return str(error)
    versions = {
        name: frozenset(i.version for i in start.tables if i.name == name)
        for name in {i.name for i in start.tables}
    }
    tables = {i.name: TableInService(i.version, versions[i.name]) for i in reversed(start.tables)}
    found = TableChecks(candidate.wish.name, description, tables, one_way=True).found()
    return next((each.why for each in found if each.bad), "")


def _migrated(candidate: Candidate, start: State, report: TrialReport) -> str:
    version = start.version
    now = candidate.description.state_version if candidate.description is not None else version
    took = f"migrated {version}→{now} in {(report.migration_s or 0) * 1e6:.0f} µs"
    if now == version:
        took = "it is taken as it is" if report.lost is None else "its records are migrated"
    if report.lost is None:
        return took if now == version else f"{took}; there is no way back"
    return f"{took}; the way back loses {', '.join(report.lost) or 'nothing'}"


def _steps(name: str, candidate: Candidate) -> Iterator[Finding]:
    """Whether the steps lead from state version 1 to the one it has, and back (P3)."""
    description = candidate.description
    if description is None or description.state_version == 1:
        return
    end, cls = description.state_version, description.entry.rpartition(":")[2]
    ways = [("state", 1, end)] if candidate.manifest.one_way else [("state", 1, end), ("way back", end, 1)]
    for way, start, stop in ways:
        what = f"{name}: {way} {start}→{stop}"
        try:
            path = find_path(description.migrations, start, stop)
        except MigrationMissing as error:
            yield Finding(name, False, what, str(error).replace("@YourModule.", f"@{cls}."))
            continue
        yield Finding(name, True, what, f"steps {'→'.join(map(str, path))}")
