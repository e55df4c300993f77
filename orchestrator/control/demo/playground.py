"""A temporary deployment with its host and a clone to push from; all of it is gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from orchestrator.control.client import ControlError, request
from orchestrator.control.clone import Clone
from orchestrator.control.config import CLONE_SETTING
from orchestrator.control.init import HISTORY_REFSPECS, REMOTE, create
from orchestrator.control.interrupts import uninterrupted

START_S = 20.0
STOP_S = 10.0
POLL_S = 0.02


class DemoFailed(Exception):
    """The demo could not be played to its end; the message says where it stopped."""


@dataclass(frozen=True, slots=True)
class Push:
    """How one `git push` ended, and what it said."""

    exit_code: int
    said: str
    seconds: float


class Playground:
    """Makes a deployment and a clone in a temporary directory, starts processes there, and ends them all."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline  # on the monotonic clock
        self._root = Path(tempfile.mkdtemp(prefix="livetag-demo-"))
        self._children: list[subprocess.Popen[bytes]] = []
        self._host: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # the whole group: a push has hooks, a host has trials
            child.wait()
        shutil.rmtree(self._root, ignore_errors=True)

    def _make(self) -> None:
        home = self._root / "home"
        home.mkdir()
        # The user's own Git settings (signing, hooks, templates) are for the user's work, not for this.
        self._env = {**os.environ, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        self._env.pop("XDG_CONFIG_HOME", None)
        self.deployment, _ = create(self._root / "live", None, self._env)
        self.work = self._root / "work"
        self.work.mkdir()
        self._clone = Clone(self.work, self._env)
        self._clone.run("init", "--quiet", "--initial-branch=main")
        self._clone.run("remote", "add", REMOTE, str(self.deployment.store))
        for refspec in HISTORY_REFSPECS:
            self._clone.run("config", "--add", f"remote.{REMOTE}.fetch", refspec)
        self._clone.run("config", CLONE_SETTING, str(self.deployment.path))
        self._clone.run("config", "user.name", "livetag demo")
        self._clone.run("config", "user.email", "demo@localhost")

    def file(self, name: str) -> Path:
        """A place for a file of the demo's own."""
        return self._root / name

    def left_s(self) -> float:
        """Seconds until the demo must be over. Raises DemoFailed if none are left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DemoFailed("it took longer than it may; the machine may be busy, so try again")
        return left

    # -- Git ---------------------------------------------------------------------------------------------------

    def commit(self, message: str) -> str:
        """Commit the work tree as it is; returns the commit id."""
        self._clone.run("add", "--all")
        self._clone.run("commit", "--quiet", "--message", message)
        return self._clone.run("rev-parse", "HEAD")

    def tag(self, name: str, commit_id: str = "HEAD") -> None:
        self._clone.run("tag", "--annotate", "--message", name, name, commit_id)

    def push(self, *refs: str) -> Push:
        """Run `git push`, and wait for its end."""
        began = time.monotonic()
        command = ["git", "-C", str(self.work), "push", REMOTE, *refs]
        child = self._start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = child.communicate(timeout=self.left_s())
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"git push {' '.join(refs)} did not end in time") from None
        return Push(child.returncode, said.decode(errors="replace"), time.monotonic() - began)

    def has_tag(self, name: str) -> bool:
        """Say whether the tag is in the store."""
        return bool(Clone(self.deployment.store, self._env).run("tag", "--list", name))

    def log(self) -> list[str]:
        """`git log deployments` as the clone sees it after a fetch, one line for each entry."""
        self._clone.run("fetch", "--quiet", REMOTE)
        return self._clone.run("log", "--format=%h %s", "refs/deployments").splitlines()

    # -- the host ----------------------------------------------------------------------------------------------

    def start_host(self) -> None:
        """Start `livetag run`, and wait until it answers. Raises DemoFailed with its last words."""
        output = self.file("host.out")
        with output.open("wb") as file:
            command = [sys.executable, "-m", "livetag", "run", str(self.deployment.path)]
            self._host = self._start(command, stdout=file, stderr=file)
        end = time.monotonic() + min(START_S, self.left_s())
        while time.monotonic() < end and self._host.poll() is None:
            with suppress(ControlError):
                self.ask("ping")
                return
            time.sleep(POLL_S)
        raise DemoFailed(f"the host did not start: {output.read_text(errors='replace')[-2000:]}")

    def ask(self, op: str, **arguments: object) -> Any:
        """Ask the host. Raises ControlError."""
        return request(self.deployment.socket, op, arguments, timeout_s=min(10.0, self.left_s()))

    def stop_host(self) -> int | None:
        """Stop the host as an operator would; returns its exit code, None if it did not end."""
        if self._host is None:
            return None
        self._host.terminate()
        try:
            return self._host.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            return None

    def _start(self, command: list[str], *, stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, so that Ctrl-C reaches us and we end it in order."""
        with uninterrupted():
            child = subprocess.Popen(
                command,
                cwd=self._root,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            self._children.append(child)
        return child
