"""How the Git door starts Git: directly, or through GitPython where a process stays.

Importing GitPython takes 60 ms and two starts of `git version`. A hook or a command, which asks a few questions
while a person waits, would spend more on that than on its questions; the host pays it once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Start = Callable[[Sequence[str], Mapping[str, str], Path], "subprocess.Popen[bytes]"]
"""Starts a command with exactly this environment in this folder, three pipes open; raises OSError."""


def directly(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start it as a child of this process, nothing in between."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe)


def through_gitpython(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    """Have GitPython start it."""
    import git  # see above

    # GitPython lays its environment over os.environ and cannot take a name away; env -i can.
    settings = [f"{name}={value}" for name, value in environment.items()]
    try:
        started = git.Git(str(folder)).execute(
            ["env", "-i", *settings, *command], istream=subprocess.PIPE, as_process=True
        )
    except git.GitCommandNotFound as error:
        raise FileNotFoundError(str(error)) from error
    process: subprocess.Popen[bytes] | None = started.proc
    # From here on the process is ours: GitPython's wrapper would end it as soon as nobody holds the wrapper.
    started.proc = None
    if process is None:
        raise OSError("GitPython started no process")
    return process
