"""All that runs below the keeper of a trial, counted and ended together: threads, processes, their memory.

Limits of the kernel do not do it: RLIMIT_NPROC does not bind root, and counts whatever else its user runs; RLIMIT_AS is for
each process alone. A release that breeds is found some milliseconds later, stopped as a whole, and then killed: one that is
killed one by one breeds on meanwhile, in sessions and groups of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

TASKS_MAX = 256
"""Threads of a trial, and four for each processor: libraries start pools of them."""
PROCESSES_MAX = 32
"""And two for each processor. A bomb has ten times as many before it can be looked at again."""
GROWTH = 24  # more tasks on the whole machine than at the last look: a reason to look at once
LOOK_S = 0.25
STOP_S = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Task(NamedTuple):
    """A process as /proc/PID/stat has it."""

    pid: int
    parent: int
    threads: int
    memory: int  # bytes in memory, shared ones too
    over: bool  # it has ended, and only waits to be reaped: it takes nothing and starts nothing


class Crowd:
    """The processes below this one."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        processors = os.cpu_count() or 1
        self._tasks_max = TASKS_MAX + 4 * processors
        self._processes_max = PROCESSES_MAX + 2 * processors
        self._looked_s = time.monotonic()
        self._all = _tasks_of_the_machine()

    def too_much(self) -> str:
        """What there is too much of, as a sentence goes on after "had"; empty: nothing. Cheap: may be asked often."""
        now, all_ = time.monotonic(), _tasks_of_the_machine()
        if now < self._looked_s + LOOK_S and all_ < self._all + GROWTH:
            return ""
        self._looked_s, self._all = now, all_
        mine = _alive()
        tasks = sum(each.threads for each in mine)
        if len(mine) > self._processes_max:
            return f"{len(mine)} processes at once; the limit of a trial is {self._processes_max}"
        if tasks > self._tasks_max:
            return f"{tasks} threads at once; the limit of a trial is {self._tasks_max}"
        if len(mine) > 1 and sum(each.memory for each in mine) > self._memory_mb << 20:
            used_mb = sum(_memory_of(each) for each in mine) >> 20
            if used_mb > self._memory_mb:
                return f"{used_mb} MB in {len(mine)} processes; the limit of a trial is {self._memory_mb} MB"
        return ""

    @staticmethod
    def stop() -> None:
        """Stop them all, until no more come: what is stopped starts no others."""
        stopped: set[int] = set()
        until = time.monotonic() + STOP_S
        while (new := {each.pid for each in _alive()} - stopped) and time.monotonic() < until:
            _signal(new, signal.SIGSTOP)
            stopped |= new

    @staticmethod
    def kill() -> None:
        """Kill them all."""
        _signal({each.pid for each in below(os.getpid())}, signal.SIGKILL)


def _alive() -> list[Task]:
    return [each for each in below(os.getpid()) if not each.over]


def below(root: int) -> list[Task]:
    """All processes below one, the ones nearest to it first."""
    children: dict[int, list[Task]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  # names will do, and it is read often
        if name.isdecimal() and (task := _task(name)) is not None:
            children.setdefault(task.parent, []).append(task)
    found = list(children.get(root, ()))
    for each in found:
        found += children.get(each.pid, ())
    return found


def _task(name: str) -> Task | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{name}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()  # from field 3 on: its name may hold anything
        over = fields[0] == b"Z"
        return Task(int(name), int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE, over)
    return None


def _memory_of(task: Task) -> int:
    """Its share of memory: what a fork shares with its parent is not counted twice."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{task.pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _tasks_of_the_machine() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/loadavg").read_bytes().split()[3].partition(b"/")[2])
    return 0


def _signal(pids: Collection[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
