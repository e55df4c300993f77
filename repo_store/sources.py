"""Ask the limited child process what pushed source imports, or have it byte-compile a staged folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repo_store import source_child
from repo_store.errors import ReleaseInvalid, StagingFailed

MEMORY_MB = 1024
CPU_S = 30
WALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Import:
    """An absolute import in a source file: the dotted name and the line."""

    path: str
    name: str
    line: int


def read_imports(sources: Mapping[str, bytes]) -> list[Import]:
    """Give every absolute import of the files (path → source), without executing anything.

    Raises ReleaseInvalid for the first file that this interpreter cannot parse, with its line; StagingFailed
    if the child could not be run.
    """
    parts = [
        source_child.HEADER.pack(len(path.encode()), len(source)) + path.encode() + source
        for path, source in sources.items()
    ]
    done = _run("imports", stdin=b"".join(parts))
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.endswith(b"}")]
    imports: list[Import] = []
    for path, answer in zip(sources, answers, strict=False):
        if "problem" in answer:
            version = ".".join(map(str, sys.version_info[:2]))
            raise ReleaseInvalid(f"{answer['problem']} (read by Python {version}).")
        imports += [Import(path, name, line) for name, line in answer["imports"]]
    if len(answers) < len(sources):
        path = list(sources)[len(answers)]
        raise ReleaseInvalid(f"{path}: Python's parser {_death(done)} on this file. Simplify it.")
    return imports


def byte_compile(folder: Path, shown: Path) -> None:
    """Leave byte-code in every __pycache__ below `folder`, its tracebacks naming `shown` as the place.

    Raises ReleaseInvalid if a file does not compile or takes too much, StagingFailed if the child could not
    be run.
    """
    done = _run("compile", str(folder), str(shown))
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if "No space left" in said or "Disk quota" in said:
        raise StagingFailed(f"byte-compiling {shown} found no room on the disk; free some.")
    raise ReleaseInvalid(f"byte-compiling {shown.name} failed; it {_death(done)}: {said[-600:]}")


def _run(mode: str, *rest: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = [sys.executable, "-I", "-S", "-X", "utf8", source_child.__file__]
    command = [*program, mode, str(MEMORY_MB), str(CPU_S), *rest]
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=WALL_S, check=False, cwd=os.sep
        )
    except subprocess.TimeoutExpired as error:
        # Its processor time is limited below that, so it was the machine that was slow, not the source.
        raise StagingFailed(f"the child that reads sources did not end within {WALL_S:g} s.") from error
    except OSError as error:
        raise StagingFailed(f"the child that reads sources could not be started: {error}") from error


def _death(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"took more than {CPU_S} s of processor time"
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name})"
    return f"gave up (exit code {done.returncode}, limit {MEMORY_MB} MB)"
