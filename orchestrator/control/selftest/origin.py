"""What is to be tested: the releases in service in a deployment, or those of a working copy. Nothing there is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.control.config import Deployment, load_config
from orchestrator.control.selftest.errors import SelftestImpossible
from orchestrator.control.working_copy import content_of
from orchestrator.upgrade.errors import IllegalTransition, UpgradeError
from orchestrator.upgrade.journal_file import read_records, reading
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.records import Entry
from repo_store.manifest import AppManifest, AppSection, HostConfig, ModuleSpec, parse_app
from repo_store.release import Version
from repo_store.store import RepoStore
from repo_store.worktree import snapshot


@dataclass(frozen=True, slots=True)
class Code:
    """A version of a package, and the commit that has it."""

    version: Version
    commit_id: str


@dataclass(frozen=True, slots=True)
class Package:
    """A package's release now, and the one before it where there is one with other code."""

    name: str
    now: Code
    before: Code | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Packages, composition and host settings to build a scratch deployment from; `objects` has the commits."""

    what: str
    objects: Path
    app: AppManifest
    packages: tuple[Package, ...]
    host: HostConfig

    def without_before(self) -> Origin:
        """The same, as if nothing had served before."""
        return replace(self, packages=tuple(replace(each, before=None) for each in self.packages))


def of_deployment(deployment: Deployment, config: Path | None) -> Origin:
    """What is in service there, read from its journal and its store; `config` is an app.toml in place of the composition.

    Raises SelftestImpossible; StoreError for a `config` that cannot be read.
    """
    ledger = _ledger(deployment)
    if not ledger.table:
        raise SelftestImpossible(
            f"Nothing is in service in {deployment.path}, so there is nothing to test. Push a release first, or test a "
            f"working copy with --repo CLONE."
        )
    modules = {
        e.name: ModuleSpec(package=e.package, enabled=e.enabled, also=e.also, config=dict(e.config))
        for e in ledger.table.values()
    }
    packages = {e.package: _package(e, ledger) for e in ledger.table.values()}
    app = AppManifest(app=AppSection(name="selftest"), modules=modules)
    origin = Origin(f"deployment {deployment.path}", deployment.store, app, (), load_config(deployment))
    return _composed(origin, packages, config)


def of_working_copy(path: Path, folder: Path, config: Path | None) -> Origin:
    """The files of a working copy as they are, uncommitted ones too, after the releases tagged before them.

    `folder` takes a repository with a commit of them. Raises StoreError, SelftestImpossible.
    """
    taken = snapshot(path, folder)
    content, _ = content_of(taken)
    with RepoStore.open(taken.store) as store:
        app = store.app_manifest(taken.commit_id) if content.has_app else None
    _name_the_commit(taken.store, taken.commit_id)
    packages = {}
    for name in content.packages:
        tag, earlier = content.wanted[name], content.before.get(name)
        before = None
        if earlier is not None and earlier.commit_id is not None and earlier.object_id != tag.object_id:
            before = Code(earlier.tag.version, earlier.commit_id)
        packages[name] = Package(name, Code(tag.tag.version, taken.commit_id), before)
    if app is None:
        app = AppManifest(modules={name: ModuleSpec() for name in packages})
    origin = Origin(f"working copy {taken.top}", taken.store, app, (), HostConfig())
    return _composed(origin, packages, config)


def _composed(origin: Origin, packages: Mapping[str, Package], config: Path | None) -> Origin:
    """With the packages that the composition is made from; `config` takes its place."""
    if config is not None:
        origin = replace(origin, app=parse_app(config.read_bytes(), str(config)))
    wanted = {spec.package or name for name, spec in origin.app.modules.items()}
    missing = sorted(wanted - packages.keys())
    if missing:
        raise SelftestImpossible(
            f"{config or origin.what} names {', '.join(missing)}, of which there is no release in {origin.what}. "
            f"It has: {', '.join(sorted(packages)) or 'nothing'}."
        )
    if not wanted:
        raise SelftestImpossible(f"{config or origin.what} makes up no module, so there is nothing to test.")
    return replace(origin, packages=tuple(packages[name] for name in sorted(wanted)))


def _package(entry: Entry, ledger: Ledger) -> Package:
    now = Code(Version.parse(entry.version), entry.commit_id)
    return Package(entry.package, now, _served_before(entry, ledger))


def _served_before(entry: Entry, ledger: Ledger) -> Code | None:
    """The release that the one in service took the place of."""
    views = [view for view in ledger.transactions.values() if view.outcome in {"committed", "reverted"}]
    for view in sorted(views, key=lambda each: each.ended_seq or 0, reverse=True):
        for change in view.changes:
            before, after = change.before, change.after
            if after is None or before is None or (after.name, after.tree_id) != (entry.name, entry.tree_id):
                continue
            if before.tree_id != entry.tree_id and before.package == entry.package:
                return Code(Version.parse(before.version), before.commit_id)
    return None


def _ledger(deployment: Deployment) -> Ledger:
    """What the journal says, read without changing a byte of it, also beside the host that runs."""
    if not deployment.journal.exists():
        return Ledger()
    try:
        with reading(deployment.journal) as connection:
            return fold(read_records(connection, deployment.journal))
    except (UpgradeError, IllegalTransition, OSError, sqlite3.Error) as error:
        raise SelftestImpossible(
            f"The journal of {deployment.path} cannot be read: {error} Look at it with `livetag doctor`."
        ) from error


def _name_the_commit(store: Path, commit_id: str) -> None:
    """Give the snapshot a ref, so that it can be fetched."""
    with RepoStore.open(store) as opened:
        opened.keep(commit_id)


def texts(packages: Iterable[Package]) -> list[str]:
    """Each package with its versions, for people."""
    return [
        f"{each.name} {each.before.version} → {each.now.version}"
        if each.before
        else f"{each.name} {each.now.version}"
        for each in packages
    ]
