"""Trying a release in a process of its own before the host loads any of it (DESIGN section 7, step 2).

A hang, a crash or a memory hog dies there; what it was doing comes back as a sentence.
"""

import asyncio
import os
import re
import signal
import tempfile
import threading
from pathlib import Path

import msgspec

from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial_child import Ending
from orchestrator.upgrade.trial_keeper import KeeperProcess
from orchestrator.upgrade.trial_keepers import Keepers
from orchestrator.upgrade.trial_protocol import CALLS, ChildLimits, Rehearsal, Report, Request, limit_name
from repo_store.errors import ReleaseInvalid, StagingFailed
from repo_store.manifest import ModuleManifest, TrialSection

_ENDING = msgspec.msgpack.Decoder(Ending)  # trials end in threads, see orchestrator.runtime.first_use


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


def describe(
    path: Path,
    package: str,
    manifest: ModuleManifest,
    trial: TrialSection | None = None,
    keepers: Keepers | None = None,
) -> bytes:
    """Import a staged release in a child process and return its Description as JSON bytes. Blocks: for threads.

    Raises ReleaseInvalid if the release is at fault, StagingFailed if the child could not do its work.
    """
    request = _request(path, package, manifest, trial or TrialSection(), None)
    try:
        return run_child(request, package, keepers=keepers).description
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
    *,
    keepers: Keepers | None = None,
) -> TrialReport:
    """Import, construct, give it a state, prepare, test and stop a release in a child process under limits.

    Raises TrialFailed. Cancelling it ends the child first.
    """
    request = _request(path, package, manifest, trial or TrialSection(), rehearsal)
    stop = threading.Event()
    label = f"{rehearsal.name} {rehearsal.version}"
    work = asyncio.ensure_future(in_own_thread(run_child, request, label, stop, keepers))
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


def run_child(
    request: Request, label: str, stop: threading.Event | None = None, keepers: Keepers | None = None
) -> Report:
    """Run one request in a trial process and return its good report; `label` names the release in messages.

    No process of it is left when this returns or raises; of `keepers`, the keeper of a release that was described waits there
    for its trial. Setting `stop` ends it early. Raises TrialFailed.
    """
    stop = stop or threading.Event()
    with tempfile.TemporaryDirectory(prefix="livetag-trial-", ignore_cleanup_errors=True) as scratch:
        work = Path(scratch) / "work"
        work.mkdir()
        request = msgspec.structs.replace(request, work=str(work))
        keeper, data = _asked(request, label, stop, keepers)
        try:
            report = _judge(_ENDING.decode(data), request, label)
        except msgspec.DecodeError:
            raise _moment(label, keeper.end()) from None
        except TrialFailed as failed:
            keeper.end()
            if failed.fault == "release" and not Path(request.folder).is_dir():
                raise _moment(label, f"{request.folder} is no longer there") from failed
            raise
        if keepers is None or request.rehearsal is not None:
            keeper.end()
        else:
            keepers.keep(keeper, request.folder)
    return report


def _asked(
    request: Request, label: str, stop: threading.Event, keepers: Keepers | None
) -> tuple[KeeperProcess, bytes]:
    """Ask the keeper that is held for this release, else one of its own; returns who was asked, and what it said."""
    held = keepers.take(request.folder, to_try=request.rehearsal is not None) if keepers is not None else None
    if held is not None:
        said = held.ask(request, stop)
        if said is not None:
            return held, said
        held.end()  # it had died while it waited, of which the release knows nothing
    try:
        keeper = KeeperProcess()
    except OSError as error:
        raise _moment(label, f"the process could not be started: {error}") from error
    return keeper, keeper.ask(request, stop) or b""


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
