"""Looking ahead without touching anything: a plan over a store and a stage of its own, and its trials (DESIGN §7.1, §7.2).

What is staged for a plan lies in a folder that is removed again; the objects of a clone are read where they lie.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import ModuleError
from orchestrator.runtime.give_way import giving_way
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.copies import table_sample
from orchestrator.upgrade.errors import TrialFailed, UpgradeError
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.planner import Outlook, Planner
from orchestrator.upgrade.preview import Forecast, Seen, TrialState, Tried, foresee, groups_of
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.rewired import only_rewired
from orchestrator.upgrade.source import StagedSource, incoming_release, resolve_config
from repo_store.errors import StoreError
from repo_store.manifest import TrialSection
from repo_store.overlay import make_overlay, tags_of
from repo_store.release import RefMap


@asynccontextmanager
async def looking_ahead(repository: Repository, clone: Path | None = None) -> AsyncIterator[Repository]:
    """A repository that stages into a folder of its own, gone at the end; it also sees the objects of `clone`.

    `clone` is a Git directory. Raises StoreError.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="livetag-plan-"))
    try:
        store = None
        if clone is not None:
            store = folder / "store.git"
            await asyncio.to_thread(make_overlay, store, repository.store_path, clone)
        ahead = repository.ahead(folder / "stage", store)
        await ahead.open()
        try:
            yield ahead
        finally:
            await ahead.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def refs_with(refs: RefMap, ahead: Repository, clone: Path, tags: Sequence[str]) -> RefMap:
    """The refs as they would be if these tags were pushed from the clone. Raises StoreError if it lacks one."""
    there = await asyncio.to_thread(tags_of, clone)
    for tag in tags:
        if tag not in there:
            raise StoreError(f"{clone} has no tag {tag}. Tag a commit there first: git tag {tag}.")
    return {**refs, **await ahead.refs_after({tag: there[tag] for tag in tags})}


class Foresight:
    """Makes plans to be shown, for one application."""

    def __init__(
        self, app: Application, planner: Planner, kept: Mapping[str, KeptState], limits: TrialSection
    ) -> None:
        self._app = app
        self._planner = planner
        self._kept = kept
        self._limits = limits

    async def look(
        self,
        ahead: Repository,
        refs: RefMap,
        ledger: Ledger,
        tags: Collection[str] = (),
        *,
        trial: bool = True,
        by_hand: bool = False,
    ) -> tuple[Outlook, list[Forecast]]:
        """What would be done for these refs, and for `tags` in detail; with `trial`, what can go is tried out.

        `by_hand`: the tags are one transaction, and go through a hold.

        Nothing in service, no ref, no record and no stage is changed. Raises StoreError.
        """
        async with giving_way():
            together, held = ([frozenset(tags)], tags) if by_hand else ((), ())
            outlook = await self._planner.over(ahead).look(refs, ledger, together, held)
            found = []
            for kind, number, group in groups_of(outlook.plan, tags):
                tried = (
                    await self._tried(group, outlook, ahead, ledger)
                    if trial and kind in {"ready", "held"}
                    else {}
                )
                kept = {name: state.state_version for name, state in self._kept.items()}
                seen = Seen(outlook.candidates, ledger, outlook.live, kept, tried)
                found.append(foresee(kind, number, group, seen))
        return outlook, found

    async def _tried(
        self, group: Group, outlook: Outlook, ahead: Repository, ledger: Ledger
    ) -> dict[str, Tried]:
        """What the trials of a group found, as many at once as there are processors."""
        places = asyncio.Semaphore(os.cpu_count() or 1)

        async def one(change: Change, candidate: Candidate) -> Tried:
            async with places:
                tried = await self._try_out(change, candidate)
                if tried.problem is not None or change.name not in ledger.table:
                    return tried
                tables = self._tables_going_down(change, candidate)
                if tried.on != "leaving" and not tables:
                    return tried
                return await self._going_back(tried, change, ledger.table[change.name], ahead, tables)

        wanted = {
            c.name: one(c, candidate)
            for c in group.changes
            if c.after is not None and (candidate := outlook.candidates.get(c.name)) is not None
            if candidate.folder is not None and not only_rewired(self._app, c)
        }
        return dict(zip(wanted, await asyncio.gather(*wanted.values()), strict=True))

    async def _try_out(self, change: Change, candidate: Candidate) -> Tried:
        after, folder = change.after, candidate.folder
        assert after is not None and folder is not None  # noqa: S101, PT018  # the caller looked
        try:
            incoming = incoming_release(folder, after, candidate.manifest, self._limits)
            self._app.secrets.learn(after.config, incoming.config)
            participant = Participant(self._app, change, incoming, self._kept.get(change.name))
            report = await participant.try_out()
        except TrialFailed as error:
            return Tried(problem=Problem(str(error), error.fault))
        except (UpgradeError, ModuleError) as error:
            return Tried(problem=Problem(f"{change.name} {after.version}: {error}", "release"))
        if report is None:
            return Tried()
        return Tried(
            self._state_for(participant, after), sum(report.seconds.values()), report.migration_s, report.lost
        )

    def _tables_going_down(self, change: Change, candidate: Candidate) -> dict[str, int]:
        """The Tables of which the release has an older version than the one in service, with that version."""
        declared = candidate.description.tables if candidate.description is not None else {}
        live = self._app.modules[change.name].tables.live if change.name in self._app.modules else {}
        return {
            name: table.version
            for name, table in declared.items()
            if name in live and table.version < live[name].version
        }

    async def _going_back(
        self, tried: Tried, change: Change, live: Entry, ahead: Repository, tables: Mapping[str, int]
    ) -> Tried:
        """What the steps down find, which are in the version that would leave: it is staged and tried for them."""
        after, old = change.after, self._app.modules[change.name].implementation
        if after is None or old is None:
            return tried
        try:
            folder, manifest = await ahead.staged(live)
            source = StagedSource(folder, live, manifest, resolve_config(live.config), self._limits)
            state = old.blueprint.state_version, PLAIN_STATE.encode(old.state)
            records = table_sample(self._app.modules[change.name].tables, None) if tables else ()
            down = min(after.state_version, state[0])  # a Table may go down where the state goes up
            report = await source.go_back(state, down, records, tables)
        except (UpgradeError, ModuleError) as error:
            return replace(tried, problem=Problem(str(error), "release"))
        except StoreError:  # its commit is gone from the repository: nothing is measured, and that is said
            return replace(tried, down=True)
        took = report.migration_s if tried.on == "leaving" else tried.migration_s
        return replace(tried, migration_s=took, lost=report.lost, down=True)

    def _state_for(self, participant: Participant, after: Entry) -> TrialState:
        """On which state a trial of this participant runs."""
        old = participant.old
        if old is not None:
            return "leaving" if old.blueprint.state_version > after.state_version else "live"
        return "live" if participant.name in self._kept else "first"
