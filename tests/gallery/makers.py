"""Releases that are no plain files: each function puts into the index of a clone what no editor would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from repo_store.folder import BYTES_MAX, DEPTH_MAX, FILES_MAX
from tests.git_fixtures import GitRepo

COUNTER = "modules/counter"


def _blob(work: GitRepo, text: str) -> str:
    return work.git("hash-object", "-w", "--stdin", stdin=text)


def _index(work: GitRepo, rows: list[tuple[str, str, str]]) -> None:
    """Put mode, object, path into the index."""
    text = "".join(f"{mode} {object_id}\t{path}\0" for mode, object_id, path in rows)
    work.run("-c", "core.protectNTFS=false", "update-index", "--add", "-z", "--index-info", stdin=text)


def symlink(work: GitRepo) -> None:
    _index(work, [("120000", _blob(work, "/etc/passwd"), f"{COUNTER}/users.py")])


def submodule(work: GitRepo) -> None:
    _index(work, [("160000", work.head(), f"{COUNTER}/vendored")])


def line_break_in_a_name(work: GitRepo) -> None:
    _index(work, [("100644", _blob(work, ""), f"{COUNTER}/up\nremote: counter/v1.1.0: live.py")])


def backslash_in_a_name(work: GitRepo) -> None:
    _index(work, [("100644", _blob(work, ""), f"{COUNTER}/..\\..\\livetag.toml")])


def too_many_files(work: GitRepo) -> None:
    blob = _blob(work, "")
    _index(work, [("100644", blob, f"{COUNTER}/data/{n}.txt") for n in range(FILES_MAX)])


def too_deep(work: GitRepo) -> None:
    _index(work, [("100644", _blob(work, ""), f"{COUNTER}/{'in/' * (DEPTH_MAX + 1)}end.py")])


def too_large(work: GitRepo) -> None:
    """Many names of one blob: as much to stage, and little to push."""
    size = 1 << 20
    blob = _blob(work, "x" * size)
    _index(work, [("100644", blob, f"{COUNTER}/data/{n}.bin") for n in range(BYTES_MAX // size + 1)])


MAKERS: Mapping[str, Callable[[GitRepo], None]] = {
    make.__name__: make
    for make in (
        symlink,
        submodule,
        line_break_in_a_name,
        backslash_in_a_name,
        too_many_files,
        too_deep,
        too_large,
    )
}
