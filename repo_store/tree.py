"""Git's tree objects as values: read one, and compute the id that Git would give to a tree or a blob.

Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from repo_store.errors import GitFailed

TREE, SYMLINK, SUBMODULE = 0o040000, 0o120000, 0o160000


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One row of a tree object. `name` is bytes: Git takes any byte but / and NUL."""

    mode: int
    name: bytes
    object_id: str


def parse_tree(data: bytes, id_bytes: int) -> list[TreeEntry]:
    """Read the content of a tree object whose ids have `id_bytes` bytes (20 or 32).

    Raises GitFailed if torn.
    """
    entries: list[TreeEntry] = []
    start = 0
    while start < len(data):
        space = data.find(b" ", start)
        end = data.find(b"\0", space)
        row_id = data[end + 1 : end + 1 + id_bytes]
        if space < 0 or end < 0 or len(row_id) < id_bytes:
            raise GitFailed("a tree object is damaged; run `git fsck` on the repository.")
        try:
            mode = int(data[start:space], 8)
        except ValueError as error:
            raise GitFailed("a tree object is damaged; run `git fsck` on the repository.") from error
        entries.append(TreeEntry(mode, data[space + 1 : end], row_id.hex()))
        start = end + 1 + id_bytes
    return entries


def object_id(kind: str, data: bytes, like: str) -> str:
    """Compute the id Git gives to this content.

    `like` is any id of the repository and tells SHA-1 from SHA-256.
    """
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(f"{kind} {len(data)}\0".encode())
    digest.update(data)
    return digest.hexdigest()


def tree_object(entries: Iterable[TreeEntry]) -> bytes:
    """Give the content of the tree object with these rows. Git sorts a folder as if it ended in /."""
    rows = sorted(entries, key=lambda entry: entry.name + (b"/" if entry.mode == TREE else b""))
    return b"".join(b"%o %s\0%s" % (row.mode, row.name, bytes.fromhex(row.object_id)) for row in rows)
