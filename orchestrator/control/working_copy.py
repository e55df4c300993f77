"""A working copy and the releases before it, staged and described as a host would, in a folder that is thrown away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runtime.own_work import in_own_thread
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.desired import Wish, desired, wishes
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.trial import describe
from repo_store.errors import ReleaseInvalid
from repo_store.manifest import AppManifest, TrialSection
from repo_store.release import APP, RefMap, Tag, TagRef, is_package_name, next_free_tag
from repo_store.store import RepoStore
from repo_store.tree import TREE
from repo_store.worktree import Snapshot, snapshot


@dataclass(frozen=True, slots=True)
class Content:
    """What a commit of the working copy has: packages, folders in modules/ that can be none, and the tags so far."""

    packages: tuple[str, ...]
    odd: tuple[str, ...]
    has_app: bool
    released: Mapping[str, TagRef]  # package → its highest tag that is no pre-release
    wanted: Mapping[str, TagRef]  # package (and `app`) → the tag that it would get, or has if nothing changed
    before: Mapping[
        str, TagRef
    ]  # package → the highest tag with other code: what this code comes after, tagged or not


@dataclass(frozen=True, slots=True)
class WorkingCopy:
    """The working copy as candidates for one release table, each with the release before it, if there is one."""

    top: Path
    content: Content
    app_problem: str | None
    candidates: Mapping[str, Candidate]
    before: Mapping[str, Candidate]


@asynccontextmanager
async def opened(path: Path, limits: TrialSection) -> AsyncIterator[WorkingCopy]:
    """Stage the working copy at `path` and its earlier releases; the folders are gone at the end.

    Raises StoreError.
    """
    folder = Path(tempfile.mkdtemp(prefix="livetag-check-"))
    try:
        taken = await in_own_thread(snapshot, path, folder)
        content, refs = await in_own_thread(content_of, taken)
        repository = Repository(
            taken.store,
            folder / "stage",
            lambda at, package, manifest: describe(at, package, manifest, limits),
        )
        await repository.open()
        try:
            yield await _staged(repository, taken, content, refs)
        finally:
            await repository.close()
    finally:
        await in_own_thread(shutil.rmtree, folder, True)


def content_of(taken: Snapshot) -> tuple[Content, RefMap]:
    """What there is, with the refs as they would be if all of it were tagged now."""
    with RepoStore.open(taken.store) as store:
        refs = dict(store.refs_after(taken.tags))
        folder = store.tree_id(taken.commit_id, "modules")
        rows = [] if folder is None else store.entries(folder)
        names = [row.name.decode("utf-8", "replace") for row in rows if row.mode == TREE]
        packages = [name for name in names if is_package_name(name)]
        released = desired(refs, (), prereleases=False)
        wanted = {each: _wanted(store, taken.commit_id, each, refs, released.get(each)) for each in packages}
        earlier = {each: _comes_after(store, taken.commit_id, each, refs) for each in packages}
        has_app = store.entry(taken.commit_id, "app.toml") is not None
        if has_app:
            wanted[APP] = _as(next_free_tag(APP, refs), taken.commit_id)
    refs.update({ref.tag.name: ref for ref in wanted.values()})
    odd = tuple(sorted(set(names) - set(packages)))
    before = {each: ref for each, ref in {**released, **earlier}.items() if ref is not None}
    return Content(tuple(packages), odd, has_app, released, wanted, before), refs


def _wanted(store: RepoStore, commit_id: str, package: str, refs: RefMap, before: TagRef | None) -> TagRef:
    """The tag that the package has if nothing changed since, else the next one that is free."""
    if before is not None and _same_code(store, commit_id, before):
        return before
    return _as(next_free_tag(package, refs), commit_id)


def _comes_after(store: RepoStore, commit_id: str, package: str, refs: RefMap) -> TagRef | None:
    """The highest release of a package with other code: a tag on this very code is no release to compare it with."""
    releases = [r for r in refs.values() if r.tag.package == package and not r.tag.version.is_prerelease]
    downwards = sorted(releases, key=lambda ref: ref.tag.version, reverse=True)
    return next((ref for ref in downwards if not _same_code(store, commit_id, ref)), None)


def _same_code(store: RepoStore, commit_id: str, ref: TagRef) -> bool:
    """Whether a commit has the code of a release."""
    package = ref.tag.package
    try:
        return ref.commit_id is not None and store.release_identity(
            commit_id, package
        ) == store.release_identity(ref.commit_id, package)
    except ReleaseInvalid:  # its check says what is wrong
        return False


def _as(tag: Tag, commit_id: str) -> TagRef:
    return TagRef(tag, commit_id, commit_id)


async def _staged(repository: Repository, taken: Snapshot, content: Content, refs: RefMap) -> WorkingCopy:
    app, problem = await _composition(repository, content)
    tags = {**content.released, **content.wanted}
    found = wishes(tags if app is not None else content.wanted, app)
    made_from = {wish.package for wish in found.values()}
    alone = {
        each: Wish(each, each, content.wanted[each]) for each in content.packages if each not in made_from
    }
    wanted = {**found, **alone}
    candidates = await repository.candidates(wanted.values(), refs, {})
    earlier = [
        Wish(wish.name, wish.package, before, wish.config, wish.also, wish.enabled)
        for wish in wanted.values()
        if (before := content.before.get(wish.package)) is not None
    ]
    last = await repository.candidates(earlier, refs, {})
    return WorkingCopy(taken.top, content, problem, candidates, last)


async def _composition(repository: Repository, content: Content) -> tuple[AppManifest | None, str | None]:
    if not content.has_app:
        return None, None
    try:
        return await repository.app(content.wanted[APP]), None
    except ReleaseInvalid as error:
        return None, str(error)


def made_from(copy: WorkingCopy, names: Collection[str]) -> list[str]:
    """The modules that bear one of these names or are made from such a package; all if none is named."""
    return [name for name, c in copy.candidates.items() if not names or {name, c.wish.package} & set(names)]
