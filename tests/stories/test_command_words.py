"""What the reconfiguration commands say, done and refused: one host, one command after the other.

What they print is kept in tests/commands.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import getpass
import json
import re
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from orchestrator.control.cli.app import execute
from tests.stories import prose
from tests.stories.deployment import Deployment

FILE = Path(__file__).parents[1] / "commands.txt"
HEAD = """\
What the commands that change the running set say, one after the other on one host. Written by
tests/stories/test_command_words.py, which also compares it: UPDATE_MESSAGES=1 writes it anew. In angle brackets: what
differs from run to run.
"""
COUNTER = """
    from livetag import Module, Table, handles

    class Counter(Module):
        seen: Table[str, int] = Table(version=1)

        def initial_state(self) -> dict:
            return {"total": 0}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            self.seen["last"] = by
            return self.state["total"]
"""
WHY = ("--reason", "the exam runs")
COMMANDS: Sequence[tuple[str, Sequence[str]]] = (
    ("A module is disabled", ("disable", "counter", *WHY)),
    ("It is so already", ("disable", "counter", *WHY)),
    ("A disabled module is asked", ("ask", "counter", "tick")),
    ("A command of nobody's reason", ("enable", "counter")),
    ("It is enabled again", ("enable", "counter", *WHY)),
    ("A module that is not there", ("disable", "countr", *WHY)),
    ("Another version is swapped in", ("swap", "counter", "1.0.0", *WHY)),
    ("A version that is not there", ("swap", "counter", "7.0.0", *WHY)),
    ("Drift, in a plan", ("plan",)),
    ("A second module of a package", ("load", "tally", "--package", "counter", *WHY)),
    ("A module that is loaded already", ("load", "tally", "--package", "meter", *WHY)),
    ("A package without a release", ("load", "rib", *WHY)),
    ("A name that can be none", ("load", "Tally 2", *WHY)),
    ("A name is bound", ("bind", "front", "tally", *WHY)),
    ("A name moves", ("bind", "front", "counter", *WHY)),
    ("A module's own name", ("bind", "tally", "counter", *WHY)),
    ("A name of somebody's is loaded", ("load", "front", *WHY)),
    ("A name is taken away", ("unbind", "front", *WHY)),
    ("A name that nobody has", ("unbind", "front", *WHY)),
    ("A module's own name cannot be taken away", ("unbind", "tally", *WHY)),
    ("A module is unloaded", ("unload", "tally", *WHY)),
    ("What is not loaded cannot be disabled", ("disable", "tally", *WHY)),
    ("Everything is held", ("hold", *WHY)),
    ("It is held already", ("hold", *WHY)),
    ("One module is released from a hold of all", ("unhold", "counter")),
    ("The hold ends", ("unhold",)),
    ("Nothing is held", ("unhold",)),
    ("A rollback of a command, shown", ("rollback", "--dry-run")),
    ("A rollback of a command", ("rollback", *WHY)),
    ("A rollback of what never was", ("rollback", "--txn", "99", *WHY)),
    ("A state is exported", ("state", "counter", "--export", "<file>")),
    ("A state is imported", ("state", "counter", "--import", "<file>", *WHY)),
    ("A state with a record that does not fit", ("state", "counter", "--import", "<bad record>", *WHY)),
    ("A state that no step takes", ("state", "counter", "--import", "<bad version>", *WHY)),
    ("A state of another package", ("state", "meter", "--import", "<file>", *WHY)),
    ("A file that is no state", ("state", "counter", "--import", "<no state>", *WHY)),
    ("A state of nobody", ("state", "countr", "--export", "<file>")),
    ("The way of all this", ("history", "counter")),
)
ORDER = tuple(heading for heading, _ in COMMANDS)
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def files(deployment: Deployment) -> dict[str, str]:
    """Where the state files are, by how the text calls them; those that are to be refused are made from the good one."""
    folder = deployment.path.parent
    found = {
        f"<{name}>": folder / f"{name}.json" for name in ("file", "bad record", "bad version", "no state")
    }
    assert deployment.livetag("state", "counter", "--export", str(found["<file>"])).returncode == 0
    good = json.loads(found["<file>"].read_text())
    table = {"name": "seen", "version": 1, "records": [["last", "five"]]}
    found["<bad record>"].write_text(json.dumps({**good, "tables": [table]}))
    found["<bad version>"].write_text(json.dumps({**good, "state_version": 4}))
    found["<no state>"].write_text('{"total": 3}')
    return {name: str(path) for name, path in found.items()}


def said(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = execute(list(words))
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


def test_each_command_says_what_it_did_or_why_not(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVETAG_DIR", str(deployment.path))
    deployment.deploy("counter/v1.0.0", "meter/v1.0.0", counter=COUNTER, meter=COUNTER)
    deployment.deploy("counter/v1.1.0", counter=COUNTER.replace("by: int = 1", "by: int = 10"))
    deployment.ask("counter", "tick")
    paths = files(deployment)
    shown = {path: name for name, path in paths.items()} | {str(deployment.path): "<deployment>"}
    found = {}
    for heading, words in COMMANDS:
        done = said([paths.get(word, word) for word in words])
        command = " ".join(f'"{word}"' if " " in word and word[0] != "<" else word for word in words)
        text = MOMENT.sub("<moment>", prose.transcript(f"livetag {command}", done, shown))
        text = re.sub(rf"\bby {re.escape(getpass.getuser())}\b(?:@\S+\b)?", "by <user>", text)
        text = re.sub(r"\d+\.\d+ ms", "<n> µs", re.sub("─+", "─", text))
        found[heading] = re.sub(r"(?<=\S) {2,}", "  ", text)  # the columns of a table
    if prose.updating():
        prose.write(found, ORDER, FILE, HEAD)
    assert prose.written(FILE) == found
