"""Files that decide who may deploy: read only if nobody else could have written them, as ssh reads its own.

Whoever can write such a file, or put another in its place, is permitted everything. So the file and the folder it lies
in must belong to the owner of the deployment or to root, and be writable by nobody else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from repo_store.errors import PolicyUnreadable

FILE_BYTES_MAX = 1 << 20


def read_trusted(path: Path) -> bytes | None:
    """Give the content of a policy file; None if there is none. Raises PolicyUnreadable."""
    try:
        owners = {0, _checked_folder(path.parent)}
        # Opened first and looked at then: what was judged is what is read, whatever is renamed meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise PolicyUnreadable(f"{path} is not a plain file, so nobody is permitted anything by it.")
        _check(path, found, owners, "0600")
        try:
            data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
    if len(data) > FILE_BYTES_MAX:
        raise PolicyUnreadable(f"{path} is larger than {FILE_BYTES_MAX} bytes. Nothing is permitted by it.")
    return data


def _checked_folder(folder: Path) -> int:
    found = folder.stat()
    _check(folder, found, {0, found.st_uid}, "0700")
    return found.st_uid


def _check(path: Path, found: os.stat_result, owners: set[int], mode: str) -> None:
    if found.st_uid not in owners:
        raise PolicyUnreadable(
            f"{path} decides who may deploy and belongs to the user {found.st_uid}, not to the owner of the "
            f"deployment. Nothing was permitted. Take it over: chown {min(owners - {0}, default=0)} {path}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PolicyUnreadable(
            f"{path} decides who may deploy, and others than its owner can write it (mode "
            f"{stat.S_IMODE(found.st_mode):04o}). Nothing was permitted. Make it e.g. {mode}: chmod go-w {path}"
        )


def _unreadable(path: Path, error: OSError) -> PolicyUnreadable:
    return PolicyUnreadable(
        f"{path} decides who may deploy and cannot be read ({error.strerror}), so nothing is permitted. Whoever "
        "pushes must be able to read it: give the group of the repository that right (chmod g+r)."
    )
