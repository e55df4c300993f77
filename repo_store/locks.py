"""Lock files that a killed Git left in a repository: nobody takes them away, and each keeps a ref from ever moving.

Git makes `<ref>.lock`, writes it and renames it, and removes it when it ends by anything but SIGKILL or a power cut. It
cannot know a lock that was left behind from one that is held, so it never removes another's. We can say more: a ref is
locked for milliseconds, and every Git of a repository shows among the processes of the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

STALE_S = 60.0
_LONE = ("packed-refs.lock", "HEAD.lock", "config.lock")
_PROCESSES = Path("/proc")
# They run for long and lock no ref meanwhile. A push locks for its last moment only, and our hooks are a part of it.
_HARMLESS = (
    b"cat-file",
    b"log",
    b"fsck",
    b"push",
    b"send-pack",
    b"receive-pack",
    b"upload-pack",
    b"fetch-pack",
)


def locks(store: Path) -> list[Path]:
    """Every lock file of the refs of that bare repository, held or left behind."""
    lone = (store / name for name in _LONE)
    return [*(path for path in lone if path.exists()), *sorted((store / "refs").rglob("*.lock"))]


def age_s(path: Path) -> float:
    """How long ago the lock was made, in seconds; 0 if it is gone by now."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def remove_stale(store: Path) -> list[Path]:
    """Remove the locks that are older than `STALE_S` seconds, if no Git that could hold them is seen; return them.

    Raises OSError if one cannot be removed.
    """
    old = [path for path in locks(store) if age_s(path) >= STALE_S]
    if not old or git_at_work(store):
        return []
    for path in old:
        path.unlink(missing_ok=True)
    return old


def git_at_work(store: Path) -> bool:
    """Whether a Git process that may write to this repository is seen; False where processes cannot be listed."""
    wanted = os.fsencode(store)
    for process, arguments in _gits():
        if any(word in arguments for word in _HARMLESS):
            continue
        if any(wanted in argument for argument in arguments) or _stands_in(process, store):
            return True
    return False


def _gits() -> Iterator[tuple[Path, list[bytes]]]:
    if not _PROCESSES.is_dir():
        return
    for process in _PROCESSES.iterdir():
        if process.name.isdecimal():
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            name = os.path.basename(arguments[0])  # noqa: PTH119  # of bytes
            if name.startswith(b"git"):
                yield process, [name.removeprefix(b"git-"), *arguments[1:]]


def _stands_in(process: Path, store: Path) -> bool:
    try:
        return (process / "cwd").resolve().is_relative_to(store.resolve())
    except OSError:  # another user's: who may not look at it cannot be the one to judge
        return True
