"""What the trial process lays on itself before it runs author code: limits, no streams, a trace of how it died."""

import contextlib
import ctypes
import faulthandler
import importlib
import math
import os
import resource
import signal
from pathlib import Path
from typing import NoReturn

from orchestrator.upgrade.trial_protocol import ChildLimits

OOM = Path("/proc/self/oom_score_adj")
_PR_SET_PDEATHSIG = 1


def confine(limits: ChildLimits, output: int) -> None:
    """Give the process a session, limits, and no way to reach the host's terminal or streams."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # the keeper's death is ours
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    memory = limits.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu_s = math.ceil(limits.time_s) * (os.cpu_count() or 1) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        OOM.write_text(
            "1000", encoding="ascii"
        )  # a machine short of memory ends a trial, and never the host for it


def settle(work: str) -> None:
    """Take a folder of its own for current and for temporary, and look anew at what can be imported.

    The keeper was perhaps started long before, and one that waits holds no folder.
    """
    os.chdir(work)
    os.environ["TMPDIR"] = work
    importlib.invalidate_caches()


def watch_faults(faults: int) -> None:
    """Have the Python stack written down when the process dies of C code, is asked, or leaves by os._exit."""
    faulthandler.enable(faults)
    faulthandler.register(signal.SIGUSR1, faults)
    leave = os._exit

    def leave_traced(status: int) -> NoReturn:
        faulthandler.dump_traceback(faults)
        leave(status)

    os._exit = leave_traced
