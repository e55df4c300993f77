"""The trial process: a keeper that runs no author code, and the worker, forked from it, that does.

The host speaks only to the keeper: a request on stdin, an `Ending` on stdout. An end of stdin means: stop now.
The keeper is the reaper of every orphan below it, so when it exits no process of the release is left, whatever
session it had hidden in.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import BinaryIO

import msgspec

from orchestrator.upgrade import trial_worker
from orchestrator.upgrade.trial_crowd import Crowd, below
from orchestrator.upgrade.trial_protocol import LOADING, SIZE_BYTES, Report, Request

ANSWER_BYTES_MAX = 16 * 1024 * 1024
OUTPUT_KEPT = 2_000
REAP_S = 5.0
ALONE_S = 0.01  # a worker that left nothing behind is reaped within this, and /proc need not be read for it
_PR_SET_CHILD_SUBREAPER = 36
_REQUEST = msgspec.msgpack.Decoder(Request)
_REPORT: msgspec.json.Decoder[Report | str] = msgspec.json.Decoder(Report | str)


class Ending(msgspec.Struct, frozen=True):
    """How the worker ended: with a `report`, `late`, `stopped` on request, dead with a wait `status`, or for its `crowd`."""

    step: str
    report: Report | None = None
    late_s: float | None = None
    stopped: bool = False
    status: int | None = None
    crowd: str = ""
    stack: str = ""
    output: str = ""


def main() -> None:
    """Serve requests until there are no more, and exit; the only entry point, run as a program."""
    _adopt_orphans()
    while (request := _read_request(sys.stdin.buffer)) is not None:
        keeper = Keeper(request)
        data = msgspec.msgpack.encode(keeper.run())
        with contextlib.suppress(BrokenPipeError):  # the host is gone, and nobody is left to tell
            sys.stdout.buffer.write(len(data).to_bytes(SIZE_BYTES, "big") + data)
            sys.stdout.buffer.flush()
        if not keeper.alone:
            break  # what it could not end would be held against the next
    os._exit(0)


def _read_request(stdin: BinaryIO) -> Request | None:
    size = int.from_bytes(stdin.read(SIZE_BYTES), "big")
    return _REQUEST.decode(stdin.read(size)) if size else None


def _adopt_orphans() -> None:
    """Become the parent of whatever a double fork below leaves behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Keeper:
    """Starts the worker, watches its clock, its answer and its output, and clears up after it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.alone = False  # whether nothing of the release is left
        self._step = "start"
        self._report: Report | None = None
        self._answer = bytearray()
        self._output = bytearray()
        self._faults = os.memfd_create("faults")
        self._answer_read, answer_write = os.pipe()
        self._output_read, output_write = os.pipe()
        self._started = time.monotonic()
        self._crowd = Crowd(request.limits.memory_mb)
        self._worker = os.fork()
        if self._worker == 0:
            os.close(self._answer_read)
            os.close(self._output_read)
            trial_worker.run(request, answer_write, output_write, self._faults)  # never returns
        os.close(answer_write)
        os.close(output_write)
        for each in (self._answer_read, self._output_read):
            os.set_blocking(each, False)

    def run(self) -> Ending:
        """Return how it ended; every process below is gone by then."""
        try:
            ending = self._watch()
        finally:
            self._kill_all()
        self._drain()
        output = self._output.decode("utf-8", "replace").strip()
        ending = msgspec.structs.replace(ending, stack=self._stack(), output=output)
        for each in (self._answer_read, self._output_read, self._faults):
            os.close(each)
        return ending

    def _watch(self) -> Ending:
        poll = select.poll()
        for each in (sys.stdin.fileno(), self._answer_read, self._output_read):
            poll.register(each, select.POLLIN)
        while True:
            for ready, _ in poll.poll(20):
                if ready == sys.stdin.fileno() and not os.read(ready, 4096):
                    return Ending(self._step, stopped=True)
            self._drain()
            if self._report is not None:
                return Ending(self._step, self._report)
            pid, status = os.waitpid(self._worker, os.WNOHANG)
            if pid:
                self._drain()  # what it said between our last look and its end
                return Ending(self._step, self._report, status=status)
            if crowd := self._crowd.too_much():
                self._crowd.stop()
                return Ending(self._step, crowd=crowd)
            if time.monotonic() - self._started > self._limit_s():
                self._ask_for_stack()
                return Ending(self._step, late_s=self._limit_s())

    def _limit_s(self) -> float:
        limits = self._request.limits
        return min(limits.load_s, limits.time_s) if self._step in LOADING else limits.time_s

    def _drain(self) -> None:
        self._output += _read_all(self._output_read)
        del self._output[:-OUTPUT_KEPT]
        self._answer += _read_all(self._answer_read)
        if len(self._answer) > ANSWER_BYTES_MAX:
            self._report = Report(failed=f"its description is larger than {ANSWER_BYTES_MAX >> 20} MB")
            return
        *lines, rest = self._answer.split(b"\n")
        self._answer = bytearray(rest)
        for line in lines:
            if self._report is None:
                self._take(bytes(line))

    def _take(self, line: bytes) -> None:
        try:
            said = _REPORT.decode(line)
        except msgspec.DecodeError:  # the release found the pipe and wrote to it
            said = Report(failed="it wrote to a pipe that is not its own")
        if isinstance(said, str):
            self._step = said
        else:
            self._report = said

    def _ask_for_stack(self) -> None:
        """Have the worker's faulthandler say where it is; works in endless loops, and in most C code."""
        before = os.fstat(self._faults).st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._worker, signal.SIGUSR1)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and os.fstat(self._faults).st_size == before:
            time.sleep(0.01)
        time.sleep(0.02)  # the dump is several writes

    def _stack(self) -> str:
        return os.pread(self._faults, 64 * 1024, 0).decode("utf-8", "replace")

    def _kill_all(self) -> None:
        """Kill the worker's group, then whatever is, or becomes, a child of ours, until there is none."""
        began = time.monotonic()
        while time.monotonic() < began + REAP_S:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._worker, signal.SIGKILL)
            if time.monotonic() > began + ALONE_S:  # there are more, perhaps in groups of their own
                self._crowd.stop()
                self._crowd.kill()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                self.alone = True
                return
            time.sleep(0.002)


def _read_all(pipe: int) -> bytes:
    """Return what is in a pipe that does not block; nothing at its end."""
    found = bytearray()
    with contextlib.suppress(BlockingIOError):
        while len(found) <= ANSWER_BYTES_MAX and (data := os.read(pipe, 65536)):
            found += data
    return bytes(found)


def children_of(parent: int) -> list[int]:
    """Return the process ids whose parent is `parent` now, from /proc."""
    return [each.pid for each in below(parent) if each.parent == parent]
