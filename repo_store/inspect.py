"""The static check of a release: everything that can be known without running it. Source: DESIGN §4.

The pre-receive hook calls it before a push is accepted and staging again, because a tag made locally meets
no hook.
"""

from __future__ import annotations

import importlib.machinery
import sys
import sysconfig
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from repo_store.errors import ReleaseInvalid
from repo_store.folder import Folder, check_total, read_folder
from repo_store.manifest import ModuleManifest
from repo_store.release import package_name_problem
from repo_store.sources import Import, ReadImports, reading_imports
from repo_store.store import RepoStore
from repo_store.tree import SUBMODULE, SYMLINK

SOURCE_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found: the manifest, and the folders to stage by top-level name, the package first."""

    manifest: ModuleManifest
    folders: dict[str, Folder]


class InstalledNames:
    """The top-level names of the host's distributions, asked one at a time: listing all costs 100 ms."""

    def __init__(self) -> None:
        paths = sysconfig.get_paths()
        named = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
        self._where = list(dict.fromkeys([paths["purelib"], paths["platlib"], *named]))

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        spec = importlib.machinery.PathFinder.find_spec(name, self._where)
        return spec is not None


def inspect_release(
    store: RepoStore, commit_id: str, package: str, installed: Container[str] | None = None
) -> ModuleManifest:
    """Check the package at that commit and give its manifest; nothing of it is executed.

    Raises ReleaseInvalid with the file, the line if there is one, and what to do instead.
    """
    return inspect(store, commit_id, package, installed).manifest


def inspect(
    store: RepoStore, commit_id: str, package: str, installed: Container[str] | None = None
) -> Inspection:
    """Do what `inspect_release` does, and give the folders with it for staging."""
    with reading_imports() as read_imports:
        return _inspected(store, commit_id, package, installed, read_imports)


def _inspected(
    store: RepoStore,
    commit_id: str,
    package: str,
    installed: Container[str] | None,
    read_imports: ReadImports,
) -> Inspection:
    installed = InstalledNames() if installed is None else installed
    where = f"modules/{package}"
    if (problem := package_name_problem(package, installed)) is not None:
        raise ReleaseInvalid(f"{where} cannot be released: {problem}. Rename the package.")
    _check_kind(store, commit_id, where)
    parts = store.release_parts(commit_id, package)
    manifest = store.module_manifest(commit_id, package)
    modules = set(store.modules_at(commit_id))
    places = {package: where, **{folder.rpartition("/")[2]: folder for folder in manifest.shared}}
    for name in list(parts)[1:]:
        if name in modules:
            raise ReleaseInvalid(
                f"{where}/module.toml: shared {places[name]} has the name of another module. Rename the folder."
            )
        if name in installed:
            raise ReleaseInvalid(
                f"{where}/module.toml: shared {places[name]} would shadow an installed distribution."
            )
    folders = {name: read_folder(store, tree_id, places[name]) for name, tree_id in parts.items()}
    check_total(list(folders.values()), where)
    _check_entry(manifest, package, folders)
    foreign = {name for name in modules - parts.keys() if package_name_problem(name, installed) is None}
    for found in read_imports(_sources(store, folders, places)):
        _check_import(found, package, foreign)
    return Inspection(manifest, folders)


def _check_kind(store: RepoStore, commit_id: str, where: str) -> None:
    row = store.entry(commit_id, where)
    kinds = {SYMLINK: "a symlink", SUBMODULE: "a submodule"}
    if row is not None and row.mode in kinds:
        raise ReleaseInvalid(f"{where} is {kinds[row.mode]}, not a folder. Put the files themselves there.")


def _check_entry(manifest: ModuleManifest, package: str, folders: dict[str, Folder]) -> None:
    for name, folder in folders.items():
        if not any(file.path == "__init__.py" for file in folder.files):
            place = f"modules/{package}" if name == package else f"the shared folder {name}"
            raise ReleaseInvalid(
                f"{place} has no __init__.py, so it is no package. Add one (it may be empty)."
            )
    if manifest.entry is None:
        return
    top, _, rest = manifest.entry.partition(":")[0].partition(".")
    toml = f"modules/{package}/module.toml: entry = {manifest.entry!r}"
    if top != package:
        raise ReleaseInvalid(
            f"{toml} lies outside the package; allowed: {package}:Class or {package}.module:Class."
        )
    path = rest.replace(".", "/")
    candidates = {f"{path}.py", f"{path}/__init__.py"} if path else {"__init__.py"}
    if not any(file.path in candidates for file in folders[package].files):
        raise ReleaseInvalid(f"{toml} names a file that is not there: modules/{package}/{path}.py.")


def _sources(store: RepoStore, folders: dict[str, Folder], places: dict[str, str]) -> dict[str, bytes]:
    found: dict[str, str] = {}
    for name, folder in folders.items():
        for file in folder.files:
            if file.path.endswith(".py"):
                path = f"{places[name]}/{file.path}"
                if file.size > SOURCE_BYTES_MAX:
                    raise ReleaseInvalid(
                        f"{path} has {file.size} bytes; a source file may have {SOURCE_BYTES_MAX}."
                    )
                found[path] = file.object_id
    contents = store.read_blobs([(object_id, SOURCE_BYTES_MAX) for object_id in found.values()])
    return dict(zip(found, contents, strict=True))


def _check_import(found: Import, package: str, foreign: set[str]) -> None:
    parts = found.name.split(".")
    top = parts[1] if parts[0] == "modules" and len(parts) > 1 else parts[0]
    if top in foreign:
        raise ReleaseInvalid(
            f"{found.path}, line {found.line}: imports {top}, which is another module. Its versions come and "
            f"go on their own, so {package} may not hold its code. Send it a message instead "
            f'(self.ask("{top}", …)), or move common code to a folder outside modules/ and name it in '
            f"modules/{package}/module.toml: shared = [...]."
        )
