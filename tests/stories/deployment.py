"""A deployment for stories: the real `livetag init`, a real host process, a real clone that pushes to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.control.client import ControlError, call, request
from orchestrator.control.config import Deployment as Place
from orchestrator.control.init import create
from tests.git_fixtures import GitRepo, clean_environment

START_S = 20.0
STOP_S = 20.0
POLL_S = 0.01

Facts = dict[str, Any]  # Any: JSON


def wait_until(condition: Callable[[], object], what: str, within_s: float = 10.0) -> None:
    """Return once the condition holds; the test fails if it does not within the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


class Deployment:
    """One deployment directory, the clone of its user in `work`, and at most one host process that the test started."""

    def __init__(self, path: Path, like: Deployment | None = None) -> None:
        self.place: Place
        if like is None:
            self.place = create(path / "d", None, clean_environment())[0]
        else:  # a copy of one whose host does not run
            # A socket that a killed host has left behind cannot be copied.
            socket = shutil.ignore_patterns(like.place.socket.name)
            self.place = Place(shutil.copytree(like.path, path / "d", symlinks=True, ignore=socket))
            shutil.copytree(like.work.path, path / "work", symlinks=True)
        self.path: Path = self.place.path
        self.work: GitRepo = GitRepo(path / "work", self.place.store if like is None else None)
        if like is not None:
            self.work.git("remote", "set-url", "live", str(self.place.store))
        self.before: tuple[str, ...] = ()  # a command that runs the host and the command line
        self.env: dict[str, str] = {}  # beside the clean environment, for the host and for a push
        self.log = path / "host.log"
        self.host: subprocess.Popen[bytes] | None = None

    # -- the host --------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Start a host and return its pid once it answers."""
        assert self.host is None, "the host runs already"
        self.host = self.spawn()
        wait_until(self._answers_or_died, f"the host answers:\n{self.said()}", START_S)
        assert self.host.poll() is None, f"the host ended with {self.host.returncode}:\n{self.said()}"
        return self.host.pid

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a host process and do not wait for it; what it says goes to `said`."""
        with self.log.open("ab") as log:
            command = [*self.before, sys.executable, "-m", "livetag", "run", str(self.path)]
            return subprocess.Popen(
                command,
                env={**clean_environment(), **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _answers_or_died(self) -> bool:
        assert self.host is not None
        return self.host.poll() is not None or self.answers()

    def answers(self) -> bool:
        """Whether a host answers on the control socket."""
        try:
            call(self.place.socket, "ping", timeout_s=2.0)
        except ControlError:
            return False
        return True

    def said(self) -> str:
        """All that the hosts of this deployment have logged."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """End the host as a power cut would (kill -9)."""
        assert self.host is not None
        self.host.kill()
        self.host.wait(STOP_S)
        self.host = None

    def stop(self) -> int:
        """End the host as a service manager would (SIGTERM), and return its exit code."""
        assert self.host is not None
        self.host.send_signal(signal.SIGTERM)
        code = self.host.wait(STOP_S)
        self.host = None
        return code

    def close(self) -> None:
        """Leave no process behind, whatever the test did."""
        if self.host is not None:
            self.kill()

    # -- the clone -------------------------------------------------------------------------------------------------

    def write(self, module: str, files: Mapping[str, str] | str) -> None:
        """Write a module's files, by name inside its folder; one text is its `__init__.py`."""
        for name, text in ({"__init__.py": files} if isinstance(files, str) else files).items():
            self.work.write(f"modules/{module}/{name}", text)

    def release(self, *tags: str, message: str = "change") -> str:
        """Commit the work tree, tag the commit, and return its id. Nothing is pushed."""
        commit_id = self.work.commit(message)
        for tag in tags:
            self.work.tag(tag)
        return commit_id

    def push(self, *refs: str, force: bool = False) -> subprocess.CompletedProcess[str]:
        """Push; the caller looks at the exit code and at what the push printed (`stderr`)."""
        return self.work.push(*refs, force=force, check=False)

    def deploy(self, *tags: str, **modules: str) -> str:
        """Write modules, release them under the tags, push, see that it went live; return the commit id."""
        for module, code in modules.items():
            self.write(module, code)
        commit_id = self.release(*tags)
        done = self.push("main", *tags)
        assert done.returncode == 0, done.stderr
        return commit_id

    # -- the store -------------------------------------------------------------------------------------------------

    def git(self, *args: str) -> str:
        """Run git in the deployment's bare store, as a person on that machine would."""
        return self.work.git(f"--git-dir={self.place.store}", *args)

    def tags(self) -> list[str]:
        """The tags that the store has."""
        return self.git("for-each-ref", "--format=%(refname:lstrip=2)", "refs/tags").split()

    def deployments(self) -> list[dict[str, list[str]]]:
        """What `git log deployments` tells, oldest first: trailer → its values."""
        if not self.git("for-each-ref", "refs/heads/deployments"):
            return []  # it follows the outcome by a moment
        log = self.git("log", "--reverse", "--format=%(trailers:only,unfold)%x00", "deployments")
        found = []
        for text in filter(None, (part.strip() for part in log.split("\0"))):
            trailers: dict[str, list[str]] = {}
            for line in text.splitlines():
                key, _, value = line.partition(": ")
                trailers.setdefault(key, []).append(value)
            found.append(trailers)
        return found

    # -- the control socket ----------------------------------------------------------------------------------------

    def call(self, op: str, **arguments: object) -> Any:
        """Ask the host for an operation. Raises ControlError."""
        return request(self.place.socket, op, arguments, timeout_s=60.0)

    def ask(self, module: str, type_: str, **body: object) -> Any:
        return self.call("ask", name=module, type=type_, body=body)

    def send(self, module: str, type_: str, **body: object) -> None:
        self.call("send", name=module, type=type_, body=body)

    def status(self) -> Facts:
        return dict(self.call("status"))

    def history(self) -> list[Facts]:
        """The transactions, newest first."""
        return list(self.call("history"))

    def version(self, module: str = "counter") -> str | None:
        """The version of a module in service, None if there is no such module."""
        row = self.status()["modules"].get(module)
        return None if row is None else str(row["version"])

    def livetag_in_clone(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command as one does who stands in the clone."""
        return self.livetag(*args, cwd=self.work.path)

    def livetag(self, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line on this deployment."""
        return subprocess.run(
            [*self.before, sys.executable, "-m", "livetag", *args],
            cwd=cwd,
            env={**clean_environment(), "LIVETAG_DIR": os.fspath(self.path), "PYTHONPATH": os.getcwd()},  # noqa: PTH109
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def prepared(path: Path, make: Callable[[Deployment], object]) -> Deployment:
    """A deployment that `make` has brought to where tests begin, its host stopped: to be copied for each (`like`)."""
    with deployed(path) as made:
        make(made)
        wait_until(lambda: len(made.deployments()) == len(made.history()), "the history is written")
        assert made.stop() == 0, made.said()
    return made


@contextmanager
def deployed(path: Path, *, start: bool = True, like: Deployment | None = None) -> Iterator[Deployment]:
    """A deployment with its host running, unless `start` is False; nothing of it outlives the block."""
    deployment = Deployment(path, like)
    try:
        if start:
            deployment.start()
        yield deployment
    finally:
        deployment.close()
