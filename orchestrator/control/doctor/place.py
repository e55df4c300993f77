"""The directory itself: its configuration, who may read it, its lock and socket, and room on the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.control.config import Deployment, load_config
from orchestrator.control.doctor.findings import Case, Finding
from orchestrator.control.wire import reachable
from repo_store import failpoints
from repo_store.errors import StoreError
from repo_store.policy_files import load_policy

FREE_MIN_BYTES = 100 << 20
PROBE_S = 2.0


def running_host(deployment: Deployment) -> int | None:
    """The pid of the host that holds the deployment's lock, 0 if it does not say; None: no host runs."""
    try:
        with (deployment.path / "host.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = lock.read(32).decode("ascii", "replace").strip()
                return int(said) if said.isdecimal() else 0
    except OSError:
        return None
    return None


def config(case: Case) -> Iterator[Finding]:
    """Whether a host can start with this livetag.toml, and the files of its policy can be trusted."""
    try:
        load_config(case.deployment)
        load_policy(case.deployment.path)  # the files of the strict policy, too
    except (StoreError, OSError) as error:
        yield Finding(
            "config",
            False,
            str(error),
            "Correct it: a host does not start with such a livetag.toml, and permits nothing by such policy files.",
        )
    else:
        yield Finding("config", True, "livetag.toml can be read")


def host(case: Case) -> Iterator[Finding]:
    """Whether a host runs, and if not, whether the last one left on purpose."""
    if case.host_runs:
        yield Finding("host", True, f"a host runs (pid {case.host_pid or 'unknown'})")
    elif case.ledger is not None and case.ledger.running:
        start = f"livetag run {case.deployment.path}"
        what = "no host runs, and the last one did not stop: it was killed, or the machine went down"
        yield Finding("host", False, what, f"Start it: {start}. What was in service comes back.")
    else:
        yield Finding("host", True, "no host runs; the last one stopped on purpose, or there was none")


def control_socket(case: Case) -> Iterator[Finding]:
    """Whether a host answers at the control socket, or it was left behind."""
    path = case.deployment.socket
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if case.host_runs:
            yield Finding(
                "socket", False, f"{path} is gone", "The host puts it back within seconds; look again."
            )
        else:
            yield Finding("socket", True, "no control socket, as no host runs")
        return
    if not stat.S_ISSOCK(mode):
        yield Finding(
            "socket", False, f"{path} is not a socket", "Move it away: no host can start with it there."
        )
    elif _answers(path):
        yield Finding("socket", True, "somebody answers at the control socket")
    elif case.host_runs:
        todo = (
            "The host may be busy; look again, then at its log. If it stays so: stop the host and start it."
        )
        yield Finding("socket", False, "a host runs, and nobody answers at its control socket", todo)
    else:
        yield Finding(
            "socket",
            False,
            f"{path} was left behind by a host that was killed",
            "The next start replaces it.",
            lambda: _remove(path),
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, reachable(path) as address:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError, TimeoutError):
            return False
        except OSError:
            return True  # forbidden or full, but there
    return True


def _remove(path: Path) -> str:
    path.unlink(missing_ok=True)
    return f"removed {path}"


def permissions(case: Case) -> Iterator[Finding]:
    """Whether only the owner may read and write what holds state, and this user can."""
    deployment = case.deployment
    private = [deployment.journal, deployment.config_file, *deployment.journal.parent.glob("journal.db-*")]
    open_to_others = [path for path in private if path.exists() and path.stat().st_mode & 0o077]
    for path in open_to_others:
        mode = stat.S_IMODE(path.stat().st_mode)
        yield Finding(
            "permissions",
            False,
            f"{path} has mode {mode:04o}: others than its owner may read or write it",
            f"chmod 600 {path}",
            lambda path=path: _make_private(path),  # type: ignore[misc]
        )
    tags = deployment.store / "refs" / "tags"
    folders = [tags, *filter(os.path.isdir, tags.glob("*"))]
    needed = [deployment.path, deployment.store, *folders, deployment.stage, deployment.journal]
    closed = [path for path in needed if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    for path in closed:
        yield Finding(
            "permissions",
            False,
            f"this user may not read and write {path}",
            "Run livetag as the deployment's owner, or give the directory back to that user (chown -R).",
        )
    if not open_to_others and not closed:
        yield Finding(
            "permissions", True, "the journal is its owner's alone, and this user may write everywhere"
        )


def _make_private(path: Path) -> str:
    path.chmod(0o600)
    return f"made {path} readable by its owner alone"


def disk(case: Case) -> Iterator[Finding]:
    """Whether there is room for the journal, the stage and Git."""
    free = shutil.disk_usage(case.deployment.path).free
    files = os.statvfs(case.deployment.path)
    if free < FREE_MIN_BYTES:
        todo = "Make room: a journal that cannot be written ends all upgrades until a restart."
        yield Finding("disk", False, f"{free >> 20} MiB are free", todo)
    elif files.f_files and files.f_favail == 0:
        yield Finding("disk", False, "no inode is free", "Remove files from this file system.")
    else:
        yield Finding("disk", True, f"{free >> 20} MiB are free")


def tests_only(case: Case) -> Iterator[Finding]:
    """Whether this deployment was made for tests, in which a host dies on purpose."""
    plan = case.deployment.path / failpoints.PLAN_NAME
    if plan.exists():
        todo = f"If this is no test: remove {plan}. It works only together with {failpoints.VARIABLE}."
        yield Finding("failpoints", False, f"{plan} is there: a test's deployment", todo)
