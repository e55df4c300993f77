"""Ask the limited child process what pushed source imports, or have it byte-compile a staged folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from repo_store import source_child
from repo_store.errors import ReleaseInvalid, StagingFailed

MEMORY_MB = 1024
CPU_S = 30
WALL_S = 60.0


_Child: TypeAlias = "subprocess.Popen[bytes]"
_Ended: TypeAlias = "subprocess.CompletedProcess[bytes]"


@dataclass(frozen=True, slots=True)
class Import:
    """An absolute import in a source file: the dotted name and the line."""

    path: str
    name: str
    line: int


ReadImports = Callable[[Mapping[str, bytes]], list[Import]]


@contextmanager
def reading_imports() -> Iterator[ReadImports]:
    """`read_imports`, to be called once: its child starts now, and is ready when the sources have been gathered."""
    with _child("imports") as child:
        yield lambda sources: _imports_of(sources, child)


def read_imports(sources: Mapping[str, bytes]) -> list[Import]:
    """Give every absolute import of the files (path → source), without executing anything.

    Raises ReleaseInvalid for the first file that this interpreter cannot parse, with its line; StagingFailed
    if the child could not be run.
    """
    with reading_imports() as read:
        return read(sources)


def _imports_of(sources: Mapping[str, bytes], child: _Child) -> list[Import]:
    parts = [
        source_child.HEADER.pack(len(path.encode()), len(source)) + path.encode() + source
        for path, source in sources.items()
    ]
    done = _ended(child, b"".join(parts))
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


@contextmanager
def byte_compiling(folder: Path, shown: Path) -> Iterator[Callable[[], None]]:
    """`byte_compile`, to be called once the folder is filled: its child starts now, and is ready by then."""
    with _child("compile", str(folder), str(shown)) as child:
        yield lambda: _compiled(child, shown)


def byte_compile(folder: Path, shown: Path) -> None:
    """Leave byte-code in every __pycache__ below `folder`, its tracebacks naming `shown` as the place.

    Raises ReleaseInvalid if a file does not compile or takes too much, StagingFailed if the child could not
    be run.
    """
    with byte_compiling(folder, shown) as compile_now:
        compile_now()


def _compiled(child: _Child, shown: Path) -> None:
    done = _ended(child, b"now")
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if "No space left" in said or "Disk quota" in said:
        raise StagingFailed(f"byte-compiling {shown} found no room on the disk; free some.")
    raise ReleaseInvalid(f"byte-compiling {shown.name} failed; it {_death(done)}: {said[-600:]}")


@contextmanager
def _child(mode: str, *rest: str) -> Iterator[_Child]:
    """A child that waits for its input; whatever becomes of the one who started it, it is gone at the end."""
    program = [sys.executable, "-I", "-S", "-X", "utf8", source_child.__file__]
    command = [*program, mode, str(MEMORY_MB), str(CPU_S), *rest]
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=os.sep)
    except OSError as error:
        raise StagingFailed(f"the child that reads sources could not be started: {error}") from error
    try:
        yield child
    finally:
        child.kill()  # one that has ended stays as it is
        child.communicate()


def _ended(child: _Child, given: bytes) -> _Ended:
    try:
        stdout, stderr = child.communicate(given, timeout=WALL_S)
    except subprocess.TimeoutExpired as error:
        # Its processor time is limited below that, so it was the machine that was slow, not the source.
        raise StagingFailed(f"the child that reads sources did not end within {WALL_S:g} s.") from error
    return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)


def _death(done: _Ended) -> str:
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"took more than {CPU_S} s of processor time"
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name})"
    return f"gave up (exit code {done.returncode}, limit {MEMORY_MB} MB)"
