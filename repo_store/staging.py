"""From a release to a folder to import: read by object id, verified, compiled, described, then renamed.

Invariants (DESIGN §4, staging; the tests cite them):
1. A folder with a release's name in `stage/` is whole: it was filled elsewhere, synced, and renamed as the last step.
2. Its name is its identity: the files hash to it, by Git's own rule, when written and at first use after a start.
3. Nothing of the release has run in this process; compiling and describing happen in children with limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from repo_store.errors import ReleaseInvalid, StagingFailed
from repo_store.failpoints import step
from repo_store.folder import EXECUTABLE, REGULAR, Folder
from repo_store.inspect import inspect
from repo_store.manifest import ModuleManifest, parse_module
from repo_store.release import Release
from repo_store.sources import byte_compiling
from repo_store.store import RepoStore
from repo_store.tree import SYMLINK, TREE, TreeEntry, object_id, tree_object

DESCRIPTION = Path(".livetag") / "description.json"
MADE_BY = Path(".livetag") / "made-by.txt"
# Byte-code and description hold for the interpreter that made them: another one stages anew, out of Git.
_MAKER = f"stage 2, {sys.implementation.cache_tag}\n"
UNFINISHED = ".tmp-"
_PYCACHE = "__pycache__"

Describe = Callable[[Path, str, ModuleManifest], bytes]


@dataclass(frozen=True, slots=True)
class StagedRelease:
    """A release on disk: `path` holds the package's folder and its shared ones, side by side."""

    release: Release
    path: Path
    manifest: ModuleManifest
    description: bytes

    @property
    def tops(self) -> tuple[str, ...]:
        """The top-level names to import from `path`, the package first."""
        return (self.release.package, *(folder.rpartition("/")[2] for folder in self.manifest.shared))


