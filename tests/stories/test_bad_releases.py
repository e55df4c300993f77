"""Bad input gets a clear error and costs nothing: one host, a counter in service, and numbered messages all the while.

What each case prints is kept in tests/messages.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.control.client import HostRefused
from orchestrator.control.wire import MAX_REQUEST_BYTES
from tests.stories import prose
from tests.stories.deployment import Deployment, deployed, wait_until
from tests.stories.numbered import Numbered

GOOD, BAD = "counter/v1.0.0", "counter/v1.1.0"
SLOWEST_S = 15.0  # a push that is refused says so within this; the host's limits below are far lower
HOST = """
[trial]
time_s = 2.5
"""
SHORT = """
[limits]
load_s = 1.0
"""
STATE = ("ticks: int", "notes: int", "last: int", "odd: int")


def counter(
    hooks: str = "",
    *,
    above: str = "",
    below: str = "",
    version: int = 1,
    state: tuple[str, ...] = STATE,
    tick: str = "tick",
) -> str:
    """Write a counter: numbered notes that say if one was lost or doubled, and ticks that are answered."""
    fields = "\n    ".join(state)
    return f"""\
from typing import TypedDict

from livetag import Module, handles
{textwrap.dedent(above)}

class State(TypedDict):
    {fields}


class Counter(Module[State]):
    state_version = {version}

    def initial_state(self) -> State:
        return {{"ticks": 0, "notes": 0, "last": 0, "odd": 0}}

    @handles
    def {tick}(self) -> int:
        self.state["ticks"] += 1
        return self.state["ticks"]

    @handles
    def note(self, n: int) -> None:
        self.state["odd"] += n != self.state["last"] + 1
        self.state["notes"] += 1
        self.state["last"] = n

{textwrap.indent(textwrap.dedent(hooks), "    ")}
{textwrap.dedent(below)}
"""


@dataclass(frozen=True)
class Case:
    """A push that is wrong: its heading in messages.txt, the files that it changes, and its tag."""

    heading: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    tag: str = BAD
    exit: int = 1
    tag_stays: bool = False


def code(heading: str, text: str, *, toml: str = "", tag: str = BAD) -> Case:
    package = tag.partition("/")[0]
    files = {f"modules/{package}/__init__.py": text}
    return Case(heading, {**files, f"modules/{package}/module.toml": toml} if toml else files, tag)


def toml(heading: str, text: str) -> Case:
    return Case(heading, {"modules/counter/module.toml": text})


UP = """
@Counter.migrates(1, 2)
def up(old: State) -> State:
    {}


@Counter.migrates(2, 1)
def down(new: State) -> State:
    return new
