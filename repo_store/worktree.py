"""A working copy as a commit: what `git add -A` and a commit would make of it, in a repository that is thrown away.

Nothing is written into the user's repository, not even the time of a file: its index is copied, its objects are read
through alternates, and those only once everything of ours is written (Git touches what it finds in an alternate).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import tomli

from repo_store.errors import GitFailed, StoreError
from repo_store.git import GitDoor
from repo_store.overlay import common_directory, make_bare, object_format, see_objects_of, tags_of

# Python leaves these beside the sources; one that is in the index all the same is seen, as at a push.
_WHO = "livetag <livetag@localhost> 0 +0000"
_EXCLUDED = "__pycache__/\n*.pyc\n"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A bare repository at `store` that has the working copy as `commit_id`; `tags` are those of the user's, by name."""

    top: Path
    store: Path
    commit_id: str
    tags: dict[str, str]


def find_top(path: Path) -> tuple[Path, Path | None]:
    """Give the top folder of the working copy that `path` lies in, and its own Git directory if it has one.

    Raises StoreError if there is neither a Git work tree nor a folder `modules/`.
    """
    start = path.expanduser().absolute()
    if not start.is_dir():
        raise StoreError(f"{path} is no folder. Name a working copy, or go into one.")
    for folder in (start, *start.parents):
        git = folder / ".git"
        if git.is_dir():
            return folder, git.resolve()
        if git.is_file():
            named = git.read_text(encoding="utf-8", errors="surrogateescape").strip()
            return folder, (folder / named.removeprefix("gitdir:").strip()).resolve()
    if (start / "modules").is_dir() or (start / "app.toml").is_file():
        return start, None
    raise StoreError(
        f"{path} is no working copy: neither it nor a folder above has a .git, and it has no modules/. "
        "Name the folder that holds modules/."
    )


def snapshot(path: Path, folder: Path) -> Snapshot:
    """Make a commit of the working copy at `path`, uncommitted files included, in a new repository inside `folder`.

    Files that .gitignore names are left out unless they are in the index. Raises StoreError.
    """
    top, git_dir = find_top(path)
    if not (top / "modules").is_dir() and not (top / "app.toml").is_file():
        raise StoreError(
            f"{top} has no modules/ and no app.toml, so there is nothing that livetag could release."
        )
    store, common = folder / "store.git", common_directory(git_dir) if git_dir is not None else None
    make_bare(store, object_format(common) if common is not None else "sha1")
    excluded = common / "info" / "exclude" if common is not None else None
    (store / "info").mkdir(exist_ok=True)
    own = (
        excluded.read_text(encoding="utf-8", errors="surrogateescape")
        if excluded and excluded.is_file()
        else ""
    )
    (store / "info" / "exclude").write_text(f"{own}\n{_EXCLUDED}", encoding="utf-8", errors="surrogateescape")
    with GitDoor(store) as door:
        tree_id = _tree(door, top, git_dir)
        commit = f"tree {tree_id}\nauthor {_WHO}\ncommitter {_WHO}\n\nworking copy\n".encode()
        commit_id = door.run("hash-object", "-t", "commit", "-w", "--stdin", stdin=commit).decode().strip()
    if common is None:
        return Snapshot(top, store, commit_id, {})
    see_objects_of(store, common)
    return Snapshot(top, store, commit_id, tags_of(common))


def _tree(door: GitDoor, top: Path, git_dir: Path | None) -> str:
    """Give the tree of what would be committed. A copy of the user's index says what is tracked, and spares reading it."""
    index = git_dir / "index" if git_dir is not None else None
    if index is not None and index.is_file():
        shutil.copyfile(index, door.path / "index")
        try:
            return _added(door, top)
        except GitFailed:  # an index in several files, or one that is just being written: all is read anew
            (door.path / "index").unlink(missing_ok=True)
    return _added(door, top)


def _added(door: GitDoor, top: Path) -> str:
    work = f"--work-tree={top}"
    known = door.run("ls-files", "-z", "--", *_folders(top)).split(b"\0")
    tracked = {name.decode("utf-8", "surrogateescape").partition("/")[0] for name in known if name}
    paths = [name for name in _folders(top) if (top / name).exists() or name.partition("/")[0] in tracked]
    door.run(work, "add", "--all", "--", *(f":(top,literal){name}" for name in paths))
    return door.run("write-tree", "--missing-ok").decode().strip()


def _folders(top: Path) -> list[str]:
    """Give what livetag reads of a commit: app.toml, modules/, and the folders that the modules share."""
    shared: list[str] = []
    for manifest in sorted((top / "modules").glob("*/module.toml")):
        try:
            named = tomli.loads(manifest.read_text(encoding="utf-8")).get("shared", [])
        except (OSError, ValueError, RecursionError):
            continue  # the check of the manifest says what is wrong with it
        shared += [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    inside = [
        name
        for name in dict.fromkeys(shared)
        if ".." not in Path(name).parts and not Path(name).is_absolute()
    ]
    return ["app.toml", "modules", *inside]