class Stage:
    """The folder `stage/` of a deployment. Use it, like its store, from one thread at a time.

    `describe(path, package, manifest)` gets the filled folder and returns the description as JSON; it runs
    author code in a child process of its own, and what it raises passes through.
    """

    def __init__(self, folder: Path, store: RepoStore, describe: Describe) -> None:
        self._folder = Path(folder).absolute()
        self._store = store
        self._describe = describe
        self._verified: set[Path] = set()
        self._filling: set[Path] = set()

    def stage(self, release: Release) -> StagedRelease:
        """Give the release as an importable folder; one that is staged already costs nothing.

        Raises ReleaseInvalid if its content is wrong, StagingFailed if the disk or a child was. Either way
        nothing is left in `stage/` but whole releases.
        """
        try:
            return self._staged(release) or self._stage_anew(release)
        except OSError as error:
            raise StagingFailed(
                f"{release.tag} could not be staged in {self._folder}: {error}. Nothing changed; it is tried again."
            ) from error

    def sweep(self, keep: Collection[str]) -> list[str]:
        """Remove what was left half done and every staged release whose tree id is not in `keep`.

        Give their names.
        """
        if not self._folder.is_dir():
            return []
        gone = [
            path
            for path in sorted(self._folder.iterdir())
            if path not in self._filling and path.name.partition("-")[0] not in keep
        ]
        for path in gone:
            with step("stage.sweep"):
                self._remove(path)
        return [path.name for path in gone if not path.name.startswith(UNFINISHED)]

    def _places(self, release: Release) -> tuple[Path, Path]:
        # Two packages may have one content and so one tree id: the second lies beside the first.
        return self._folder / release.tree_id, self._folder / f"{release.tree_id}-{release.package}"

    def _staged(self, release: Release) -> StagedRelease | None:
        for path in self._places(release):
            if not (path / release.package).is_dir():
                continue
            staged = self._intact(release, path)
            if staged is not None:
                return staged
            self._remove(path)  # somebody edited it, or the disk lost a part: Git still has it whole
        return None

    def _intact(self, release: Release, path: Path) -> StagedRelease | None:
        toml = path / release.package / "module.toml"
        try:
            if (path / MADE_BY).read_text() != _MAKER:
                return None
            manifest = parse_module(toml.read_bytes() if toml.is_file() else b"", str(toml))
            staged = StagedRelease(release, path, manifest, (path / DESCRIPTION).read_bytes())
            if path not in self._verified:
                whole = identity_on_disk(path, staged.tops, release.tree_id) == release.tree_id
                if not whole:
                    return None
                self._verified.add(path)
        except (OSError, ReleaseInvalid):
            return None
        return staged

    def _stage_anew(self, release: Release) -> StagedRelease:
        inspection = inspect(self._store, release.commit_id, release.package)
        self._folder.mkdir(parents=True, exist_ok=True)
        first, second = self._places(release)
        target = second if first.exists() else first
        if target.exists():
            self._remove(target)
        with self._filled() as filling, byte_compiling(filling, target) as byte_compile:
            with step("stage.files"):
                for name, folder in inspection.folders.items():
                    self._write(folder, filling / name)
            found = identity_on_disk(filling, tuple(inspection.folders), release.tree_id)
            if found != release.tree_id:
                raise StagingFailed(
                    f"{release.tag}: the files written to {self._folder} hash to {found[:12]}, not to "
                    f"{release.tree_id[:12]}. Check the disk, and the repository with `git fsck`."
                )
            byte_compile()
            with step("stage.describe"):
                description = self._describe(filling, release.package, inspection.manifest)
                (filling / DESCRIPTION).parent.mkdir()
                (filling / DESCRIPTION).write_bytes(description)
                (filling / MADE_BY).write_text(_MAKER)
            with step("stage.sync"):
                sync_file_system(filling)
            # Only a whole, synced folder may ever have the name of a release: a crash before this line
            # leaves a .tmp- folder, which the next sweep removes.
            with step("stage.rename"):
                filling.rename(target)
            with step("stage.sync-folder"):
                _sync_directory(self._folder)
        self._verified.add(target)
        return StagedRelease(release, target, inspection.manifest, description)

    @contextlib.contextmanager
    def _filled(self) -> Iterator[Path]:
        with step("stage.folder"):
            filling = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._folder))
        filling.chmod(0o755)
        self._filling.add(filling)
        try:
            yield filling
        finally:
            shutil.rmtree(filling, ignore_errors=True)
            self._filling.discard(filling)

    def _write(self, folder: Folder, path: Path) -> None:
        path.mkdir()
        for name in sorted(folder.folders):
            (path / name).mkdir()
        contents = self._store.read_blobs([(file.object_id, file.size) for file in folder.files])
        for file, data in zip(folder.files, contents, strict=True):
            with (path / file.path).open("xb") as out:
                out.write(data)
            if file.mode == EXECUTABLE:
                (path / file.path).chmod(0o755)

    def _remove(self, path: Path) -> None:
        self._verified.discard(path)
        if not path.name.startswith(UNFINISHED):
            # Rename first: a crash in the middle of removing must not leave half a release under its name.
            unfinished = self._folder / f"{UNFINISHED}gone-{os.getpid()}-{path.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            path.rename(unfinished)
            path = unfinished
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def identity_on_disk(path: Path, tops: tuple[str, ...], like: str) -> str:
    """Compute the identity of a release from its files, as `RepoStore.release_identity` does from Git's objects."""
    rows = {top: _folder_id(path / top, like) for top in tops}
    if len(rows) == 1:
        return rows[tops[0]]
    return object_id("tree", tree_object(TreeEntry(TREE, top.encode(), rows[top]) for top in rows), like)


def _folder_id(path: Path, like: str) -> str:
    rows: list[TreeEntry] = []
    for item in os.scandir(path):
        if item.is_symlink():
            target = os.fsencode(Path(item.path).readlink())
            rows.append(TreeEntry(SYMLINK, os.fsencode(item.name), object_id("blob", target, like)))
        elif item.is_dir():
            if item.name != _PYCACHE:
                rows.append(TreeEntry(TREE, os.fsencode(item.name), _folder_id(Path(item.path), like)))
        else:
            mode = EXECUTABLE if item.stat().st_mode & 0o100 else REGULAR
            data = Path(item.path).read_bytes()
            rows.append(TreeEntry(mode, os.fsencode(item.name), object_id("blob", data, like)))
    return object_id("tree", tree_object(rows), like)


def sync_file_system(path: Path) -> None:
    """Force everything written so far on that file system to the disk: one call, where one a file costs seven times."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
