"""The version repository as the upgrader sees it: store, stage and history, all on one thread of their own.

GitPython is not safe to share between threads (DESIGN §8), and no Git command may run on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from loguru import logger

from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.desired import Wish
from orchestrator.upgrade.emits import completed, declared
from orchestrator.upgrade.ledger import TagPin
from orchestrator.upgrade.records import Entry
from repo_store.errors import GitFailed, ReleaseInvalid, StoreError
from repo_store.history import DeploymentEntry, History
from repo_store.manifest import AppManifest, ModuleManifest
from repo_store.policy_files import Policy
from repo_store.refs import RefChange
from repo_store.release import RefMap, Release, Tag, TagRef, version_at
from repo_store.staging import Stage, StagedRelease
from repo_store.stamp import Stamp
from repo_store.starting import through_gitpython
from repo_store.store import RepoStore
from repo_store.verify import Order, verify_tag

T = TypeVar("T")
Describe = Callable[[Path, str, ModuleManifest], bytes]
Pins = Callable[[], Mapping[str, TagPin]]
_DESCRIPTION = msgspec.json.Decoder(Description)
"""Where each tag was last seen to point, as the journal says."""


class Repository:
    """Asks Git and the stage, one question at a time. Every method may raise StoreError."""

    def __init__(self, store: Path, stage: Path, describe: Describe, pins: Pins = dict) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="livetag-git")
        self._store_path = store
        self.stage_folder = stage
        self._describe = describe
        self._pins = pins

    async def open(self) -> None:
        """Open the store on its thread. Raises StoreError."""

        def open_store() -> tuple[RepoStore, Stage]:
            store = RepoStore.open(self._store_path, start=through_gitpython)
            return store, Stage(self.stage_folder, store, self._describe)

        self._store, self._stage = await self._run(open_store)

    def ahead(self, stage: Path, store: Path | None = None) -> Repository:
        """Another one, still to be opened, that stages elsewhere and may read a store that sees more."""
        return Repository(store or self._store_path, stage, self._describe, self._pins)

    @property
    def store_path(self) -> Path:
        return self._store_path

    async def close(self) -> None:
        await self._run(self._store.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def refs(self) -> RefMap:
        """Every tag inside the grammar and where it points now; a damaged one counts as it was last seen."""
        pins = self._pins()
        return await self._run(lambda: _as_pinned(self._store.refs(), pins))

    async def stamp(self) -> Stamp:
        """A cheap sign of the tags, to be given to `is_unmoved`."""
        return await self._run(self._store.stamp)

    async def is_unmoved(self, stamp: Stamp) -> bool:
        """Whether nobody has touched a tag since the stamp was taken."""
        return await self._run(lambda: self._store.is_unmoved(stamp))

    async def refs_after(self, changes: Mapping[str, str | None]) -> RefMap:
        """The refs as they would be with these tags moved; nothing is moved."""
        pins = self._pins()
        return await self._run(lambda: _as_pinned(self._store.refs_after(changes), pins))

    async def verify(self, ref: TagRef, packages: Collection[str], policy: Policy) -> Order:
        """Whether a tag is the order of somebody who may release the packages. Raises TagRefused."""
        return await self._run(
            lambda: verify_tag(self._store.door, ref.tag.name, ref.object_id, packages, policy)
        )

    async def app(self, ref: TagRef) -> AppManifest:
        """The composition that an `app/` tag releases."""
        return await self._run(lambda: self._store.app_manifest(ref.commit_id or ""))

    async def candidates(
        self, wishes: Iterable[Wish], refs: RefMap, table: Mapping[str, Entry]
    ) -> dict[str, Candidate]:
        """Wishes with their releases, staged unless they are in service already; never raises for a bad release."""
        found = {}
        for wish in wishes:
            work = partial(self._candidate, wish, refs, table.get(wish.name))
            found[wish.name] = await self._run(work)  # one at a time: other questions come between
        return found

    def _candidate(self, wish: Wish, refs: RefMap, live: Entry | None) -> Candidate:
        release = _served(wish, refs, live)
        try:
            release = release or self._store.release(wish.ref, refs, wish.package)
            if live is not None and _loaded(live, wish, release):
                return Candidate(wish, release)
            staged = self._stage.stage(release)
        except ReleaseInvalid as error:
            return Candidate(wish, release, problem=Problem(str(error), "release"))
        except GitFailed as error:  # no blame, and no use in trying: it waits for the repository to be mended
            said = str(error).strip().rstrip(".")
            why = f"{wish.ref.tag.name} cannot be read from the repository: {said}; livetag doctor says what to do"
            return Candidate(wish, release, problem=Problem(why, "moment", waits=True))
        except (StoreError, OSError) as error:
            return Candidate(wish, release, problem=Problem(str(error), "moment"))
        return Candidate(wish, release, staged.manifest, described(staged), staged.path)

    async def staged(self, entry: Entry) -> tuple[Path, ModuleManifest]:
        """The stage folder of a release in the table, staged again from its commit if it is gone."""
        release = Release(
            entry.package, entry.version, entry.tag, entry.commit_id, entry.tree_id, entry.tag_object_id
        )
        staged = await self._run(lambda: self._stage.stage(release))
        return staged.path, staged.manifest

    async def description(self, entry: Entry) -> Description:
        """What a release in the table handles and says. Raises StoreError, OSError if it cannot be staged."""
        release = Release(
            entry.package, entry.version, entry.tag, entry.commit_id, entry.tree_id, entry.tag_object_id
        )
        return described(await self._run(lambda: self._stage.stage(release)))

    async def keep(self, commit_ids: Collection[str]) -> None:
        """Hold commits against `git gc`, before a plan that needs them is journaled (DESIGN §4)."""
        await self._run(lambda: self._store.keep(*commit_ids))

    async def record_history(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> None:
        """Bring `deployments` and `refs/live/*` up to what the journal says."""
        await self._run(lambda: History(self._store).record(entries, live))

    async def write_tags(
        self, tags: Mapping[Tag, str], message: str, who: str, signed: Mapping[Tag, bytes]
    ) -> dict[Tag, TagRef]:
        """Write annotated tags (tag → commit id), all or none. Raises RefChanged if one exists.

        `signed` has the content of those that a person signed.
        """

        def write() -> dict[Tag, TagRef]:
            written = {
                tag: self._store.write_tag(signed[tag])
                if tag in signed
                else self._store.annotate(tag, commit, message, who)
                for tag, commit in tags.items()
            }
            self._store.update_refs(
                [RefChange(tag.ref, new, None) for tag, new in written.items()], "rollback"
            )
            return {tag: TagRef(tag, written[tag], commit) for tag, commit in tags.items()}

        return await self._run(write)

    async def let_go(self, needed: Collection[str]) -> None:
        """Hold no commit against `git gc` any more but those that are needed."""
        try:
            await self._run(lambda: self._store.unkeep(self._store.kept() - set(needed)))
        except StoreError as error:
            logger.warning("commits that are needed no more are still held: {}; they are let go later", error)

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove leftovers and trees that no release needs any more from the stage."""
        try:
            await self._run(lambda: self._stage.sweep(keep))
        except (StoreError, OSError) as error:
            logger.warning("the stage could not be swept: {}; it is tried at the next start", error)


