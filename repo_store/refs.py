"""Refs: list them, peel them to commits, and change several in one compare-and-swap transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repo_store.errors import GitFailed, RefChanged
from repo_store.failpoints import step
from repo_store.git import GitDoor
from repo_store.locks import remove_stale

PEEL_DEPTH_MAX = 10
TAG_OBJECT_BYTES_MAX = 1 << 20
BROKEN_OBJECTS_MAX = (
    50  # each costs some starts of Git; more than these, and it is no single object that is broken
)
_IGNORED = re.compile(r"^warning: ignoring (?:broken ref|ref with broken name) (refs/.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RefChange:
    """One ref of a transaction: what it is now (`old`, None: absent) and what it becomes (None: deleted)."""

    ref: str
    new: str | None
    old: str | None


def list_refs(door: GitDoor, *prefixes: str) -> dict[str, str]:
    """Give full ref name → object id for every ref under the prefixes.

    Broken refs are left out, as Git does.
    """
    return read_refs(door, *prefixes)[0]


def read_refs(door: GitDoor, *prefixes: str) -> tuple[dict[str, str], list[str]]:
    """As `list_refs`, with the names of the broken refs: those whose file is empty or garbage, as a power cut leaves it."""
    output, warned = door.run_heard("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
    rows = (line.split(" ", 1) for line in output.decode("utf-8", "surrogateescape").split("\n") if line)
    return {name: object_id for object_id, name in rows}, _IGNORED.findall(warned)


def update_refs(door: GitDoor, changes: Sequence[RefChange], reason: str, *, reflog: bool = False) -> None:
    """Make all changes or none; `reflog` has Git keep where the refs were (not for tags: `git gc` errs on those).

    Raises RefChanged if a ref is not what its change expects, and nothing happened.
    """
    if not changes:
        return
    arguments = ["--no-deref", *(["--create-reflog"] if reflog else []), "-m", f"livetag: {reason}"]
    lines = b"".join(map(_line, changes))
    try:
        with step(f"refs.{reason.replace(' ', '-')}"):
            _update(door, arguments, lines)
    except GitFailed as error:
        now = list_refs(door, *(change.ref for change in changes))
        lost = [change for change in changes if now.get(change.ref) != change.old]
        if not lost:
            raise
        told = ", ".join(
            f"{each.ref} is {now.get(each.ref, 'absent')}, not {each.old or 'absent'}" for each in lost
        )
        raise RefChanged(
            f"No ref was changed, because another writer was first: {told}. Read the refs again."
        ) from error


def _update(door: GitDoor, arguments: Sequence[str], lines: bytes) -> None:
    try:
        door.run("update-ref", *arguments, "--stdin", "-z", stdin=lines)
    except GitFailed as error:
        if ".lock': File exists" not in str(error):
            raise
        if not _unlocked(door):
            raise GitFailed(
                f"{error}\nIf no git works in {door.path}, one was killed and has left that file: "
                "livetag doctor --repair removes it once it is a minute old."
            ) from error
        door.run("update-ref", *arguments, "--stdin", "-z", stdin=lines)


def _unlocked(door: GitDoor) -> bool:
    """Whether locks were in the way that a killed Git has left, and are no more: without this no ref of them ever moves."""
    try:
        return bool(remove_stale(door.path))
    except OSError:
        return False  # not ours to remove


def _line(change: RefChange) -> bytes:
    ref = change.ref.encode("utf-8", "surrogateescape")
    old = b"" if change.old is None else change.old.encode()
    if change.new is None:
        return b"%s %s\0%s\0" % (b"delete" if old else b"verify", ref, old)
    if not old:
        return b"create %s\0%s\0" % (ref, change.new.encode())
    return b"update %s\0%s\0%s\0" % (ref, change.new.encode(), old)


class Peeler:
    """Object id → the commit behind it, remembered: what an id means never changes, so each is asked once."""

    def __init__(self, door: GitDoor) -> None:
        self._door = door
        self._known: dict[str, str | None] = {}
        self.lost: dict[str, str] = {}  # of the last call: id → why it cannot be told what it leads to

    def commits(self, object_ids: Iterable[str]) -> dict[str, str | None]:
        """Give the commit each id leads to; None for a blob, a tree, what is missing or nested too deeply.

        The memory keeps the ids of this call only, so it grows with the refs of the repository and not with
        time.
        """
        wanted = set(object_ids)
        unknown = sorted(wanted - self._known.keys())
        found = {each: self._known[each] for each in wanted & self._known.keys()}
        self.lost = {}
        for each, info in zip(unknown, self._infos(unknown), strict=True):
            found[each] = self._peel_or_lose(each, info)
        # A missing object may still arrive (a fetch under way), so only what was found is remembered.
        self._known = {each: commit for each, commit in found.items() if commit is not None}
        return found

    def _infos(self, object_ids: Sequence[str]) -> list[tuple[str, int] | None]:
        """As the door's, though an object be unreadable, over which `git cat-file` dies: the others are asked without it."""
        try:
            return self._door.infos(object_ids)
        except GitFailed as error:
            if len(object_ids) > 1:
                half = len(object_ids) // 2
                return [*self._infos(object_ids[:half]), *self._infos(object_ids[half:])]
            if len(self.lost) >= BROKEN_OBJECTS_MAX:
                raise
            self.lost[object_ids[0]] = str(error)
            return [None]

    def _peel_or_lose(self, object_id: str, info: tuple[str, int] | None) -> str | None:
        try:
            if info is None:
                self.lost.setdefault(object_id, f"object {object_id} is missing in {self._door.path}")
                return None
            return self._peel(object_id, info)
        except GitFailed as error:
            self.lost[object_id] = str(error)
            return None

    def _peel(self, object_id: str, info: tuple[str, int] | None) -> str | None:
        for _ in range(PEEL_DEPTH_MAX):
            if info is None or info[0] not in {"commit", "tag"} or info[1] > TAG_OBJECT_BYTES_MAX:
                return None
            if info[0] == "commit":
                return object_id
            # `object <id>` is the first line of every tag object
            object_id = (
                self._door.cat(object_id)[1].partition(b"\n")[0].removeprefix(b"object ").decode("ascii")
            )
            info = self._door.infos([object_id])[0]
            if info is None:
                raise GitFailed(f"object {object_id} is missing in {self._door.path}")
        return None
