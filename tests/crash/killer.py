"""A kill at the N-th system call that may reach the disk, with no help from the code: `killer.c`, built by the test.

Why not strace: its `inject=...:when=N` counts for each thread by itself, so that N of a host with five threads and twenty
Git children means many calls at once, and what it counts includes every pipe and log. Why not LD_PRELOAD: Git writes with
stdio, whose own calls do not go through what can be preloaded. Why not gdb: three stops a call, and 50 ms each. A program
of 150 lines that follows all processes with ptrace, and has the kernel stop them at these calls only (seccomp), counts
exactly, in one order, what touches the deployment; the other calls cost nothing.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("killer.c")
RUN_S = 120.0
KILLED_ALL = 137


def build(folder: Path) -> Path:
    """Return the program; the test is skipped, with the reason, where it cannot be built or may not follow processes."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip(f"killer.c follows processes on Linux, x86_64 and aarch64; this is {platform.platform()}")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed, which killer.c needs")
    program = folder / "killer"
    built = subprocess.run(
        [compiler, "-O1", "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        pytest.skip(f"killer.c cannot be built here: {built.stderr[-300:]}")
    tried = subprocess.run(
        [program, folder, "0", "one", folder / "tried.log", "sh", "-c", f"(echo > {folder}/tried)"],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    if tried.returncode != 0 or not (folder / "tried.log").read_text():
        pytest.skip(f"processes may not be followed here: {tried.stderr[-300:]}")
    return program


def run_under(  # noqa: PLR0917  # what the program takes
    program: Path,
    folder: Path,
    when: int,
    whom: str,
    log: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> int:
    """Run the command and end `whom` ("one" process, or "all") at call `when`; returns its exit code, KILLED_ALL for all.

    `log` then has a line for each call up to then: number, pid, name, path below `folder`.
    """
    return subprocess.run(
        [program, folder, str(when), whom, log, *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=RUN_S,
    ).returncode


def calls(log: Path) -> list[tuple[str, str]]:
    """The calls of a log: name, and the path that it changes below the folder."""
    return [(line.split(" ", 3)[2], line.split(" ", 3)[3]) for line in log.read_text().splitlines()]
