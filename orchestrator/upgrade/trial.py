"""Trying a release in a process of its own before the host loads any of it (DESIGN section 7, step 2).

A hang, a crash or a memory hog dies there; what it was doing comes back as a sentence.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial_child import Ending, children_of
from orchestrator.upgrade.trial_protocol import CALLS, ChildLimits, Rehearsal, Report, Request, limit_name
from repo_store.errors import ReleaseInvalid, StagingFailed
from repo_store.manifest import ModuleManifest, TrialSection

START_S = 20.0
"""How long an interpreter may take to start on a busy machine, beside the time of the trial itself."""

# Nothing that is imported is garbage; the worker collects again, before it runs a release.
_BOOT = (
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.argv[1]); "
    "from orchestrator.upgrade.trial_child import main; main()"
)
_ENDING = msgspec.msgpack.Decoder(Ending)  # trials end in threads, see orchestrator.runtime.first_use
_FOREIGN = ("GIT_", "PYTHON", "LIVETAG_", "SSH_", "LD_PRELOAD")


class TrialReport(msgspec.Struct, frozen=True):
    """A trial that went well: the release's Description as JSON, and the seconds of each step.

    The others as in the worker's `Report`.
    """

    description: bytes
    seconds: dict[str, float]
    migration_s: float | None = None
    lost: tuple[str, ...] | None = None
    first_state: bytes | None = None
    went_down: bytes | None = None
    tables_down: tuple[TableImage, ...] = ()


def describe(path: Path, package: str, manifest: ModuleManifest, trial: TrialSection | None = None) -> bytes:
    """Import a staged release in a child process and return its Description as JSON bytes. Blocks: for threads.

    Raises ReleaseInvalid if the release is at fault, StagingFailed if the child could not do its work.
    """
    request = _request(path, package, manifest, trial or TrialSection(), None)
    try:
        return run_child(request, package).description
    except TrialFailed as error:
        if error.fault == "release":
            raise ReleaseInvalid(error.message) from error
        raise StagingFailed(error.message) from error


async def trial(
    path: Path,
    package: str,
    manifest: ModuleManifest,
    rehearsal: Rehearsal,
    trial: TrialSection | None = None,
) -> TrialReport:
    """Import, construct, give it a state, prepare, test and stop a release in a child process under limits.

    Raises TrialFailed. Cancelling it ends the child first.
    """
    request = _request(path, package, manifest, trial or TrialSection(), rehearsal)
    stop = threading.Event()
    label = f"{rehearsal.name} {rehearsal.version}"
    work = asyncio.ensure_future(in_own_thread(run_child, request, label, stop))
    try:
        report = await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # looked at, so that nobody is warned of it
        raise
    return TrialReport(
        report.description,
        report.seconds,
        report.migration_s,
        report.lost,
        report.first_state,
        report.went_down,
        report.tables_down,
    )


def _request(
    path: Path, package: str, manifest: ModuleManifest, trial: TrialSection, rehearsal: Rehearsal | None
) -> Request:
    tops = (package, *(folder.rpartition("/")[2] for folder in manifest.shared))
    limits = ChildLimits(trial.memory_mb, manifest.limits.load_s, trial.time_s)
    return Request(str(path.resolve()), tops, package, manifest.entry, limits, rehearsal)


def run_child(request: Request, label: str, stop: threading.Event | None = None) -> Report:
    """Run one request in a trial process and return its good report; `label` names the release in messages.

    No process of it is left when this returns or raises. Setting `stop` ends it early. Raises TrialFailed.
    """
    with tempfile.TemporaryDirectory(prefix="livetag-trial-", ignore_cleanup_errors=True) as scratch:
        try:
            process = _start(Path(scratch))
        except OSError as error:
            raise _moment(label, f"the process could not be started: {error}") from error
        try:
            data = _talk(process, request, stop or threading.Event())
        finally:
            _end(process)
        said = (Path(scratch) / "keeper.err").read_text(encoding="utf-8", errors="replace").strip()
    try:
        ending = _ENDING.decode(data)
    except msgspec.DecodeError:
        last = said.splitlines()[-1] if said else f"it ended with status {process.returncode} and no word"
        raise _moment(label, last) from None
    return _judge(ending, request, label)


def _start(scratch: Path) -> "subprocess.Popen[bytes]":
    """Start the keeper in a session, a folder and an environment of its own, with this process's import path."""
    paths = [str(Path(each).resolve()) for each in sys.path]
    work = scratch / "work"
    work.mkdir()
    with (scratch / "keeper.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _BOOT, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=work,
            env=_environment(os.environ, work),
            start_new_session=True,
        )


