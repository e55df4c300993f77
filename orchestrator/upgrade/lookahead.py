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
from pathlib import Path

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import ModuleError, QuiesceTimeout
from orchestrator.runtime.give_way import giving_way
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.errors import TrialFailed, UpgradeError
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.leaving import way_down
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.planner import Outlook, Planner
from orchestrator.upgrade.preview import Forecast, Seen, Tried, foresee, groups_of
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.rewired import only_rewired
from orchestrator.upgrade.source import incoming_release
from repo_store.errors import StoreError
from repo_store.manifest import TrialSection
from repo_store.overlay import make_overlay, tags_of
from repo_store.release import RefMap


@asynccontextmanager
async def looking_ahead(repository: Repository, clone: Path | None = None) -> AsyncIterator[Repository]:
    """A repository that stages into a folder of its own, gone at the end; it also sees the objects of `clone`.

    `clone` is a Git directory. Raises StoreError.
    """
    folder = Path(await in_own_thread(tempfile.mkdtemp, None, "livetag-plan-"))
    try:
        store = None
        if clone is not None:
            store = folder / "store.git"
            await in_own_thread(make_overlay, store, repository.store_path, clone)
        ahead = repository.ahead(folder / "stage", store)
        await ahead.open()
        try:
            yield ahead
        finally:
            await ahead.close()
    finally:
        await in_own_thread(shutil.rmtree, folder, True)


async def refs_with(refs: RefMap, ahead: Repository, clone: Path, tags: Sequence[str]) -> RefMap:
    """The refs as they would be if these tags were pushed from the clone. Raises StoreError if it lacks one."""
    there = await in_own_thread(tags_of, clone)
    for tag in tags:
        if tag not in there:
            raise StoreError(f"{clone} has no tag {tag}. Tag a commit there first: git tag {tag}.")
    return {**refs, **await ahead.refs_after({tag: there[tag] for tag in tags})}


class Foresight:
    """Makes plans to be shown, for one application."""

    def __init__(
        self,
        app: Application,
        planner: Planner,
        kept: Mapping[str, KeptState],
        limits: TrialSection,
        *,
        shadows: bool = True,
    ) -> None:
        self._app = app
        self._planner = planner
        self._kept = kept
        self._limits = limits
        self._shadows = shadows

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
                    await self._tried(group, outlook, ahead) if trial and kind in {"ready", "held"} else {}
                )
                kept = {name: state.state_version for name, state in self._kept.items()}
                seen = Seen(outlook.candidates, ledger, outlook.live, kept, tried, shadows=self._shadows)
                found.append(foresee(kind, number, group, seen))
        return outlook, found

    async def _tried(self, group: Group, outlook: Outlook, ahead: Repository) -> dict[str, Tried]:
        """What the trials of a group found, as many at once as there are processors."""
        places = asyncio.Semaphore(os.cpu_count() or 1)

        async def one(change: Change, candidate: Candidate) -> Tried:
            async with places:
                return await self._try_out(change, candidate, ahead)

        wanted = {
            c.name: one(c, candidate)
            for c in group.changes
            if c.after is not None and (candidate := outlook.candidates.get(c.name)) is not None
            if candidate.folder is not None and not only_rewired(self._app, c)
        }
        return dict(zip(wanted, await asyncio.gather(*wanted.values()), strict=True))

    async def _try_out(self, change: Change, candidate: Candidate, ahead: Repository) -> Tried:
        after, folder = change.after, candidate.folder
        assert after is not None and folder is not None  # noqa: S101, PT018  # the caller looked
        try:
            incoming = incoming_release(folder, after, candidate.manifest, self._limits)
            self._app.secrets.learn(after.config, incoming.config)
            participant = Participant(self._app, change, incoming, self._kept.get(change.name))
            participant.way_down = way_down(
                self._app,
                ahead,
                change,
                candidate.description,
                trial=self._limits,
                bring=incoming_release,
            )
            found = await participant.try_out()
        except TrialFailed as error:
            return Tried(problem=Problem(str(error), error.fault))
        except QuiesceTimeout as error:
            return Tried(problem=Problem(f"{change.name} {after.version}: {error}", "moment"))
        except (UpgradeError, ModuleError) as error:
            return Tried(problem=Problem(f"{change.name} {after.version}: {error}", "release"))
        if found is None:
            return Tried()
        return Tried(found.on, found.seconds, found.predicted_s, found.lost, down=found.down)
