"""`livetag check` on good and bad working copies: no host, nothing committed, nothing written.

What it prints is kept in tests/checks.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.cli.app import execute
from tests.git_fixtures import GitRepo
from tests.stories import prose
from tests.stories.counter_code import COUNTER, VERSION_3

FILE = Path(__file__).parents[1] / "checks.txt"
HEAD = """\
What livetag check says of a working copy, case by case. Written by tests/stories/test_check.py, which also compares it:
UPDATE_MESSAGES=1 writes it anew. In angle brackets: what differs from run to run.
"""

CLOCK = """
    from livetag import Module, every, handles

    class Clock(Module):
        def initial_state(self) -> dict:
            return {"beats": 0}

        @every(seconds=1.0)
        def beat(self) -> None:
            self.state["beats"] += 1
            self.send("counter", "tick", {"by": 1})

        @handles
        def beats(self) -> int:
            return self.state["beats"]
"""
APP = """
    [modules.clock]
    [modules.counter]
    also = ["tally"]
"""
HERE = "modules/counter/__init__.py"
TOML = "modules/counter/module.toml"
SHORT = "[limits]\nload_s = 1.0\n"
Files = Mapping[str, str | None]


def counter(old: str, new: str) -> Files:
    assert old in COUNTER
    return {HERE: COUNTER.replace(old, new)}


CASES: Mapping[str, tuple[Files, int]] = {
    "A working copy as it was released": ({}, 0),
    "A good change that migrates the state": ({HERE: VERSION_3}, 0),
    "A module that nothing was released of": ({"modules/meter/__init__.py": COUNTER.replace("Counter", "Meter")}, 0),
    "A syntax error": ({HERE: "def tick(self:\n"}, 1),
    "A step down that is missing": ({HERE: VERSION_3.replace("@Counter.migrates(3, 2)", "")}, 1),
    "A step up that is missing": ({HERE: VERSION_3.replace("@Counter.migrates(1, 2)", "")}, 1),
    "A step down that raises": ({HERE: VERSION_3.replace('{"sum": new["total"]}', '{"sum": new["totl"]}')}, 1),
    "A handler that takes less than before": (counter("by: int = 1", "by: int, unit: str"), 1),
    "A message type that is gone": (counter("def tick", "def tock"), 1),
    "An unknown key in module.toml": ({TOML: "[limits]\npause = 10\n"}, 1),
    "A send of a type that its target does not handle": (
        {"modules/clock/__init__.py": CLOCK.replace('"tick"', '"tock"')}, 1
    ),
    "A send to a name that nobody has": (
        {"modules/clock/__init__.py": CLOCK.replace('send("counter"', 'send("countr"')}, 0
    ),
    "An import of another module": ({HERE: "import clock\n" + COUNTER.replace("\n    ", "\n")}, 1),
    "An import that never ends": ({HERE: "while True: pass\n", TOML: SHORT}, 1),
    "A first state that does not fit its type": (counter('"total": 0', '"total": "none"'), 1),
    "A state that changed its type under one version": (
        {HERE: COUNTER.replace("total: int", "total: str").replace('"total": 0', '"total": ""')},
        1,
    ),
    "A self test that fails": (
        {HERE: COUNTER + "\n        async def self_test(self) -> None:\n            assert not self.state\n"}, 1
    ),
    "A requirement that nothing here meets": ({TOML: '[requires]\nmodules = { clock = ">=2" }\n'}, 1),
    "A composition that cannot be read": ({"app.toml": "[modules.counter]\nenable = true\n"}, 1),
    "A composition with a package that is not there": ({"app.toml": "[modules.countr]\n"}, 1),
    "A config that comes from where it is not": (
        {"app.toml": '[modules.counter]\nconfig = { token = { env = "A_TOKEN_OF_THE_HOST" } }\n[modules.clock]\n'}, 0
    ),
    "A module that was removed": ({HERE: None, TOML: None}, 0),
    "A folder that can be no package": ({"modules/Counter-2/__init__.py": ""}, 1),
}  # fmt: skip
ORDER = tuple(CASES)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a clock that sends to a counter, both tagged, and an app.toml."""
    work = GitRepo(tmp_path_factory.mktemp("check") / "work")
    work.module("clock", CLOCK)
    work.module("counter", COUNTER, "")
    work.write("app.toml", APP)
    work.write(".gitignore", "*.log\n")
    work.commit()
    for tag in ("clock/v1.0.0", "counter/v1.0.0", "counter/v0.9.0", "app/v1.0.0", "counter/v1.1.0-rc.1"):
        work.tag(tag)
    return work.path


