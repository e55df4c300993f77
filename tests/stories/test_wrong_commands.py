"""A command that cannot be done gets a clear error and costs nothing: the host of the gallery, under its load.

What each prints is kept in tests/mistakes.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.client import HostRefused
from orchestrator.control.wire import MAX_REQUEST_BYTES
from tests.gallery.hall import Hall, hall
from tests.stories import prose
from tests.stories.deployment import wait_until

BAD = "counter/v1.1.0"
FILE = prose.FILE.with_name("mistakes.txt")
HEAD = """\
What livetag says of a command that cannot be done, case by case. Written by tests/stories/test_wrong_commands.py, which
also compares it: UPDATE_MESSAGES=1 writes it anew. In angle brackets: what differs from run to run.
"""
ORDER = (
    "A tag of a blob",
    "A commit that was refused before, under another tag",
    "A retry of a tag that was taken back",
    "A message type that nobody handles",
    "A module that does not exist",
    "A body that does not fit",
    "A body that is not JSON",
    "A handler that raises",
    "A reply that does not come in time",
    "A mailbox that is full",
    "A control request of 1 MB",
    "A tag that was never pushed",
    "A retry of what is in service",
)
NEEDS_A_LICENCE = """
    from .counting import Counting


    class Counter(Counting):
        async def prepare(self) -> None:
            open("{}").close()
"""


class Story:
    """The counter of the gallery serves, and nothing that is typed here may change that."""

    def __init__(self, host: Hall) -> None:
        self.host = host
        self.deployment = host.deployment
        self.found: dict[str, str] = {}

    def told(self, heading: str, command: str, done: subprocess.CompletedProcess[str]) -> None:
        """See that nothing came of it, and compare what was printed with mistakes.txt, or keep it to be written there."""
        self.host.check()
        text = prose.transcript(command, done, {str(self.deployment.path): "<deployment>"})
        self.found[heading] = text
        if not prose.updating():
            expected = prose.written(FILE).get(heading, "")
            assert text == expected, f"if the new text is right: {prose.UPDATE}=1 pytest {__file__}"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with hall(tmp_path_factory.mktemp("hall"), "") as host:
        made = Story(host)
        yield made
        if prose.updating():
            prose.write(made.found, ORDER, FILE, HEAD)


def test_a_tag_of_a_blob_says_what_is_wrong(story: Story) -> None:
    work = story.deployment.work
    blob = work.git("hash-object", "-w", "--stdin", stdin="not a commit")
    work.tag(BAD, blob)
    pushed = story.deployment.push(BAD)
    work.git("tag", "-d", BAD)

    assert pushed.returncode == 1
    assert BAD not in story.deployment.tags()
    story.told("A tag of a blob", f"git push live {BAD}", pushed)


def test_a_commit_that_was_refused_is_refused_again_until_it_is_retried(story: Story) -> None:
    deployment, work = story.deployment, story.deployment.work
    work.write("modules/counter/__init__.py", NEEDS_A_LICENCE.format(deployment.path / "licence"))
    work.commit("Need a licence")
    work.tag(BAD)
    work.tag("counter/v1.2.0")
    assert deployment.push(BAD).returncode == 1
    again = deployment.push("counter/v1.2.0")
    retried = deployment.livetag("retry", BAD)
    work.git("tag", "-d", BAD, "counter/v1.2.0")
    work.git("reset", "--hard", "--quiet", story.host.good)

    assert again.returncode == 1
    assert retried.returncode == 0, retried.stderr
    assert "counter/v1.2.0" not in deployment.tags()
    assert "counter/v1.2.0" not in [each["tag"] for each in deployment.status()["quarantine"]]
    story.told("A commit that was refused before, under another tag", "git push live counter/v1.2.0", again)
    story.told("A retry of a tag that was taken back", f"livetag retry {BAD}", retried)


@pytest.mark.parametrize(
    ("heading", "command", "exit_code"),
    [
        ("A message type that nobody handles", "send counter tock", 1),
        ("A module that does not exist", "ask countr tick", 1),
        ("A body that does not fit", "ask counter note sender=me n=one checksum:=0", 1),
        ("A body that is not JSON", "ask counter note n:=one", 2),
        ("A tag that was never pushed", "deploy counter/v9.0.0", 1),
        ("A retry of what is in service", "retry counter/v1.0.0", 1),
    ],
)
def test_a_wrong_command_says_what_is_wrong(story: Story, heading: str, command: str, exit_code: int) -> None:
    done = story.deployment.livetag(*command.split())

    assert done.returncode == exit_code, done.stderr
    story.told(heading, f"livetag {command}", done)


SLOW = """
    import asyncio
    from pathlib import Path

    from livetag import Module, handles

    class Slow(Module):
        def initial_state(self):
            return {"done": 0}

        @handles
        async def work(self, until: str) -> int:
            while not Path(until).exists():
                await asyncio.sleep(0.01)
            self.state["done"] += 1
            return self.state["done"]

        @handles
        def divide(self, by: int) -> float:
            return 1 / by
"""


@pytest.fixture(scope="module")
def slow(story: Story) -> Story:
    """The story with one more module, whose handler waits until a file is there."""
    story.deployment.work.write("modules/slow/module.toml", "[limits]\nmailbox_messages = 2\n")
    story.deployment.deploy("slow/v1.0.0", slow=SLOW)
    story.host.beside = ("slow",)
    return story


def test_a_handler_that_raises_is_told_to_the_asker(slow: Story) -> None:
    done = slow.deployment.livetag("ask", "slow", "divide", "by:=0")

    assert done.returncode == 1
    letters = slow.deployment.livetag("dead-letters", "list", "--json")
    assert "ZeroDivisionError" in letters.stdout
    slow.told("A handler that raises", "livetag ask slow divide by:=0", done)


def test_a_late_reply_and_a_full_mailbox_lose_nothing_that_was_accepted(slow: Story, tmp_path: Path) -> None:
    deployment, gate = slow.deployment, tmp_path / "gate"
    until = f"until={gate}"
    before = deployment.call("state", name="slow")["done"]

    late = deployment.livetag("ask", "slow", "work", until, "--timeout", "0.2")
    assert late.returncode == 1
    for _ in range(2):
        deployment.send("slow", "work", until=str(gate))
    full = deployment.livetag("send", "slow", "work", until)
    assert full.returncode == 1
    gate.touch()

    wait_until(
        lambda: deployment.call("state", name="slow")["done"] == before + 3, "what was accepted is handled"
    )
    assert deployment.call("state", name="slow")["done"] == before + 3
    slow.told("A reply that does not come in time", "livetag ask slow work until=FILE --timeout 0.2", late)
    slow.told("A mailbox that is full", "livetag send slow work until=FILE", full)


def test_a_request_of_1_mb_is_refused(story: Story) -> None:
    key = "x" * (1 << 20)
    with pytest.raises(HostRefused) as refused:
        story.deployment.ask("counter", "tick", key=key)
    assert str(MAX_REQUEST_BYTES) in str(refused.value)
    done = story.deployment.livetag(
        "ask", "counter", "tick", f"key={key[:130_000]}", f"more={key[:130_000]}", f"x={key[:10_000]}"
    )

    assert done.returncode != 0
    story.told("A control request of 1 MB", "livetag ask counter tick key=XXX...", done)


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_command() -> None:
    assert list(prose.written(FILE)) == list(ORDER)
