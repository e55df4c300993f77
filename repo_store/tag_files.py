"""The tags as Git's own files have them, read without starting Git: a look among 50,000 tags then costs what is new.

Only what is plain is read here: a file that holds one id, and packed-refs, which is parsed once for each of its states. All
else (a symbolic ref, a file in the making, an odd name, another ref format) is for Git to judge: then there is no answer.
Whether it is a sound repository at all is for Git, too: it must have read it once since HEAD and config are as they are.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from repo_store.errors import GitFailed

PREFIX = "refs/tags/"
_ID = re.compile(rb"(?!0+$)(?:[0-9a-f]{40}|[0-9a-f]{64})")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_+-]*(?:\.[A-Za-z0-9_+-]+)*"  # of one folder or file; no `..` and no `.` at the end
_NAME = re.compile(_PART)
_PACKED = re.compile(f"refs/tags/{_PART}(?:/{_PART})*".encode())
_LOCK = ".lock"
_NEEDED = ("objects", "refs")  # without them it is no repository, which is for Git to say
_JUDGED = ("HEAD", "config")  # Git reads no repository in which one of them is damaged
_FOREIGN = ("reftable", "commondir")  # the refs are elsewhere
# Two states of packed-refs that follow each other within a tick of the file system's clock may look the same.
_RESTED_S = 1.0


class _NotPlain(Exception):
    """Git must be asked."""


_Row = tuple[int, int, int]  # of a file: what changes when Git replaces it


class TagFiles:
    """The tags of one bare repository. Remembers what packed-refs said last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sound: tuple[_Row, ...] | None = None
        self._state: _Row | None = None  # of packed-refs, when it was parsed
        self._packed: Mapping[str, str] = {}

    def condition(self) -> tuple[_Row, ...] | None:
        """What Git's judgement of the repository holds for; None if a file is missing."""
        try:
            return tuple(_row((self._path / name).stat()) for name in _JUDGED)
        except OSError:
            return None

    def vouch(self, condition: tuple[_Row, ...] | None) -> None:
        """Git has read the repository, which was in this condition before."""
        self._sound = condition

    def read(self) -> dict[str, str] | None:
        """Full name → id of each ref under refs/tags, by name; None if Git must be asked. Raises GitFailed as `see_all`."""
        there = {name for name in (*_NEEDED, *_FOREIGN) if os.path.lexists(self._path / name)}
        if there != set(_NEEDED) or self._sound is None or self.condition() != self._sound:
            return None
        try:
            # First the files: what is packed in between has left its file, and stands in packed-refs by then.
            loose = dict(_loose(f"{self._path}/{PREFIX}", PREFIX))
            packed = self._read_packed()
        except (_NotPlain, OSError):
            return None
        found = {**packed, **loose}
        return found if loose.keys() <= packed.keys() else {name: found[name] for name in sorted(found)}

    def see_all(self) -> None:
        """See that each folder of tags can be listed. Raises GitFailed.

        Git passes over one that cannot, without a word: its tags would count as deleted, and a lower one that is packed go live.
        """
        _see(f"{self._path}/{PREFIX}")

    def _read_packed(self) -> Mapping[str, str]:
        try:
            with (self._path / "packed-refs").open("rb") as file:
                found = os.fstat(file.fileno())
                state = _row(found)
                if state != self._state:
                    self._packed = _parse_packed(file.read())
                    self._state = state if time.time() - found.st_mtime > _RESTED_S else None
        except FileNotFoundError:
            return {}
        return self._packed


def _row(found: os.stat_result) -> _Row:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _loose(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The refs in a folder, which ends with a slash. Raises _NotPlain, OSError, GitFailed."""
    for entry in _listed(folder):
        if entry.name.endswith(_LOCK):  # of a change under way
            continue
        if not _NAME.fullmatch(entry.name):
            raise _NotPlain
        if entry.is_dir(follow_symlinks=False):
            yield from _loose(f"{entry.path}/", f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            object_id = _content(entry.path)
            if object_id is not None:
                yield prefix + entry.name, object_id
        else:
            raise _NotPlain


def _see(folder: str) -> None:
    for entry in _listed(folder):
        if entry.is_dir(follow_symlinks=False):
            _see(f"{entry.path}/")


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder. Raises GitFailed."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):  # Git removes an empty one, and a tag may take its name
        return []
    except OSError as error:
        raise GitFailed(
            f"{folder} cannot be listed, so it is not known which tags there are: {error.strerror}"
        ) from error


def _content(path: str) -> str | None:
    """The id that a loose ref holds; None if it went away. Raises _NotPlain."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # of thousands
            data = file.read(100)
    except FileNotFoundError:
        return None
    if data[-1:] != b"\n" or not _ID.fullmatch(data[:-1]):
        raise _NotPlain
    return data[:-1].decode()


def _parse_packed(data: bytes) -> dict[str, str]:
    """What packed-refs says of tags, in its order, which is by name. Raises _NotPlain."""
    if data[-1:] not in {b"\n", b""}:
        raise _NotPlain
    found = {}
    for line in data.split(b"\n"):
        if line[:1] in {b"#", b"^", b""}:
            continue
        object_id, _, ref = line.partition(b" ")
        if not _ID.fullmatch(object_id):
            raise _NotPlain
        if ref.startswith(b"refs/tags/"):
            if not _PACKED.fullmatch(ref):
                raise _NotPlain
            found[ref.decode()] = object_id.decode()
    return found
