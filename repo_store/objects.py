"""Commits, folders and files read by object id: never from a work tree, never more than a stated size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from repo_store.errors import GitFailed, ReleaseInvalid
from repo_store.git import GitDoor
from repo_store.manifest import MANIFEST_BYTES_MAX
from repo_store.tree import TREE, TreeEntry, parse_tree

OBJECT_BYTES_MAX = 16 << 20
AT_ONCE_BYTES_MAX = 4 << 20
REGULAR_FILE = frozenset({0o100644, 0o100755, 0o100664})


class ObjectReader:
    """Reads content of one repository through its door."""

    def __init__(self, door: GitDoor) -> None:
        self._door = door

    @property
    def path(self) -> Path:
        return self._door.path

    @property
    def door(self) -> GitDoor:
        return self._door

    def read_object(self, object_id: str, kind: str, limit: int = OBJECT_BYTES_MAX) -> bytes:
        """Give the content of an object; its size is checked first, so a huge one costs no memory.

        Raises ReleaseInvalid if it is not of that kind or larger than `limit` bytes, GitFailed if missing.
        """
        self._size(object_id, self._door.infos([object_id])[0], kind, limit)
        return self._door.cat(object_id)[1]

    def read_blobs(self, limits: Sequence[tuple[str, int]]) -> Iterator[bytes]:
        """Give the content of many blobs, (object id, largest size) each, in order; raises as `read_object` does.

        Git is asked for many at once, but not for more than a few MB: a push waits for each question of fifty files.
        """
        ids = [object_id for object_id, _ in limits]
        infos = self._door.infos(ids)
        sizes = [
            self._size(object_id, info, "blob", limit)
            for (object_id, limit), info in zip(limits, infos, strict=True)
        ]
        first = bytes_ = 0
        for end, size in enumerate(sizes):
            if bytes_ + size > AT_ONCE_BYTES_MAX:
                yield from (data for _, data in self._door.cat_all(ids[first:end]))
                first, bytes_ = end, 0
            bytes_ += size
        yield from (data for _, data in self._door.cat_all(ids[first:]))

    def _size(self, object_id: str, info: tuple[str, int] | None, kind: str, limit: int) -> int:
        """The size of an object that may be read."""
        if info is None:
            raise GitFailed(f"object {object_id} is missing in {self.path}; run `git fsck` there.")
        if info[0] != kind:
            raise ReleaseInvalid(f"object {object_id[:12]} is a {info[0]}, not a {kind}.")
        if info[1] > limit:
            raise ReleaseInvalid(f"{kind} {object_id[:12]} has {info[1]} bytes; at most {limit} are allowed.")
        return info[1]

    def entries(self, tree_id: str) -> list[TreeEntry]:
        """Give the rows of a tree object."""
        return parse_tree(self.read_object(tree_id, "tree"), len(tree_id) // 2)

    def entry(self, commit_id: str, path: str) -> TreeEntry | None:
        """Give the row for a path of that commit (`modules/counter`), or None if there is none."""
        header = self.read_object(commit_id, "commit").partition(b"\n")[0]
        row = TreeEntry(TREE, b"", header.removeprefix(b"tree ").decode("ascii"))
        for part in path.encode().split(b"/"):
            if row.mode != TREE:
                return None
            found = next((each for each in self.entries(row.object_id) if each.name == part), None)
            if found is None:
                return None
            row = found
        return row

    def tree_id(self, commit_id: str, folder: str) -> str | None:
        """Give the tree id of a folder in that commit; None if it is missing or no folder."""
        row = self.entry(commit_id, folder)
        return row.object_id if row is not None and row.mode == TREE else None

    def read_file(self, commit_id: str, path: str, limit: int = MANIFEST_BYTES_MAX) -> bytes | None:
        """Give the content of a file in that commit; None if it is missing.

        Raises ReleaseInvalid, naming the path, for a symlink and for a file larger than `limit`.
        """
        row = self.entry(commit_id, path)
        if row is None:
            return None
        if row.mode not in REGULAR_FILE:
            raise ReleaseInvalid(f"{path} is not a regular file (mode {row.mode:o}); make it one.")
        try:
            return self.read_object(row.object_id, "blob", limit)
        except ReleaseInvalid as error:
            raise ReleaseInvalid(f"{path}: {error}") from None