def _as_pinned(refs: RefMap, pins: Mapping[str, TagPin]) -> RefMap:
    """A tag that is lost was not moved by anybody: it counts as it was last seen, and the one below it is not wished for."""
    lost = {name: pins[name] for name, ref in refs.items() if ref.lost and name in pins}
    if not lost:
        return refs
    seen = {
        name: replace(refs[name], object_id=pin.object_id, commit_id=pin.commit_id)
        for name, pin in lost.items()
        if pin.commit_id is not None
    }
    return {**refs, **seen}


def _served(wish: Wish, refs: RefMap, live: Entry | None) -> Release | None:
    """The release in service, if that is what is wished for: Git need not be asked for it, nor have it any more."""
    if live is None or (live.package, live.commit_id) != (wish.package, wish.commit_id):
        return None
    version = version_at(wish.package, wish.commit_id, refs) or wish.ref.tag.version
    return Release(
        wish.package, str(version), wish.ref.tag.name, wish.commit_id, live.tree_id, wish.ref.object_id
    )


def _loaded(live: Entry, wish: Wish, release: Release) -> bool:
    """No code would be loaded, so nothing has to be staged: at most its names change, or whether it is in service."""
    return (live.tree_id, live.package, live.config) == (release.tree_id, wish.package, dict(wish.config))


def described(staged: StagedRelease) -> Description:
    """What the child found in the code, completed by `[emits]` of module.toml."""
    found = _DESCRIPTION.decode(staged.description)
    return msgspec.structs.replace(found, emits=completed(found.emits, declared(staged.manifest.emits)))
