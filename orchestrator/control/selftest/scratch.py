"""A deployment whose host and hooks have their failpoints on: it dies where the plan says, and is looked at then.

Failpoints need the variable in the environment of a process and the file `failpoints` in its deployment. Both are given
here and nowhere else outside the tests: the file to a deployment that was made for this, the variable to the processes
that are started here. This process itself is never armed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.control.client import ControlError, call, request
from orchestrator.control.clone import Clone
from orchestrator.control.config import VARIABLE, Deployment
from orchestrator.control.interrupts import uninterrupted
from orchestrator.control.selftest.errors import Broken, wait_until
from orchestrator.upgrade.journal import Journal, ModuleImage
from orchestrator.upgrade.ledger import Ledger, fold
from repo_store import failpoints

Served = dict[str, str]
"""Module → what is in service of it, in words that tell old and new apart."""
Facts = dict[str, Any]  # Any: JSON

START_S = 20.0
STOP_S = 20.0
END_S = 20.0  # how long a process that was killed may take to be gone
SAID_MAX = 2000  # characters of the host's last words in a failure


def end_group(leader: subprocess.Popen[Any]) -> None:  # Any: bytes or text
    """Kill what a process has started, itself included: a host has trials, a push has hooks."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, signal.SIGKILL)


class Scratch(ABC):
    """One deployment made for kills, a clone that pushes to it, and at most one host process."""

    def __init__(self, place: Deployment, clone: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.place: Deployment = place
        self.path: Path = place.path
        self.clone_path = clone
        self.log: Path = log
        self.env: dict[str, str] = {failpoints.VARIABLE: "1"}  # what makes it die; `calm` takes it away
        self.host: subprocess.Popen[bytes] | None = None
        self.answered = ""  # what the last push or command said
        self.plan_file = place.path / failpoints.PLAN_NAME
        self.trace_file = place.path / failpoints.LOG_NAME
        self._environment = environment
        self._begun: list[subprocess.Popen[str]] = []
        self.aim("")

    # -- what its subject says -------------------------------------------------------------------------------------

    @abstractmethod
    def serves(self) -> Served:
        """What the code in service says of itself."""

    @abstractmethod
    def table_of(self, ledger: Ledger) -> Served:
        """What the journal says is in service, in the words of `serves`."""

    @abstractmethod
    def go_further(self, tag: str) -> None:
        """Deploy another release, under this tag. Raises Broken if it does not go live."""

    @abstractmethod
    def remembers(self, images: Mapping[str, ModuleImage]) -> None:
        """See that the modules in service have the states of a clean stop, where that can be told. Raises Broken."""

    # -- its points ------------------------------------------------------------------------------------------------

    def aim(self, plan: str) -> None:
        """Write the plan of the failpoints, and forget what was reached so far."""
        self.plan_file.write_text(plan)
        self.trace_file.write_text("")

    def trace(self) -> list[tuple[str, int]]:
        """Every point that was reached since `aim`, in order: its name, and the how manieth time."""
        counts: Counter[str] = Counter()
        found = []
        for line in self.trace_file.read_text().splitlines():
            point = line.split()[0]
            counts[point] += 1
            found.append((point, counts[point]))
        return found

    def calm(self) -> None:
        """From the next start on, nothing dies on purpose any more, and this is a deployment like any other."""
        self.env = {}
        self.plan_file.unlink(missing_ok=True)

    # -- the host --------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Start a host, and return its pid once it answers. Raises Broken with its last words."""
        with uninterrupted():
            self.host = host = self.spawn()
        with suppress(Broken):
            wait_until(lambda: self.dead or self.answers(), "the host answers", START_S)
        if host.poll() is not None or not self.answers():
            ended = "does not answer" if host.poll() is None else f"ended with {host.returncode}"
            raise Broken("the host starts and answers", f"it {ended}: {self.said()[-SAID_MAX:].strip()}")
        return host.pid

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a host process, and do not wait for it; what it says goes to `said`."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "livetag", "run", str(self.path)],
                cwd=self.log.parent,  # where a module that writes to a relative path does no harm
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; and what it leaves behind can be ended with it
            )

    def _env(self) -> dict[str, str]:
        return {**self._environment, **self.env, VARIABLE: str(self.path)}

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

    @property
    def dead(self) -> bool:
        return self.host is None or self.host.poll() is not None

    def kill(self) -> None:
        """End the host as a power cut would (kill -9)."""
        if self.host is not None:
            self.host.kill()
            self.buried()

    def buried(self) -> None:
        """Let go of the host that has died, and of the trials that it left behind."""
        if self.host is not None:
            self.host.wait(END_S)
            end_group(self.host)
            self.host = None

    def stop(self) -> int:
        """End the host as a service manager would (SIGTERM); returns its exit code. Raises Broken if it stays."""
        if self.host is None:
            return 0
        self.host.send_signal(signal.SIGTERM)
        wait_until(lambda: self.dead, "the host stops when it is asked to", STOP_S)
        code = self.host.wait()
        self.buried()
        return code

    def close(self) -> None:
        """Leave no process behind, whatever happened: no host, and no push or command that nobody waited for."""
        self.kill()
        for process in self._begun:
            if process.poll() is None:
                end_group(process)
            with process:
                pass  # its pipe is closed, and it is waited for

    # -- what a user does ------------------------------------------------------------------------------------------

    def begin(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a push or a command, and do not wait for it; `close` ends it."""
        with uninterrupted():
            process = subprocess.Popen(
                command,
                cwd=self.clone_path,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._begun.append(process)
        return process

    def begin_push(self, *refs: str) -> subprocess.Popen[str]:
        return self.begin(["git", "push", "live", *refs])

    def begin_command(self, *arguments: str) -> subprocess.Popen[str]:
        return self.begin([sys.executable, "-m", "livetag", *arguments])

    def finished(self, process: subprocess.Popen[str], within_s: float) -> str:
        """Wait for a push or a command, and return what it said. Raises Broken if it does not end in time."""
        with process:
            try:
                said, _ = process.communicate(timeout=within_s)
            except subprocess.TimeoutExpired:
                end_group(process)
                raise Broken("a push or command ends", f"not within {within_s:g} s") from None
            except BaseException:  # Ctrl-C must not wait for it
                end_group(process)
                raise
        return said

    # -- what can be read ------------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """What the journal of the dead host says."""
        journal = Journal.open(self.place.journal, time.time)
        try:
            return fold(journal.records())
        finally:
            journal.close()

    def images(self) -> dict[str, ModuleImage]:
        """The states of the last clean stop that no start has used, from the journal of the dead host."""
        journal = Journal.open(self.place.journal, time.time)
        try:
            return journal.load_images()
        finally:
            journal.close()

    def git(self, *args: str) -> str:
        """Run git in the deployment's bare store, as a person on that machine would."""
        return Clone(self.place.store, self._environment).run(*args)

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

    def call(self, op: str, **arguments: object) -> Any:
        """Ask the host for an operation. Raises ControlError."""
        return request(self.place.socket, op, arguments, timeout_s=60.0)

    def status(self) -> Facts:
        return dict(self.call("status"))

    def history(self) -> list[Facts]:
        """The transactions, newest first."""
        return list(self.call("history"))
