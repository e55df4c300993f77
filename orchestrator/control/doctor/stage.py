"""The stage: each folder is what its name says, and nothing half done lies between them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.control.doctor.findings import Case, Finding
from repo_store.errors import StoreError
from repo_store.staging import DESCRIPTION, UNFINISHED, identity_on_disk


def stage(case: Case) -> Iterator[Finding]:
    """Whether each folder hashes to its name, and nothing is left half done."""
    folder = case.deployment.stage
    if not folder.is_dir():
        yield Finding("stage", True, "nothing is staged; it is made again out of Git")
        return
    found = sorted(folder.iterdir())
    leftovers = [path for path in found if path.name.startswith(UNFINISHED)]
    changed = [path for path in found if path not in leftovers and not _is_whole(path)]
    if leftovers and not case.host_runs:
        what = f"{len(leftovers)} folders were left half done by a host that died"
        yield Finding("stage", False, what, "The next start removes them.", lambda: _remove(leftovers))
    for path in changed:
        what = f"{path} is not what its name says: it was edited, or the disk lost a part"
        todo = "It is staged anew out of Git when it is next needed; a release in service is not read again."
        yield Finding("stage", False, what, todo, None if case.host_runs else _remover(path))
    if not changed and (case.host_runs or not leftovers):
        yield Finding("stage", True, f"{len(found) - len(leftovers)} staged releases hash to their names")


def _is_whole(path: Path) -> bool:
    tree_id = path.name.partition("-")[0]
    try:
        tops = sorted(item.name for item in path.iterdir() if item.name != DESCRIPTION.parts[0])
        return bool(tops) and identity_on_disk(path, tuple(tops), tree_id) == tree_id
    except (OSError, StoreError, ValueError):
        return False


def _remover(path: Path) -> _Remove:
    return _Remove(path)


class _Remove:
    """Removes one folder when called."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> str:
        return _remove([self._path])


def _remove(paths: list[Path]) -> str:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return f"removed {', '.join(path.name for path in paths)} from stage/"