"""


def migration(heading: str, body: str, *, state: tuple[str, ...] = STATE, toml: str = "") -> Case:
    return code(heading, counter(below=UP.format(body), version=2, state=state), toml=toml)


CASES = (
    # what reading the push tells
    Case("A tag outside the grammar", tag="counter/v1.1", exit=0, tag_stays=True),
    Case("A package with a reserved name", {"modules/orchestrator/__init__.py": ""}, "orchestrator/v1.0.0"),
    Case("A package that would shadow the standard library", {"modules/json/__init__.py": ""}, "json/v1.0.0"),
    Case(
        "A package that would shadow an installed one", {"modules/msgspec/__init__.py": ""}, "msgspec/v1.0.0"
    ),
    Case("A folder that is missing", tag="countr/v1.0.0"),
    toml("TOML that is broken", "entry = counter:Counter\n"),
    toml("An unknown key", "[limits]\npause = 10\n"),
    toml("A value that is not allowed", '[limits]\npause_ms = "fast"\n'),
    toml("An entry whose file does not exist", 'entry = "counter.core:Counter"\n'),
    toml("An entry whose class does not exist", 'entry = "counter:Count"\n'),
    code("No module class at all", "TOTAL = 0\n"),
    code("A syntax error", "def tick(self:\n"),
    code("An import of another module's package", counter(above="import clock")),
    Case("A native library in the tree", {"modules/counter/fast.so": b"\x7fELF"}),
    # what the host finds before it runs anything
    toml("A distribution that is missing", '[requires]\ndistributions = ["flying-carpet>=2"]\n'),
    toml("A Python that is too new", '[requires]\npython = ">=4"\n'),
    Case(
        "A module that is missing",
        {"modules/counter/module.toml": '[requires]\nmodules = { clock = ">=2" }\n'},
        exit=0,
        tag_stays=True,
    ),
    code("A message type that is no longer handled", counter(tick="tock")),
    code("A migration step that is missing", counter(version=2)),
    code(
        "A way back that is missing",
        counter(version=2, below="@Counter.migrates(1, 2)\ndef up(old: State) -> State:\n    return old\n"),
    ),
    # what the trial finds
    code("An import that fails", counter(above="import flying_carpet")),
    code("An import that raises", counter(above='raise RuntimeError("no licence")')),
    code("An import that never ends", counter(above="while True: pass"), toml=SHORT),
    code("sys.exit at import", counter(above="import sys\n\nsys.exit(3)")),
    code("os._exit at import", counter(above="import os\n\nos._exit(0)")),
    code("A crash at import", counter(above="import ctypes\n\nctypes.string_at(0)")),
    code("20 GB at import", counter(above="ROOM = bytearray(20 << 30)")),
    code("A class with an __init__", counter("def __init__(self) -> None:\n    self.total = 0")),
    code(
        "A prepare that raises",
        counter('async def prepare(self) -> None:\n    raise OSError("no such port")'),
    ),
    code("A prepare that is not async", counter("def prepare(self) -> None:\n    pass")),
    code(
        "A prepare that never ends, asynchronous",
        counter("async def prepare(self) -> None:\n    await asyncio.Event().wait()", above="import asyncio"),
        toml=SHORT,
    ),
    code(
        "A prepare that never ends, synchronous",
        counter("async def prepare(self) -> None:\n    while True: pass"),
        toml=SHORT,
    ),
    code(
        "A self_test that raises",
        counter("async def self_test(self) -> None:\n    assert self.state['last'] < 0"),
    ),
    code(
        "A self_test that never ends, asynchronous",
        counter(
            "async def self_test(self) -> None:\n    await asyncio.Event().wait()", above="import asyncio"
        ),
    ),
    code(
        "A self_test that never ends, synchronous",
        counter("async def self_test(self) -> None:\n    while True: pass"),
    ),
    migration("A migration that raises", 'return {**old, "mean": old["sum"] / old["ticks"]}'),
    migration("A migration that never ends", "while True: pass", toml=SHORT),
    migration(
        "A migration to a state that does not fit its type", 'return {**old, "last": str(old["last"])}'
    ),
    code(
        "A state that does not fit its type, which changed",
        counter(state=("ticks: str", "notes: int", "last: int", "odd: int")),
    ),
    code(
        "A first state that does not fit its type",
        counter(state=("ticks: str", "notes: int", "last: int", "odd: int")),
        tag="meter/v1.0.0",
    ),
    # what only the host itself finds
    code(
        "An import that never ends, but only in the host",
        counter(
            above="import threading\nfrom pathlib import Path\n\n"
            "if not Path.cwd().match('livetag-trial-*/work'): threading.Event().wait()"
        ),
        toml=SHORT,
    ),
    code(
        "A prepare that never ends, but only in the host",
        counter(
            "async def prepare(self) -> None:\n    while not Path.cwd().match('livetag-trial-*/work'): pass",
            above="from pathlib import Path",
        ),
        toml=SHORT,
    ),
    code(
        "A take_over that raises",
        counter('def take_over(self, resources: dict) -> None:\n    self.socket = resources["socket"]'),
    ),
    code(
        "A take_over that leaves the process",
        counter("def take_over(self, resources: dict) -> None:\n    raise SystemExit(3)"),
    ),
    code(
        "A take_over that never ends",
        counter("def take_over(self, resources: dict) -> None:\n    while True: pass"),
    ),
    code(
        "A take_over that is asynchronous",
        counter("async def take_over(self, resources: dict) -> None:\n    pass"),
    ),
)
COMMANDS = (
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
ORDER = (*(case.heading for case in CASES), *COMMANDS)


class Story:
    """The deployment of this file: counter 1.0.0 serves, and nothing that is pushed here may change that."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        deployment.work.write("modules/clock/__init__.py", "")
        deployment.write("counter", counter())
        self.good = deployment.deploy(GOOD)
        assert deployment.host is not None
        self.pid = deployment.host.pid
        self.ticks = 0
        self.numbered = Numbered(deployment)
        self.found: dict[str, str] = {}

    def push(self, case: Case) -> subprocess.CompletedProcess[str]:
        """Commit the files of the case on the good release, tag and push; leaves the clone as it was."""
        work = self.deployment.work
        for path, text in case.files.items():
            work.write(path, text)
        work.commit(case.heading)
        work.tag(case.tag)
        try:
            return self.deployment.push(case.tag)
        finally:
            work.git("tag", "-d", case.tag)
            work.git("reset", "--hard", "--quiet", self.good)

    def told(self, heading: str, command: str, done: subprocess.CompletedProcess[str]) -> None:
        """Compare what was printed with messages.txt, or keep it to be written there."""
        paths = {
            str(self.deployment.path): "<deployment>",
            sys.prefix: "<venv>",
            str(Path(sys.executable).resolve()): "<python>",
        }
        text = prose.transcript(command, done, paths)
        self.found[heading] = text
        if not prose.updating():
            expected = prose.written().get(heading, "")
            assert text == expected, f"if the new text is right: {prose.UPDATE}=1 pytest {__file__}"

    def check(self) -> None:
        """The host lives, the old version serves with its state, and no message was lost, doubled or reordered."""
        deployment = self.deployment
        assert deployment.host is not None
        assert deployment.host.poll() is None, deployment.said()
        self.ticks += 1
        assert deployment.ask("counter", "tick") == self.ticks
        status = deployment.status()
        assert status["host"]["pid"] == self.pid
        assert {name: row["version"] for name, row in status["modules"].items() if name != "slow"} == {
            "counter": "1.0.0"
        }
        assert status["modules"]["counter"]["commit"] == self.good
        assert status["transaction"] is None
        self.numbered.check()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with deployed(tmp_path_factory.mktemp("bad"), start=False) as deployment:
        deployment.place.config_file.write_text(HOST, encoding="utf-8")
        deployment.start()
        made = Story(deployment)
        try:
            yield made
        finally:
            made.numbered.close()
        assert deployment.stop() == 0, "what was pushed cannot keep the host from stopping"
        if prose.updating():
            prose.write(made.found, ORDER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.heading.replace(" ", "-"))
