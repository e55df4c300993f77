"""The keeper of a trial process, as the host sees it: started, asked, ended. What it does is in `trial_child`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from orchestrator.upgrade.trial_child import children_of
from orchestrator.upgrade.trial_protocol import SIZE_BYTES, Request

START_S = 20.0
"""How long an interpreter may take to start on a busy machine, beside the time of the trial itself."""

END_S = 10.0
"""How long one may take to clear up and exit, once asked to."""

# Nothing that is imported is garbage; the worker collects again, before it runs a release.
_BOOT = (
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.argv[1]); "
    "from orchestrator.upgrade.trial_child import main; main()"
)
_FOREIGN = ("GIT_", "PYTHON", "LIVETAG_", "SSH_", "LD_PRELOAD")


class KeeperProcess:
    """One keeper in a session and an environment of its own, with this process's import path. Raises OSError.

    It holds none of our descriptors, and ends when its input does: also at our kill -9.
    """

    def __init__(self) -> None:
        self._surroundings = _surroundings()
        paths, environment = self._surroundings
        self._errors = os.memfd_create("keeper.err")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _BOOT, json.dumps(paths)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=os.sep,  # a spare one must not hold a folder
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._errors)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fits(self) -> bool:
        """Whether it lives, and one started now would be like it."""
        return self._process.poll() is None and self._surroundings == _surroundings()

    def ask(self, request: Request, stop: threading.Event) -> bytes | None:
        """Send the request, return the bytes of the Ending, or what there is of it when the time is over.

        None: it has died, and said nothing.
        """
        assert self._process.stdin is not None  # noqa: S101 - both were asked for
        assert self._process.stdout is not None  # noqa: S101
        data = msgspec.msgpack.encode(request)
        deadline = time.monotonic() + START_S + request.limits.time_s
        with contextlib.suppress(BrokenPipeError):
            _send(self._process.stdin, len(data).to_bytes(SIZE_BYTES, "big") + data, deadline, stop)
        answer = _Reader(self._process.stdout)
        while answer.is_alive() and time.monotonic() < deadline and not stop.is_set():
            answer.join(0.05)
        if stop.is_set():
            _hang_up(self._process.stdin)  # the keeper clears up and says so
            answer.join(START_S)
        return answer.data if answer.data or answer.is_alive() else None

    def end(self) -> str:
        """Leave nothing of it: asked first, then killed together with all below it. Returns the last thing it said."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and self._process.poll() is not None:
                _hang_up(pipe)
        if self._process.stdin is not None:
            _hang_up(self._process.stdin)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            _kill_tree(self._process.pid)
            self._process.wait()
        if self._process.stdout is not None:
            _hang_up(self._process.stdout)
        said = os.pread(self._errors, 64 * 1024, 0).decode("utf-8", "replace").strip()
        os.close(self._errors)
        status = f"it ended with status {self._process.returncode} and no word"
        return said.splitlines()[-1] if said else status


class _Reader(threading.Thread):
    """Reads an answer from a pipe, so that the one who waits for it can also watch a clock."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="livetag-trial", daemon=True)
        self._pipe = pipe
        self.data = b""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            size = int.from_bytes(self._pipe.read(SIZE_BYTES), "big")
            self.data = self._pipe.read(size)


def _send(pipe: IO[bytes], data: bytes, deadline: float, stop: threading.Event) -> None:
    """Write all of it, unless the time is over first: a state is larger than a pipe, and one that stands still reads nothing.

    Raises BrokenPipeError.
    """
    os.set_blocking(pipe.fileno(), False)
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLOUT)
    left = memoryview(data)
    while left and time.monotonic() < deadline and not stop.is_set():
        if poll.poll(50):
            left = left[os.write(pipe.fileno(), left) :]


def _surroundings() -> tuple[list[str], dict[str, str]]:
    """What of this process a keeper takes over: where it imports from, and what a release sees of the environment."""
    return [str(Path(each).resolve()) for each in sys.path], _environment(os.environ)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What the release would see in the host, without what steers Git, Python or livetag itself."""
    names = [name for name in list(given) if not name.startswith(_FOREIGN)]
    values = ((name, given.get(name)) for name in names)  # a module may take one out at this moment
    return {**{name: value for name, value in values if value is not None}, "PYTHONDONTWRITEBYTECODE": "1"}


def _hang_up(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        pipe.close()


def _kill_tree(pid: int) -> None:
    """Kill a process and all below it, parents first, so that nothing new is started in between."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for child in children_of(pid):
        _kill_tree(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
