"""One host per deployment directory: a lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DeploymentInUse(Exception):
    """Another host runs in this directory; the message names its process."""


@contextmanager
def only_host(path: Path) -> Iterator[None]:
    """Hold the lock file inside the block. Raises DeploymentInUse if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise DeploymentInUse(
                f"A host (pid {pid}) already runs in {path.parent}; nothing was started. "
                "Look at it with `livetag status`, or stop it first."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
