"""Whatever a step of a release does to its process, it dies there: the vote is no, it is named, and no process is left.

Each step meets one disaster in every run, and each of them in the long programme.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import msgspec
import pytest

from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial import trial
from orchestrator.upgrade.trial_crowd import PROCESSES_MAX, TASKS_MAX
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.manifest import Limits, ModuleManifest, TrialSection
from tests.test_trial import _no_process_is_left, staged

__all__ = ["_no_process_is_left"]

SOURCE = """
import asyncio, ctypes, os, threading, time
from livetag import Module, Table, resource

def disaster():
    pass  # disaster

# at import
class Counter(Module[dict]):
    state_version = 2
    things: Table[int, dict] = Table(version=2)

    def initial_state(self):
        # at initial_state
        return {"n": 1}
    @resource
    async def port(self):
        # at resources
        return 1
    async def prepare(self):
        # at prepare
        pass
    def take_over(self, resources):
        # at take_over
        pass
    async def self_test(self):
        # at self_test
        pass
    async def stop(self):
        # at stop
        pass

@Counter.migrates(1, 2)
def up(old):
    # at migrate
    return old
@Counter.migrates(2, 1)
def down(new):
    # at way_back
    return new
@Counter.migrates("things", 1, 2)
def one_up(key, old):
    # at tables
    return old
@Counter.migrates("things", 2, 1)
def one_down(key, new):
    # at tables_back
    return new
"""
FIRST = ("import", "initial_state", "resources", "prepare", "take_over", "stop")
LATER = ("migrate", "way_back", "tables", "tables_back")  # on a state, and records, of before
DISASTERS = {
    "breeds threads": (
        f"""
        threading.stack_size(65536)
        for _ in range({4 * TASKS_MAX}):
            threading.Thread(target=time.sleep, args=(3600,)).start()
        time.sleep(3600)
        """,
        r"had \d+ threads at once; the limit of a trial is \d+|can't start new thread",
    ),
    "breeds processes": (
        f"""
        for _ in range(8):  # {2**8} of them
            os.fork()
        time.sleep(3600)
        """,
        r"had \d+ processes at once; the limit of a trial is \d+",
    ),
    "breeds orphans in sessions of their own": (
        f"""
        for _ in range({8 * PROCESSES_MAX}):
            if not os.fork():
                os.setsid()
                if os.fork():
                    os._exit(0)
                time.sleep(3600)
        time.sleep(3600)
        """,
        r"had \d+ processes at once; the limit of a trial is \d+",
    ),
    "takes all memory": ("x = [bytes(1 << 20) for _ in range(9000)]", r"MemoryError.*limit of a trial is 256 MB"),
    "takes all memory in several processes": (
        """
        for _ in range(2):
            os.fork()
        x = [os.urandom(1 << 20) for _ in range(150)]
        time.sleep(3600)
        """,
        r"had \d+ MB in \d processes; the limit of a trial is 256 MB",
    ),
    "hangs": ("time.sleep(3600)", r"did not end within .* line \d+ in disaster\)"),
    "exits": ("os._exit(3)", r"ended the process with status 3 \(counter/__init__.py line \d+ in disaster\)"),
    "crashes": ("ctypes.string_at(8)", r"crashed with SIGSEGV \(counter/__init__.py line \d+ in disaster\)"),
}  # fmt: skip
STEPS = (*FIRST, *LATER)
QUICK = set(zip(STEPS, (*DISASTERS, *DISASTERS), strict=False))


def every_step_and_disaster() -> Iterator[object]:
    for step in STEPS:
        for what in DISASTERS:
            yield pytest.param(step, what, marks=() if (step, what) in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("step", "what"), list(every_step_and_disaster()))
def test_a_disaster_in_any_step_dies_there_and_is_named(tmp_path: Path, step: str, what: str) -> None:
    code, words = DISASTERS[what]
    code = "\n".join(line.removeprefix("        ") for line in code.strip("\n").splitlines())
    source = SOURCE.replace("    pass  # disaster", indent(code, "    ")).replace(
        f"# at {step}\n", "disaster()\n"
    )
    records = TableImage("things", 1, (msgspec.msgpack.encode([(1, {"n": 1})]),))
    before = step in LATER
    given = Rehearsal(
        "counter",
        "1.3.0",
        {},
        msgspec.msgpack.encode({"n": 1}) if before else None,
        tables=(records,) if before else (),
    )
    limits = TrialSection(memory_mb=256, time_s=3.0)
    folder = staged(tmp_path, source)
    with pytest.raises(TrialFailed, match=words) as caught:
        asyncio.run(trial(folder, "counter", ModuleManifest(limits=Limits(load_s=3.0)), given, limits))
    assert caught.value.fault == "release"
    assert caught.value.step == step


def test_a_machine_that_runs_short_of_memory_ends_a_trial_before_anything_else(tmp_path: Path) -> None:
    check = "assert open('/proc/self/oom_score_adj').read().strip() == '1000'\n"
    limits = ModuleManifest(limits=Limits(load_s=10.0))
    asyncio.run(
        trial(
            staged(tmp_path, check + SOURCE),
            "counter",
            limits,
            Rehearsal("counter", "1.3.0", {}),
            TrialSection(),
        )
    )


def test_a_release_may_start_many_processes_one_after_the_other_also_some_that_nobody_waits_for(
    tmp_path: Path,
) -> None:
    many = """
import os
for _ in range(120):
    child = os.fork()
    if not child:
        if not os.fork():
            os.setsid()
        os._exit(0)
    os.waitpid(child, 0)
"""
    limits = ModuleManifest(limits=Limits(load_s=10.0))
    asyncio.run(
        trial(
            staged(tmp_path, many + SOURCE),
            "counter",
            limits,
            Rehearsal("counter", "1.3.0", {}),
            TrialSection(),
        )
    )