@pytest.fixture
def work(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitRepo:
    """A copy of it, to be changed; a folder for temporary files that nobody else uses."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    shutil.copytree(released, tmp_path / "work", symlinks=True)
    return GitRepo(tmp_path / "work")


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, str]]:
    texts: dict[str, str] = {}
    yield texts
    if prose.updating():
        prose.write(texts, ORDER, FILE, HEAD)


def everything_in(path: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and when it was written."""
    found = {str(f.relative_to(path)): f.lstat() for f in path.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def check(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `livetag check` in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = execute(["check", *args])
    return subprocess.CompletedProcess(["livetag", "check", *args], code, out.getvalue(), err.getvalue())


def change(work: GitRepo, files: Files) -> None:
    for path, text in files.items():
        if text is None:
            (work.path / path).unlink()
        else:
            work.write(path, text)


@pytest.mark.parametrize("heading", CASES, ids=lambda heading: heading.replace(" ", "-"))
def test_a_working_copy_is_checked_and_nothing_is_written(
    work: GitRepo, found: dict[str, str], heading: str
) -> None:
    files, exit_code = CASES[heading]
    change(work, files)
    before = everything_in(work.path)

    done = check(str(work.path))

    assert done.returncode == exit_code, done.stdout + done.stderr
    assert everything_in(work.path) == before
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    paths = {str(work.path): "<work>", sys.prefix: "<venv>"}
    text = prose.transcript("livetag check", done, paths)
    found[heading] = text
    if not prose.updating():
        assert text == prose.written(FILE).get(heading, ""), (
            f"if it is right: {prose.UPDATE}=1 pytest {__file__}"
        )


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_case() -> None:
    assert list(prose.written(FILE)) == list(ORDER)


def test_a_check_as_json_says_each_check_and_the_whole(work: GitRepo) -> None:
    change(work, {HERE: "def tick(self:\n"})
    document: Any = json.loads(check(str(work.path), "--json").stdout)
    assert document["ok"] is False
    failed = [each for each in document["checks"] if each["ok"] is False]
    assert [(each["module"], each["what"]) for each in failed] == [("counter", "counter: staged")]
    assert "modules/counter/__init__.py, line 1" in failed[0]["why"]


def test_code_that_is_tagged_already_is_checked_against_the_release_before_it(work: GitRepo) -> None:
    change(work, counter("by: int = 1", "by: int"))
    work.commit()
    untagged = check(str(work.path), "--module", "counter")
    work.tag("counter/v7.0.0")  # as one does before the push
    tagged = check(str(work.path), "--module", "counter")
    for said in (untagged, tagged):
        assert said.returncode == 1, said.stdout
        assert "does not take every 'tick' that 0.9.0 takes" in said.stdout


def test_one_module_is_checked_if_it_is_named(work: GitRepo) -> None:
    change(work, {HERE: "def tick(self:\n"})
    assert check(str(work.path), "--module", "clock").returncode == 0
    assert check(str(work.path), "--module", "counter").returncode == 1
    unknown = check(str(work.path), "--module", "countr")
    assert unknown.returncode == 1
    assert "has no module or package countr; it has: clock, counter." in unknown.stderr


def test_what_git_would_not_take_is_not_checked_and_what_is_tracked_is(work: GitRepo) -> None:
    work.write("modules/counter/run.log", b"\xff not text")
    work.write("modules/counter/__pycache__/__init__.pyc", b"\x00")
    done = check(str(work.path))
    assert done.returncode == 0, done.stdout
    assert "counter: read: the same code as counter/v1.0.0" in done.stdout
    work.git("add", "--force", "modules/counter/__pycache__")
    done = check(str(work.path))
    assert done.returncode == 1
    assert "is compiled code, which may differ from its source" in done.stdout


def test_a_working_copy_may_be_a_folder_inside_a_second_work_tree_or_no_repository_at_all(
    work: GitRepo, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    work.git("worktree", "add", "-q", str(second))
    (second / "modules" / "counter" / "__init__.py").write_text("def tick(self:\n")
    assert check(str(work.path / "modules" / "clock")).returncode == 0
    assert check(str(second / "modules")).returncode == 1

    plain = tmp_path / "plain"
    shutil.copytree(work.path / "modules", plain / "modules")
    done = check(str(plain))
    assert done.returncode == 0, done.stdout
    assert "the next tag would be counter/v0.0.1" in done.stdout

    (tmp_path / "empty").mkdir()
    done = check(str(tmp_path / "empty"))
    assert done.returncode == 1
    assert (
        "is no working copy: neither it nor a folder above has a .git, and it has no modules/." in done.stderr
    )
    GitRepo(tmp_path / "empty")
    assert "has no modules/ and no app.toml, so there is nothing" in check(str(tmp_path / "empty")).stderr


def test_shared_folders_are_read_and_a_broken_index_is_done_without(work: GitRepo) -> None:
    work.write("lib/wire/__init__.py", "LIMIT = 10\n")
    change(work, {HERE: "import wire\n" + COUNTER.replace("\n    ", "\n"), TOML: 'shared = ["lib/wire"]\n'})
    done = check(str(work.path))
    assert done.returncode == 0, done.stdout
    (work.path / ".git" / "index").write_bytes(b"not an index")
    again = check(str(work.path))
    assert again.returncode == 0, again.stdout + again.stderr