def test_a_bad_push_says_what_is_wrong_and_costs_nothing(story: Story, case: Case) -> None:
    began = time.monotonic()
    pushed = story.push(case)
    took_s = time.monotonic() - began

    assert pushed.returncode == case.exit, pushed.stderr
    assert took_s < SLOWEST_S
    assert (case.tag in story.deployment.tags()) is case.tag_stays
    story.check()
    if case.tag_stays:
        assert story.deployment.push(f":{case.tag}").returncode == 0
    story.told(case.heading, f"git push live {case.tag}", pushed)


def test_a_tag_of_a_blob_says_what_is_wrong(story: Story) -> None:
    work = story.deployment.work
    blob = work.git("hash-object", "-w", "--stdin", stdin="not a commit")
    work.tag(BAD, blob)
    pushed = story.deployment.push(BAD)
    work.git("tag", "-d", BAD)

    assert pushed.returncode == 1
    assert BAD not in story.deployment.tags()
    story.check()
    story.told("A tag of a blob", f"git push live {BAD}", pushed)


def test_a_commit_that_was_refused_is_refused_again_until_it_is_retried(story: Story) -> None:
    deployment, work = story.deployment, story.deployment.work
    code = counter(
        f"async def prepare(self) -> None:\n    open({str(deployment.path / 'licence')!r}).close()"
    )
    work.write("modules/counter/__init__.py", code)
    work.commit("Need a licence")
    work.tag(BAD)
    work.tag("counter/v1.2.0")
    try:
        assert deployment.push(BAD).returncode == 1
        again = deployment.push("counter/v1.2.0")
        retried = deployment.livetag("retry", BAD)
    finally:
        work.git("tag", "-d", BAD, "counter/v1.2.0")
        work.git("reset", "--hard", "--quiet", story.good)

    assert again.returncode == 1
    assert retried.returncode == 0, retried.stderr
    assert deployment.tags().count("counter/v1.2.0") == 0
    story.check()
    assert [q["tag"] for q in deployment.status()["quarantine"]].count("counter/v1.2.0") == 0
    story.told("A commit that was refused before, under another tag", "git push live counter/v1.2.0", again)
    story.told("A retry of a tag that was taken back", f"livetag retry {BAD}", retried)


@pytest.mark.parametrize(
    ("heading", "command", "exit_code"),
    [
        ("A message type that nobody handles", "send counter tock", 1),
        ("A module that does not exist", "ask countr tick", 1),
        ("A body that does not fit", "ask counter note n=one", 1),
        ("A body that is not JSON", "ask counter note n:=one", 2),
        ("A tag that was never pushed", "deploy counter/v9.0.0", 1),
        ("A retry of what is in service", "retry counter/v1.0.0", 1),
    ],
)
def test_a_wrong_command_says_what_is_wrong(story: Story, heading: str, command: str, exit_code: int) -> None:
    done = story.deployment.livetag(*command.split())

    assert done.returncode == exit_code, done.stderr
    story.check()
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
    """The story with a second module, whose handler waits until a file is there."""
    story.deployment.work.write("modules/slow/module.toml", "[limits]\nmailbox_messages = 2\n")
    story.deployment.deploy("slow/v1.0.0", slow=SLOW)
    return story


def test_a_handler_that_raises_is_told_to_the_asker(slow: Story) -> None:
    done = slow.deployment.livetag("ask", "slow", "divide", "by:=0")

    assert done.returncode == 1
    letters = slow.deployment.livetag("dead-letters", "list", "--json")
    assert "ZeroDivisionError" in letters.stdout
    slow.check()
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
    slow.check()
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
    story.check()
    story.told("A control request of 1 MB", "livetag ask counter tick key=XXX...", done)


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_case() -> None:
    assert list(prose.written()) == list(ORDER)
