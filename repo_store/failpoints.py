"""Named points at which a test has the process die, fail or wait: before and after each step that reaches the disk.

Off, a point costs one comparison. It is on only where two things come together, so that no setting that was left
behind can hurt a deployment: the environment variable LIVETAG_FAILPOINTS of the process, and the file `failpoints` in
the deployment directory, which the tests write. The file is the plan, read anew at each point:

    journal.sync:before 2 kill        # the second time that it is reached since the plan was written

Actions: `kill` (SIGKILL), `raise`, `eio`, `enospc`, `sleep SECONDS`. Each point that is reached is written to
`failpoints.log` beside it. The journal, the stage and the hooks reach their points from deep inside, and each process is
armed once or never, so what is armed belongs to the process: it is the one thing that this product keeps at module level.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

VARIABLE: Final = "LIVETAG_FAILPOINTS"
PLAN_NAME: Final = "failpoints"
LOG_NAME: Final = "failpoints.log"

STEPS: Final = (
    "journal.write",  # the rows of a batch, in SQLite's transaction
    "journal.sync",  # its COMMIT: written ahead and synced
    "switch.record",  # COMMITTED gets its number and waits for the writer
    "stage.folder",
    "stage.files",
    "stage.describe",
    "stage.sync",
    "stage.rename",
    "stage.sync-folder",
    "stage.sweep",
    "refs.push",  # proc-receive writes the tags of a push
    "refs.refused",  # and takes them back
    "refs.keep",
    "refs.let-go",
    "refs.rollback",
    "refs.deployments",  # the branch and refs/live/*
    "history.object",
    "tags.object",
    "recovery.started",  # with the end of what was under way, and what the host before died of
    "recovery.quarantined",
    "recovery.put-back",
    "recovery.image-used",
    "recovery.confirmed",
    "recovery.settled",
    "probation.confirmed",
    "probation.inconclusive",
    "probation.breached",
    "probation.degraded",
    "stop.image",
    "stop.stopped",
    "socket.bind",
)
"""Every step that has a point before and a point after it. The crash matrix fails for one that it never reaches."""

POINTS: Final = tuple(f"{step}:{side}" for step in STEPS for side in ("before", "after"))


class FailpointsRefused(Exception):
    """LIVETAG_FAILPOINTS is set for a deployment that is not a test's."""


class FailpointReached(Exception):
    """What `raise` raises: an error that no code expects."""


class _Armed:
    """What one process does at its points."""

    def __init__(self, folder: Path) -> None:
        self._plan_path = folder / PLAN_NAME
        self._log_path = folder / LOG_NAME
        self._lock = threading.Lock()
        self._plan = ""
        self._reached: dict[str, int] = {}

    def reach(self, point: str) -> None:
        if point not in POINTS:
            raise FailpointReached(f"{point} is not in failpoints.STEPS; add it there")
        with self._lock:
            plan = self._plan_path.read_text() if self._plan_path.exists() else ""
            if plan != self._plan:
                self._plan, self._reached = plan, {}
            times = self._reached[point] = self._reached.get(point, 0) + 1
            with self._log_path.open("a") as log:
                log.write(f"{point} {times} {os.getpid()}\n")
        for line in plan.splitlines():
            named, number, action, *rest = [*line.split(), "", "", ""]
            if named == point and number in {str(times), "*"}:
                _act(action, point, rest)


def _act(action: str, point: str, rest: list[str]) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a process can outlive its own signal by a moment, in another thread
    elif action == "sleep":
        time.sleep(float(rest[0]))
    elif action in {"eio", "enospc"}:
        number = errno.EIO if action == "eio" else errno.ENOSPC
        raise OSError(number, os.strerror(number), f"failpoint {point}")
    elif action == "raise":
        raise FailpointReached(f"failpoint {point}")
    else:
        raise FailpointReached(f"failpoint {point}: no action {action!r}")


_armed: _Armed | None = None


def arm(folder: Path, environ: Mapping[str, str]) -> bool:
    """Turn the points of this process on for the deployment in `folder`, if both marks are there; True: they are on.

    Called once, when a process starts. Raises FailpointsRefused if the variable is set and the file is not there.
    """
    global _armed  # noqa: PLW0603  # see the head of this file
    if not environ.get(VARIABLE):
        return False
    if not (folder / PLAN_NAME).is_file():
        raise FailpointsRefused(
            f"{VARIABLE} is set, which makes livetag die and fail on purpose, and {folder} is not a test's deployment; "
            f"nothing was started. Unset the variable."
        )
    _armed = _Armed(folder)
    return True


def disarm() -> None:
    """Turn them off again, for tests that arm their own process."""
    global _armed  # noqa: PLW0603
    _armed = None


def armed() -> bool:
    """Whether the points of this process are on."""
    return _armed is not None


def reach(point: str) -> None:
    """Do here what the plan of the test asks for; nothing at all when they are off."""
    if _armed is not None:
        _armed.reach(point)


class step:  # noqa: N801  # reads as a phrase in a with statement
    """`with step("journal.sync"):` reaches the points before and, if the block did not raise, after it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        if _armed is not None:
            _armed.reach(self._name + ":before")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _armed is not None and kind is None:
            _armed.reach(self._name + ":after")
