"""What somebody else has written moves no cursor wherever a command, a log, a record or JSON shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.stories.deployment import Deployment, deployed

EVIL = "\x1b[2J\x1b]0;owned\x07\u202e\r"
OBEYED = "\x1b\x07\u202e\r"
CODE = f"""
    from livetag import Module, handles

    class Counter(Module[dict]):
        def initial_state(self):
            return {{{EVIL!r}: {EVIL!r}}}

        @handles
        def echo(self, text: str) -> str:
            return text

        @handles
        def fail(self, text: str) -> None:
            self.log.warning(text)
            raise ValueError(text)

        @handles
        def tell(self, name: str) -> None:
            self.publish(name, {{name: name}})
            self.send(name, name, {{name: name}})
"""
QUICK = (
    ("ask", "counter", "fail", f"text={EVIL}"),
    ("disable", "counter", "--reason", EVIL),
    ("dead-letters", "list"),
    ("state", "counter"),
    ("history", "--json"),
)
MORE = (
    ("ask", "counter", "echo", f"text={EVIL}"),
    ("enable", "counter", "--reason", EVIL),
    ("ask", "counter", "tell", f"name={EVIL}"),
    ("send", "counter", EVIL),
    ("hold", "counter", "--reason", EVIL),
    ("status",),
    ("send", EVIL, "x"),
    ("publish", EVIL),
    ("dead-letters", "list", "--json"),
    ("topics",),
    ("topics", "--json"),
    ("names",),
    ("state", "counter", EVIL),
    ("status", "--json"),
    ("history",),
    ("plan",),
    ("unhold", "counter"),
    ("bind", EVIL, "counter", "--reason", EVIL),
    ("rollback", "--reason", EVIL),
    ("deploy", EVIL),
    ("plan", EVIL),
    ("retry", EVIL),
    ("interface", "counter"),
    ("interface", EVIL),
    ("load", EVIL),
    ("confirm", EVIL),
    ("doctor",),
)


def obeyed(deployment: Deployment, commands: Sequence[Sequence[str]]) -> list[str]:
    """The commands, and the files, in which a terminal would find what it obeys."""
    said = {}
    for command in commands:
        done = deployment.livetag(*command)
        said[" ".join(command)] = done.stdout + done.stderr
    said["log"] = deployment.said()
    said["host.jsonl"] = (deployment.place.logs / "host.jsonl").read_text()
    said["git"] = deployment.git("log", "--all", "--format=%B")
    assert "owned" in said["log"]
    assert any("owned" in said[" ".join(command)] for command in commands)
    return [repr(where) for where, text in said.items() if set(text) & set(OBEYED)]


@pytest.mark.parametrize(
    "commands", [QUICK, pytest.param((*QUICK, *MORE), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_what_others_wrote_moves_no_cursor_wherever_it_is_shown(
    tmp_path: Path, commands: Sequence[Sequence[str]]
) -> None:
    with deployed(tmp_path) as deployment:
        deployment.deploy("counter/v1.0.0", counter=CODE)
        assert obeyed(deployment, commands) == []
