"""Plants a bug in a copy of the product, runs the test that must notice it there, and says whether it did.

A bug is an edit: one text of one file for another. Where the text is not there exactly once, the code has moved, and the
bug must be written anew: it is never skipped, and never planted somewhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from tests.planted.witness import REPORT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = (
    "hooks",
    "orchestrator",
    "repo_store",
    "sample_app",
    "tests",
    "livetag.py",
    "pyproject.toml",
    "README.md",
)
RUN_S = 600.0  # a run may take so long on a busy machine
FAILED = 1  # what pytest ends with where tests failed; a collection that fails ends with 2


@dataclass(frozen=True, slots=True)
class Bug:
    """One edit, what a user would suffer from it, the test that must fail, and what that must say.

    `quick`: it is planted in `make test`, too.
    """

    name: str
    harm: str
    file: str
    old: str
    new: str
    test: str
    says: str
    quick: bool = False


class NotPlantable(Exception):
    """The code has moved."""


def bugs() -> list[Bug]:
    """All that there are."""
    found = tomli.loads((HERE / "bugs.toml").read_text())
    return [Bug(name, **entry) for name, entry in found.items()]


def planted(text: str, bug: Bug) -> str:
    """The text of the file with the bug in it. Raises NotPlantable."""
    count = text.count(bug.old)
    if count != 1:
        raise NotPlantable(
            f"{bug.name}: its old text is {count} times in {bug.file}, and must be there once. The code has moved: write this "
            "bug of tests/planted/bugs.toml anew, so that the same thing goes wrong."
        )
    return text.replace(bug.old, bug.new)


@dataclass(frozen=True, slots=True)
class Run:
    """How tests in the copy ended."""

    exit_code: int
    foreign: Sequence[str]
    ends: Sequence[dict[str, Any]]
    output: str


class Ground:
    """A copy of the product, to plant in. One bug at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self._count = 0
        self.tree.mkdir()
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.tree / name)
            else:
                shutil.copy2(ROOT / name, self.tree / name)

    @contextmanager
    def with_bug(self, bug: Bug) -> Iterator[None]:
        """Within the block the bug is in the copy."""
        path = self.tree / bug.file
        before, times = path.read_text(), path.stat()
        path.write_text(planted(before, bug))
        self._count += (
            1  # a time of its own for each: else the compiled file of one bug might be taken for another's
        )
        os.utime(path, (times.st_atime, int(times.st_mtime) - self._count))
        try:
            yield
        finally:
            path.write_text(before)
            os.utime(
                path, ns=(times.st_atime_ns, times.st_mtime_ns)
            )  # its compiled file still is the right one

    def run(self, *tests: str) -> Run:
        """Run these tests in the copy, by its own code alone."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        # The project is installed editable: the copy must come before it, in each process that a test starts, too.
        env |= {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", REPORT: str(report)}
        options = ["-q", "-m", "", "-p", "tests.planted.witness", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command = [sys.executable, "-m", "pytest", *options, f"--basetemp={self.folder / 'base'}", *tests]
        done = subprocess.run(
            command, cwd=self.tree, env=env, capture_output=True, text=True, timeout=RUN_S, check=False
        )
        told = json.loads(report.read_text()) if report.exists() else {"foreign": [], "ends": []}
        return Run(done.returncode, told["foreign"], told["ends"], done.stdout + done.stderr)


def survived(bug: Bug, run: Run) -> str:
    """Why the bug does not count as caught; empty if its test failed by an assertion of its own that says what must be said."""
    if run.foreign:
        return f"other code than the planted was imported: {run.foreign[0]}"
    ends = [end for end in run.ends if end["test"] == bug.test]
    if run.exit_code == 0 and ends:
        return f"{bug.test} passes: nobody notices that {bug.harm}"
    failed = [end for end in ends if end["outcome"] == "failed" and end["when"] == "call"]
    if run.exit_code != FAILED or not failed:
        return (
            f"{bug.test} did not run to a failure (pytest ended with {run.exit_code}):\n{run.output[-3000:]}"
        )
    error, text = failed[0]["error"], failed[0]["text"]
    if error not in {"AssertionError", "Failed"} or text.startswith("Timeout"):
        return f"{bug.test} fails by {error}, and not by what it asserts:\n{text[-3000:]}"
    if bug.says not in text:
        return f"{bug.test} fails, and does not say {bug.says!r}:\n{text[:3000]}"
    return ""
