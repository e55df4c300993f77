"""A folder of a commit as a flat list of files, with every limit of DESIGN §4 (staging) checked on the way.

Trees are read one by one and counted, never listed by `ls-tree -r`: a pushed tree that holds itself ten
times over at each of fifty levels costs an attacker a kilobyte and would cost the host its life.
"""

from __future__ import annotations

from dataclasses import dataclass

from repo_store.errors import GitFailed, ReleaseInvalid
from repo_store.objects import ObjectReader
from repo_store.tree import SUBMODULE, SYMLINK, TREE, TreeEntry, object_id, tree_object

FILES_MAX = 5000
BYTES_MAX = 64 << 20
DEPTH_MAX = 16
EXECUTABLE = 0o100755
REGULAR = 0o100644

_NATIVE = (".so", ".pyd", ".dylib", ".dll")
_COMPILED = (".pyc", ".pyo")


@dataclass(frozen=True, slots=True)
class FolderFile:
    """One file: `path` is relative to the folder, with /; `size` in bytes."""

    path: str
    mode: int
    object_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Folder:
    """All files of a folder, and its folders (also the empty ones), in Git's order."""

    tree_id: str
    files: tuple[FolderFile, ...]
    folders: tuple[str, ...]


def read_folder(reader: ObjectReader, tree_id: str, where: str) -> Folder:
    """List the folder with that tree id; `where` (modules/counter) names it in messages.

    Raises ReleaseInvalid for a symlink, a submodule, an odd name, native or compiled code, and over each
    limit.
    """
    rows: list[tuple[str, TreeEntry]] = []
    folders: list[str] = []
    waiting = [("", tree_id)]
    while waiting:
        prefix, current = waiting.pop()
        entries = reader.entries(current)
        if object_id("tree", tree_object(entries), tree_id) != current or _doubled(entries):
            raise ReleaseInvalid(
                f"{where}/{prefix} is a damaged or forged tree ({current[:12]}); commit it anew."
            )
        for entry in entries:
            path = prefix + _checked_name(entry, f"{where}/{prefix}")
            if entry.mode == TREE:
                folders.append(path)
                waiting.append((path + "/", entry.object_id))
            else:
                rows.append((path, entry))
            if path.count("/") >= DEPTH_MAX:
                raise ReleaseInvalid(
                    f"{where}/{path} lies deeper than {DEPTH_MAX} folders. Flatten the folder."
                )
        if len(rows) + len(folders) > FILES_MAX:
            raise ReleaseInvalid(f"{where} has more than {FILES_MAX} files. Take out what is no code.")
    return Folder(tree_id, _sized(reader, rows, where), tuple(folders))


def check_total(folders: list[Folder], where: str) -> None:
    """Apply the limits to a package and its shared folders together. Raises ReleaseInvalid."""
    files = [file for folder in folders for file in folder.files]
    if len(files) > FILES_MAX:
        raise ReleaseInvalid(f"{where} and its shared folders have {len(files)} files; at most {FILES_MAX}.")
    size = sum(file.size for file in files)
    if size > BYTES_MAX:
        raise ReleaseInvalid(f"{where} and its shared folders have {size} bytes; at most {BYTES_MAX}.")


def _sized(reader: ObjectReader, rows: list[tuple[str, TreeEntry]], where: str) -> tuple[FolderFile, ...]:
    infos = reader.door.infos([entry.object_id for _, entry in rows])
    files: list[FolderFile] = []
    for (path, entry), info in zip(rows, infos, strict=True):
        if info is None or info[0] != "blob":
            raise GitFailed(
                f"{where}/{path}: object {entry.object_id} is missing; run `git fsck` on the repository."
            )
        files.append(FolderFile(path, entry.mode, entry.object_id, info[1]))
    size = sum(file.size for file in files)
    if size > BYTES_MAX:
        largest = max(files, key=lambda file: file.size)
        raise ReleaseInvalid(
            f"{where} has {size} bytes, most of them in {largest.path}; at most {BYTES_MAX} are allowed. "
            f"Keep data outside the package."
        )
    return tuple(files)


def _doubled(entries: list[TreeEntry]) -> bool:
    return len({entry.name for entry in entries}) < len(entries)


def _checked_name(entry: TreeEntry, where: str) -> str:
    shown = entry.name.decode("utf-8", "backslashreplace")
    odd = _odd_name(entry.name)
    if odd is not None:
        raise ReleaseInvalid(f"{where}{ascii(shown)[1:-1]}: {odd}. Rename it.")
    if entry.mode == SYMLINK:
        raise ReleaseInvalid(
            f"{where}{shown} is a symlink, which could lead out of the release. Put the file itself."
        )
    if entry.mode == SUBMODULE:
        raise ReleaseInvalid(
            f"{where}{shown} is a submodule, whose content is not in this repository. Copy it in."
        )
    if entry.mode not in {TREE, REGULAR, EXECUTABLE}:
        raise ReleaseInvalid(f"{where}{shown} has the odd mode {entry.mode:o}. Add the file anew.")
    lower = shown.lower()
    if entry.mode != TREE and (lower.endswith(_NATIVE) or ".so." in lower):
        raise ReleaseInvalid(
            f"{where}{shown} is a native library: one process cannot hold two versions of it. "
            f"Install it as a distribution on the host and name that in [requires]."
        )
    if lower == "__pycache__" or lower.endswith(_COMPILED):
        raise ReleaseInvalid(
            f"{where}{shown} is compiled code, which may differ from its source. "
            f"Remove it (git rm -r --cached) and ignore __pycache__/ and *.pyc."
        )
    return shown


def _odd_name(name: bytes) -> str | None:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return "the name is not UTF-8"
    if text in {"", ".", ".."} or text.lower() == ".git" or "/" in text:
        return "the name could lead out of the folder"
    if not text.isprintable() or "\\" in text:
        return "the name holds a control character or a backslash"
    return "the name is longer than 200 bytes" if len(name) > 200 else None
