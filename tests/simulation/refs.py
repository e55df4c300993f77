"""The repository of a world: commits and tags in memory, behind the real `Repository`, slow and unreliable as drawn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.upgrade.repository import Repository
from repo_store.errors import ReleaseInvalid, StoreError
from repo_store.history import DeploymentEntry
from repo_store.manifest import AppManifest
from repo_store.refs import RefChange
from repo_store.release import APP, RefMap, Release, Tag, TagRef, parse_tag, version_at
from repo_store.staging import StagedRelease
from repo_store.stamp import Stamp
from tests.simulation.modules import Spec, description

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit holds: packages, each with its tree id, and a composition (None: no app.toml; "": a wrong one)."""

    id: str
    packages: Mapping[str, str] = field(default_factory=dict)
    app: AppManifest | str | None = None


class Origin:
    """Commits, trees and tags: what outlives every crash."""

    def __init__(self) -> None:
        self.commits: dict[str, Commit] = {}
        self.trees: dict[str, Spec] = {}
        self.tags: dict[str, TagRef] = {}
        self.kept: set[str] = set()
        self.history: tuple[tuple[DeploymentEntry, ...], Mapping[str, str]] = ((), {})
        self._objects = 0

    def commit(
        self,
        packages: Mapping[str, Spec],
        app: AppManifest | str | None = None,
        shared: Mapping[str, str] = {},
    ) -> Commit:
        """A new commit of these packages; `shared`: packages with a tree that was there before."""
        trees = dict(shared)
        for name, spec in packages.items():
            trees[name] = f"{len(self.trees) + 1:040x}"
            self.trees[trees[name]] = spec
        made = Commit(f"{len(self.commits) + 1:040x}", trees, app)
        self.commits[made.id] = made
        return made

    def tag(self, name: str, commit_id: str) -> None:
        """Make or move a tag."""
        tag = parse_tag(name)
        assert tag is not None
        self._objects += 1
        self.tags[name] = TagRef(tag, f"a{self._objects:039x}", commit_id)


class _Store:
    """What `Repository` asks of a RepoStore."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._annotated: dict[str, str] = {}

    def refs(self) -> RefMap:
        return dict(self._origin.tags)

    def stamp(self) -> Stamp:
        rows = frozenset((name, 0, int(ref.object_id, 16), 0) for name, ref in self._origin.tags.items())
        return Stamp(rows | {("packed-refs", 0, 0, 0)}, taken_s=60.0)

    def is_unmoved(self, stamp: Stamp) -> bool:
        return self.stamp() == stamp

    def app_manifest(self, commit_id: str) -> AppManifest:
        app = self._origin.commits[commit_id].app
        if not isinstance(app, AppManifest):
            raise ReleaseInvalid(f"commit {commit_id[-4:]} has no app.toml that could be read")
        return app

    def release(self, tag_ref: TagRef, refs: RefMap, package: str | None = None) -> Release:
        tag, commit_id = tag_ref.tag, tag_ref.commit_id or ""
        package = tag.package if package is None else package
        version = version_at(package, commit_id, refs) or tag.version
        tree = self._origin.commits[commit_id].packages.get(package)
        if tree is None:
            raise ReleaseInvalid(f"commit {commit_id[-4:]} has no folder modules/{package}/")
        return Release(package, str(version), tag.name, commit_id, tree, tag_ref.object_id)

    def annotate(self, tag: Tag, commit_id: str, _message: str, _who: str) -> str:
        object_id = f"b{len(self._annotated) + 1:039x}"
        self._annotated[object_id] = commit_id
        return object_id

    def update_refs(self, changes: Sequence[RefChange], _reason: str) -> None:
        for change in changes:
            name = change.ref.removeprefix("refs/tags/")
            if name in self._origin.tags:
                raise StoreError(f"{name} is there already")
        for change in changes:
            name, tag = change.ref.removeprefix("refs/tags/"), parse_tag(change.ref[len("refs/tags/") :])
            assert tag is not None
            assert change.new is not None
            self._origin.tags[name] = TagRef(tag, change.new, self._annotated[change.new])

    def keep(self, *commit_ids: str) -> None:
        self._origin.kept.update(commit_ids)

    def kept(self) -> set[str]:
        return set(self._origin.kept)

    def unkeep(self, commit_ids: Iterable[str]) -> None:
        self._origin.kept -= set(commit_ids)


class _Stage:
    """What `Repository` asks of a Stage."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def stage(self, release: Release) -> StagedRelease:
        spec = self._origin.trees[release.tree_id]
        if spec.fault == "stage":
            raise ReleaseInvalid(f"{release.tag}: its __init__.py does not compile")
        return StagedRelease(release, Path("/") / release.tree_id, spec.manifest, description(spec.shape))

    def sweep(self, _keep: Collection[str]) -> None:
        """Nothing is on a disk."""


class VirtualRepository(Repository):
    """The real one, over an origin in memory; `failing` counts questions that will go wrong."""

    def __init__(self, origin: Origin, rng: random.Random) -> None:
        super().__init__(Path("/store"), Path("/stage"), lambda *_: b"")
        self._thread.shutdown()
        self.origin = origin
        self._rng = rng
        self._store: Any = _Store(origin)
        self._stage: Any = _Stage(origin)
        self.failing = 0
        self.history_failing = 0
        self.on_history: Callable[[Sequence[DeploymentEntry], Mapping[str, str]], None] = lambda _e, _l: None

    async def _run(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(self._rng.random() * 0.01)
        if self.failing:
            self.failing -= 1
            raise StoreError("the virtual repository cannot be read.")
        return work()

    async def record_history(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> None:
        self.on_history(entries, live)
        await asyncio.sleep(self._rng.random() * 0.01)
        if self.history_failing:
            self.history_failing -= 1
            raise StoreError("the virtual repository cannot be written.")
        self.origin.history = (tuple(entries), dict(live))


__all__ = ["APP", "Commit", "Origin", "VirtualRepository"]