def _environment(given: Mapping[str, str], work: Path) -> dict[str, str]:
    """What the release would see in the host, without what steers Git, Python or livetag itself."""
    kept = {key: value for key, value in given.items() if not key.startswith(_FOREIGN)}
    return {**kept, "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1"}


def _talk(process: "subprocess.Popen[bytes]", request: Request, stop: threading.Event) -> bytes:
    """Send the request, return the bytes of the Ending, or what there is of it when the time is over."""
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    data = msgspec.msgpack.encode(request)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(len(data).to_bytes(8, "big") + data)
        process.stdin.flush()
    answer = _Reader(process.stdout)
    deadline = time.monotonic() + START_S + request.limits.time_s
    while answer.is_alive() and time.monotonic() < deadline and not stop.is_set():
        answer.join(0.05)
    if stop.is_set():
        _hang_up(process.stdin)  # the keeper clears up and says so
        answer.join(START_S)
    return answer.data


class _Reader(threading.Thread):
    """Reads a pipe to its end, so that the one who waits for it can also watch a clock."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="livetag-trial", daemon=True)
        self._pipe = pipe
        self.data = b""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.data = self._pipe.read()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Leave nothing: a keeper that still lives is asked, then killed together with all below it."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None and process.poll() is not None:
            _hang_up(pipe)
    if process.stdin is not None:
        _hang_up(process.stdin)
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        _kill_tree(process.pid)
        process.wait()
    if process.stdout is not None:
        _hang_up(process.stdout)


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


def _moment(label: str, reason: str) -> TrialFailed:
    return TrialFailed(
        "start",
        f"{label} could not be tried: {reason}. This says nothing about the release. If it stays, look at memory, "
        "processes and disk of the host.",
        "moment",
    )


def _judge(ending: Ending, request: Request, label: str) -> Report:
    """Return the report of a release that passed; raise TrialFailed with a sentence for every other end."""
    if ending.stopped:
        raise _moment(label, "it was stopped on request")
    if ending.report is not None:
        if ending.report.failed is None:
            return ending.report
        raise _release(ending, label, ending.report.failed)
    if ending.crowd:
        raise _release(ending, label, f"{_call(ending)} had {ending.crowd}")
    if ending.late_s is not None:
        limit = limit_name(ending.step, request.limits)
        what = f"{_call(ending)} did not end within {limit} = {ending.late_s:g} s{_at(ending, request)}"
        raise _release(ending, label, what)
    return _judge_death(ending, request, label)


def _judge_death(ending: Ending, request: Request, label: str) -> Report:
    status = ending.status or 0
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            raise _moment(label, f"its process was killed during {_call(ending)}, perhaps for want of memory")
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        raise _release(ending, label, f"{_call(ending)} crashed with {name}{_at(ending, request)}")
    what = f"{_call(ending)} ended the process with status {os.WEXITSTATUS(status)}{_at(ending, request)}"
    raise _release(ending, label, what)


def _release(ending: Ending, label: str, what: str) -> TrialFailed:
    printed = ending.output.splitlines()
    last = f" Its last output: {printed[-1][:200]!r}." if printed and ending.report is None else ""
    return TrialFailed(ending.step, f"{label} failed its trial: {what.rstrip('.')}.{last}")


def _call(ending: Ending) -> str:
    return CALLS.get(ending.step, ending.step)


_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)


def _at(ending: Ending, request: Request) -> str:
    """` (counter/core.py line 4 in spin)`: the innermost line of the author's in the stack that was left behind."""
    for frame in _FRAME.finditer(ending.stack):
        name = frame["file"]
        if name.startswith(request.folder + os.sep):
            own = name[len(request.folder) + 1 :]
            return f" ({own} line {frame['line']} in {frame['function']})"
    return ""
