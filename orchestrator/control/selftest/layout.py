"""The scratch deployment and its clone, with all commits and tags that the scenarios need.

Each package gets three tags: its base, the next release, and one that must still go live after a death. Where a release
with other code served before, that one is the base and the one now is the next, so that its steps run, up and down. Else
the next is the same code with a comment behind it: another tree, that is loaded, prepared and swapped like any other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.clone import REDIRECTIONS, Clone, CloneFailed
from orchestrator.control.config import VARIABLE, Deployment
from orchestrator.control.init import REMOTE, create
from orchestrator.control.selftest.composition import app_toml
from orchestrator.control.selftest.errors import SelftestImpossible
from orchestrator.control.selftest.origin import Origin, Package
from repo_store import failpoints
from repo_store.manifest import parse_module
from repo_store.release import Version

SETTLE_S = 0.3  # a start has lasted after this: the selftest ends many, and means none of them
APP_TAG = "app/v1.0.0"
FURTHER = 9  # patch versions above the next: a rollback writes some of its own


@dataclass(frozen=True, slots=True)
class Tags:
    """What is pushed for one package."""

    base: str
    next: str
    further: str


@dataclass(frozen=True, slots=True)
class Layout:
    """A deployment and a clone, not started yet."""

    place: Deployment
    work: Path
    tags: tuple[Tags, ...]

    @property
    def base(self) -> tuple[str, ...]:
        return (APP_TAG, *(each.base for each in self.tags))

    @property
    def next(self) -> tuple[str, ...]:
        return tuple(each.next for each in self.tags)


def environment() -> dict[str, str]:
    """That of this process for the modules, but with Git as if nobody had configured it, and no failpoint."""
    dropped = {*REDIRECTIONS, VARIABLE, failpoints.VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    who = {"NAME": "livetag selftest", "EMAIL": "selftest@localhost"}
    return {
        **kept,
        **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()},
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }


def lay_out(origin: Origin, root: Path, env: Mapping[str, str]) -> Layout:
    """Make the deployment in `root`/d and the clone in `root`/work. Raises SelftestImpossible, StoreError, OSError."""
    root.mkdir()
    place, _ = create(root / "d", None, env)
    place.config_file.write_text(_livetag_toml(origin), encoding="utf-8")
    work = root / "work"
    work.mkdir()
    clone = Clone(work, env)
    try:
        clone.run("init", "--quiet", "--initial-branch=main")
        clone.run("remote", "add", REMOTE, str(place.store))
        clone.run("fetch", "--quiet", "--no-tags", str(origin.objects), "+refs/*:refs/origin/*")
        _compose(clone, origin)
        upcoming = _next(clone, origin.packages)
        tags = tuple(_release(clone, package, upcoming) for package in origin.packages)
    except CloneFailed as error:
        raise SelftestImpossible(
            f"The commits of {origin.what} could not be copied: {error}. Nothing was changed there."
        ) from error
    return Layout(place, work, tags)


def _livetag_toml(origin: Origin) -> str:
    host, trial = origin.host.host, origin.host.trial
    return (
        f"[host]\nsettle_s = {SETTLE_S}\nprereleases = {str(host.prereleases).lower()}\n"
        f"stall_s = {host.stall_s!r}\ndrain_s = {host.drain_s!r}\n"
        "shadow = false\n"  # nobody sends anything there
        "probation = false\n"  # in which the second death is held against a release: here the kills are the test's
        f"[trial]\nmemory_mb = {trial.memory_mb}\ntime_s = {trial.time_s!r}\n"
    )


def _compose(clone: Clone, origin: Origin) -> None:
    (clone.path / "app.toml").write_text(app_toml(origin.app), encoding="utf-8")
    clone.run("add", "app.toml")
    clone.run("commit", "--quiet", "--message", "The composition of the selftest")
    clone.run("tag", APP_TAG)


def _next(clone: Clone, packages: Sequence[Package]) -> str:
    """One commit with the next release of every package: what one commit asks for is one transaction (DESIGN §4).

    In service they are from commits of different days. Of a shared folder that two of them have it is the last one's.
    """
    clone.run("read-tree", "--empty")
    for package in packages:
        commit_id = package.now.commit_id
        for folder in (f"modules/{package.name}", *_shared(clone, package.name, commit_id)):
            clone.run("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "--", folder)
            clone.run("read-tree", f"--prefix={folder}/", f"{commit_id}:{folder}")
        if package.before is None:
            _comment(clone, package.name, "next")
    return _commit(clone, "The next releases", *dict.fromkeys(each.now.commit_id for each in packages))


def _shared(clone: Clone, package: str, commit_id: str) -> tuple[str, ...]:
    path = f"modules/{package}/module.toml"
    if not clone.run("ls-tree", commit_id, "--", path):
        return ()
    return parse_module(clone.run("cat-file", "blob", f"{commit_id}:{path}").encode(), path).shared


def _release(clone: Clone, package: Package, upcoming: str) -> Tags:
    base = package.before or package.now
    version = package.now.version if package.before is not None else base.version.next_patch()
    if not base.version < version:  # it was rolled back to: the tags say otherwise than the numbers
        version = base.version.next_patch()
    further = Version(version.major, version.minor, version.patch + FURTHER)
    tags = Tags(*(f"{package.name}/v{each}" for each in (base.version, version, further)))
    clone.run("tag", tags.base, base.commit_id)
    clone.run("tag", tags.next, upcoming)
    clone.run("read-tree", package.now.commit_id)
    _comment(clone, package.name, "further")
    clone.run("tag", tags.further, _commit(clone, f"{package.name}, further", package.now.commit_id))
    return tags


def _comment(clone: Clone, package: str, word: str) -> None:
    """Put a comment at the end of the package's __init__.py, in the index."""
    path = f"modules/{package}/__init__.py"
    row = clone.run("ls-files", "--stage", "--", path)
    text = clone.run("cat-file", "blob", row.split()[1]) if row else ""
    file = clone.path / ".git" / "livetag-selftest"
    file.write_text(
        f"{text}\n\n# livetag selftest: the same code, released again ({word})\n",
        encoding="utf-8",
        errors="surrogateescape",
        newline="",
    )
    blob = clone.run("hash-object", "-w", "--no-filters", str(file))
    mode = row.split()[0] if row else "100644"
    clone.run("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}")


def _commit(clone: Clone, message: str, *parents: str) -> str:
    """A commit of the index, after these."""
    after = [word for parent in parents for word in ("-p", parent)]
    return clone.run("commit-tree", clone.run("write-tree"), *after, "-m", message)
