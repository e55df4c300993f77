"""A participant's rehearsal: its release tried on copies of what is live, up or down, before anything is touched (DESIGN §7.2).

A way down begins in the release that leaves, as only that has the steps: a child of its own takes the copies down, and the
release that comes is tried on what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import msgspec

from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.table_image import TableImage, records_of
from orchestrator.runtime.table_types import shown
from orchestrator.upgrade import words
from orchestrator.upgrade.copies import Copies, copied
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.incoming import Incoming, KeptState, StateCopy
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.trial import TrialReport


@runtime_checkable
class LeavingSource(Protocol):
    """The release that would leave, as a child can run its steps down."""

    async def go_back(
        self,
        state: StateCopy,
        version: int,
        tables: Sequence[TableImage] = (),
        table_versions: Mapping[str, int] | None = None,
    ) -> TrialReport:
        """Run its steps down, and nothing else. Raises TrialFailed."""


Leaving = Callable[[], Awaitable[LeavingSource | None]]
"""Brings the release that would leave to where a child can run it; None: its commit is not at hand any more."""


@dataclass(frozen=True, slots=True)
class WayDown:
    """What a release that comes needs of the one that leaves; `tables`: the versions that it has of Tables that go down."""

    leaving: Leaving
    tables: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was found. `on`: what of the live module it was tried on, as a phrase; empty: on nothing of it.

    `predicted_s`: what its migration of all the state would take in the switch, None: there is none, or it was not tried.
    `down`: state or records go down, and `lost` is what that loses; else `lost` is what the way back would lose.
    """

    report: TrialReport
    on: str = ""
    predicted_s: float | None = None
    lost: tuple[str, ...] | None = None
    down: bool = False

    @property
    def seconds(self) -> float:
        """How long the trial took."""
        return sum(self.report.seconds.values())


async def rehearse(
    proxy: ModuleProxy,
    after: Entry,
    incoming: Incoming,
    old: Implementation | None,
    kept: KeptState | None,
    *,
    way_down: WayDown | None = None,
) -> Rehearsed | None:
    """Try the release out; None if its source has no trial. Raises TrialFailed, StateInvalid, QuiesceTimeout."""
    if not incoming.tried:
        return None
    copies = await copied(proxy, old, kept, incoming.limits.drain_s)
    goes_down = old is not None and _goes_down(after, old, way_down)
    went_down: TrialReport | None = None
    if old is not None and goes_down:
        copies, went_down = await _taken_down(copies, after, old, way_down)
    report = await incoming.source.try_out(copies.state, proxy.resources.keys(), copies.tables)
    if report is None:
        return None
    if old is not None and not goes_down:
        await _fits_below(report, after, old)
    took = [each.migration_s for each in (went_down, report) if each is not None]
    measured = [seconds for seconds in took if seconds is not None]
    predicted_s = sum(measured) * copies.times if measured else None
    judge = went_down if goes_down else report
    return Rehearsed(report, copies.said, predicted_s, judge.lost if judge is not None else None, goes_down)


def _goes_down(after: Entry, old: Implementation, way_down: WayDown | None) -> bool:
    tables = way_down is not None and bool(way_down.tables)
    return tables or old.blueprint.state_version > after.state_version


async def _taken_down(
    copies: Copies, after: Entry, old: Implementation, way_down: WayDown | None
) -> tuple[Copies, TrialReport | None]:
    """What the steps of the release that leaves make of the copies, in a child of its own. Raises TrialFailed.

    If it is not at hand, the one that comes is tried as at a first start, where its state would have to go down.
    """
    state = copies.state
    source = await way_down.leaving() if way_down is not None else None
    if source is None or way_down is None or state is None:
        return (Copies() if old.blueprint.state_version > after.state_version else copies), None
    target = _lowest(old.blueprint.steps, state.version, after.state_version)
    try:
        found = await source.go_back(state, target, copies.tables, way_down.tables)
    except TrialFailed as error:
        what = f"{old.name} cannot go from {old.version} to {after.version}: {error.message}"
        raise TrialFailed(error.step, what, error.fault) from error
    data = found.went_down if found.went_down is not None else state.data
    lower = StateCopy(target, data, cut=state.cut, left_by=f"{old.name} {old.version}")
    tables = found.tables_down if way_down.tables else copies.tables
    return replace(copies, state=lower, tables=tables), found


async def _fits_below(report: TrialReport, after: Entry, old: Implementation) -> None:
    """See that the version in service takes what the steps down of the one that comes leave: else there is no way back.

    Only the host has the older types, and only what is small, or a sample, was brought from the child. Raises TrialFailed.
    """
    if report.went_down is None and not report.tables_down:
        return
    wrong = await in_own_thread(_misfit_below, report, old)
    if wrong:
        raise TrialFailed(
            "way_back",
            f"the way back, tried on a copy, leads to what {old.name} {old.version} cannot take: {wrong}. Correct the step "
            f"down of {after.version}, or say one_way = true in its module.toml",
        )


def _misfit_below(report: TrialReport, old: Implementation) -> str:
    """What does not fit the version in service of what came down; empty if all does."""
    if report.went_down is not None:
        try:
            old.blueprint.codec.decode(report.went_down)
        except StateInvalid as error:
            return f"the state: {error.__cause__}"
    for image in report.tables_down:
        type_ = old.blueprint.tables.get(image.name)
        if type_ is not None and type_.version == image.version:
            for key, data in records_of(image):
                try:
                    type_.decode(data)
                except msgspec.MsgspecError as error:
                    return f"Table {image.name}, key {shown(key)}: {error}"
    return ""


def _lowest(steps: Collection[tuple[int, int]], start: int, end: int) -> int:
    """How far down towards `end` these steps lead; the release that comes may have the others."""
    reached, todo = {start}, [start]
    while todo:
        version = todo.pop()
        further = {b for a, b in steps if a == version and end <= b < start} - reached
        reached |= further
        todo += further
    return min(reached)


def said_of(found: Iterable[tuple[Change, Rehearsed]]) -> Iterator[str]:
    """What each module was tried on, and what the way back would lose, or what going back loses, as phrases."""
    for change, each in found:
        if each.on:
            yield f"{change.name}: tried on {each.on}"
        if each.down:
            yield words.going_down(change, each.lost)
        elif each.lost is not None and change.before is not None:
            yield words.way_back(change, each.lost)
