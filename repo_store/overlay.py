"""A repository to look ahead in: it sees the objects of others where they lie, and is thrown away.

Nothing is written into the others: their objects are read through `objects/info/alternates`, the rest is our own.
"""

from __future__ import annotations

from pathlib import Path

from repo_store.errors import StoreError
from repo_store.git import GitDoor
from repo_store.refs import list_refs


def git_directory(path: Path) -> Path:
    """Give the Git directory of the clone, work tree or bare repository at `path`, or that `path` lies in.

    Raises StoreError if there is none.
    """
    start = path.absolute()
    for folder in (start, *start.parents):
        found = _git_directory_of(folder)
        if found is not None:
            return found
    raise StoreError(f"{path} is no Git repository and lies in none. Name a clone, or its folder.")


def _git_directory_of(folder: Path) -> Path | None:
    inner = folder / ".git"
    if inner.is_file():  # a work tree of its own, or a submodule: the file names where its Git directory is
        named = inner.read_text(encoding="utf-8", errors="surrogateescape").strip()
        return common_directory((folder / named.removeprefix("gitdir:").strip()).resolve())
    for place in (inner, folder):
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return place.resolve()
    return None


def common_directory(directory: Path) -> Path:
    """Give what the work trees of a repository have in common, the objects and the tags, for the Git directory of one."""
    common = directory / "commondir"
    return (
        (directory / common.read_text(encoding="utf-8").strip()).resolve() if common.is_file() else directory
    )


def tags_of(git_dir: Path) -> dict[str, str]:
    """Give short tag name → object id of a repository that is not ours. Raises GitFailed."""
    with GitDoor(git_dir) as door:
        found = list_refs(door, "refs/tags/")
    return {name.removeprefix("refs/tags/"): object_id for name, object_id in found.items()}


def make_overlay(path: Path, *others: Path) -> None:
    """Make a bare repository at `path` that sees the objects of the Git directories `others`.

    Raises StoreError if they do not have one object format, or one of them cannot be read.
    """
    formats = {other: object_format(other) for other in others}
    if len(set(formats.values())) > 1:
        told = ", ".join(f"{other} has {name}" for other, name in formats.items())
        raise StoreError(
            f"the repositories differ in their object format ({told}), so neither can read the other."
        )
    make_bare(path, next(iter(formats.values()), "sha1"))
    see_objects_of(path, *others)


def make_bare(path: Path, format_name: str) -> None:
    """Make an empty bare repository of that object format."""
    path.mkdir(parents=True)
    with GitDoor(path) as door:
        door.run(
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--initial-branch=main",
            f"--object-format={format_name}",
        )


def see_objects_of(path: Path, *others: Path) -> None:
    """Let the repository at `path` read the objects of the Git directories `others`, too."""
    info = path / "objects" / "info"
    info.mkdir(exist_ok=True)
    info.joinpath("alternates").write_bytes(b"".join(_alternate(other / "objects") for other in others))


def object_format(git_dir: Path) -> str:
    """Give the name of a repository's hash: sha1 or sha256."""
    with GitDoor(git_dir) as door:
        return door.run("rev-parse", "--show-object-format").decode().strip()


def _alternate(objects: Path) -> bytes:
    line = str(objects).encode("utf-8", "surrogateescape")
    if b"\n" in line or line.startswith((b'"', b"#")):
        raise StoreError(f"{str(objects)!r}: Git cannot read the objects of a repository with such a path.")
    return line + b"\n"
