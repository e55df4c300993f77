import asyncio
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hooks import install, proc_receive
from hooks.pkt import ProtocolError, read_packet, write_flush, write_packet
from hooks.protocol import Push, Result, read_push, write_results
from hooks.push import Command, Place
from orchestrator.control.server import Emit
from orchestrator.control.wire import Refused
from repo_store.store import RepoStore
from tests.control_host import serving

DEADLINE_S = 20.0
ROOT = Path(__file__).parent.parent
COUNTER = """\
from livetag import Module, handles

class Counter(Module[dict]):
    @handles
    def tick(self) -> int:
        return 1
"""


@dataclass
class Answer:
    code: int
    text: str  # what the pusher saw, standard error and output

    @property
    def remote(self) -> list[str]:
        lines = (line for line in self.text.splitlines() if line.startswith("remote: "))
        return [line.removeprefix("remote: ").rstrip() for line in lines]


@dataclass
class Site:
    """A deployment with hooks installed, and a clone that pushes to it."""

    folder: Path
    work: Path
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store.git"

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    def git(self, *args: str, cwd: Path | None = None) -> Answer:
        done = subprocess.run(
            ["git", *args],
            cwd=cwd or self.work,
            env=clean_env() | self.extra_env,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, (done.stderr + done.stdout).decode("utf-8", "replace"))

    def push(self, *args: str, remote: str = "live") -> Answer:
        return self.git("push", remote, *args)

    def commit(self, files: Mapping[str, str], message: str = "change") -> str:
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.must("add", "-A")
        self.must("commit", "-q", "--allow-empty", "-m", message)
        return self.must("rev-parse", "HEAD").strip()

    def tag(self, name: str, target: str = "HEAD") -> None:
        self.must("tag", "-f", name, target)

    def must(self, *args: str) -> str:
        answer = self.git(*args)
        assert answer.code == 0, answer.text
        return answer.text

    def refs(self) -> dict[str, str]:
        shown = subprocess.run(
            ["git", f"--git-dir={self.store}", "for-each-ref", "--format=%(refname) %(objectname)"],
            env=clean_env(),
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(line.split(" ") for line in shown.stdout.splitlines())


def clean_env() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@localhost",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@localhost",
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "deployment", tmp_path / "work")
    made.folder.mkdir()
    RepoStore.create(made.store).close()
    assert install.install(made.store) == []
    made.work.mkdir()
    made.must("init", "-q", "-b", "main")
    made.must("remote", "add", "live", str(made.store))
    made.commit({"modules/counter/__init__.py": COUNTER})
    return made


@dataclass
class Host:
    """What the tests' host says to a push; it keeps what it was asked."""

    verdicts: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)
    asked: list[dict[str, object]] = field(default_factory=list)
    announced: list[object] = field(default_factory=list)
    answer: object = None
    error: Exception | None = None
    hold: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    refs_seen: list[dict[str, str]] = field(default_factory=list)
    site: Site | None = None

    async def pushing(self, arguments: dict[str, object], _emit: Emit) -> None:
        self.announced.append(arguments["changes"])

    async def push(self, arguments: dict[str, object], emit: Emit) -> object:
        self.asked.append(arguments)
        if self.site is not None:
            self.refs_seen.append(await asyncio.to_thread(self.site.refs))
        self.reached.set()
        for event in self.events:
            emit(event)
        if self.hold is not None:
            await asyncio.to_thread(self.hold.wait, DEADLINE_S)
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        changes = arguments["changes"]
        assert isinstance(changes, list)
        names = [str(change["ref"]).removeprefix("refs/tags/") for change in changes]
        rows = [
            (name, *self.verdicts.get(name, ("live", f"{name} is live, pause 9 µs, 3 messages held")))
            for name in names
        ]
        return {"tags": [{"tag": tag, "verdict": verdict, "text": text} for tag, verdict, text in rows]}


@pytest.fixture
def host(site: Site) -> Iterator[Host]:
    made = Host(site=site)
    with serving(site.socket, {"pushing": made.pushing, "push": made.push}):
        yield made
        if made.hold is not None:
            made.hold.set()


# --- what goes well


def test_a_push_prints_each_phase_and_ends_in_one_outcome_line(site: Site, host: Host) -> None:
    host.events = [
        {"tag": "counter/v1.0.0", "phase": "staged", "text": "2 files"},
        {"phase": "committed", "text": ""},
    ]
    site.tag("counter/v1.0.0")
    answer = site.push("main", "counter/v1.0.0")
    assert answer.code == 0, answer.text
    assert answer.remote == [
        "counter/v1.0.0: staged: 2 files",
        "committed",
        "counter/v1.0.0: live: counter/v1.0.0 is live, pause 9 µs, 3 messages held",
    ]
    head = site.must("rev-parse", "HEAD").strip()
    assert site.refs() == {"refs/heads/main": head, "refs/tags/counter/v1.0.0": head}
    asked = host.asked[0]
    assert asked["changes"] == [{"ref": "refs/tags/counter/v1.0.0", "old": None, "new": head}]
    assert asked["options"] == []
    assert asked["who"]
    assert host.refs_seen[0]["refs/tags/counter/v1.0.0"] == head  # the tag is there when the host is asked


def test_all_tags_of_a_push_are_there_before_the_host_is_asked(site: Site, host: Host) -> None:
    names = [f"counter/v1.0.{number}" for number in range(20)]
    for name in names:
        site.tag(name)
    answer = site.push(*names)
    assert answer.code == 0, answer.text
    assert [line.partition(":")[0] for line in answer.remote] == names
    assert {ref.removeprefix("refs/tags/") for ref in host.refs_seen[0]} == set(names)


def test_a_tag_moves_and_is_deleted_and_the_host_is_told_both_ids(site: Site, host: Host) -> None:
    first = site.must("rev-parse", "HEAD").strip()
    site.tag("counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    second = site.commit({"modules/counter/__init__.py": COUNTER + "# more\n"})
    site.tag("counter/v1.0.0")
    assert site.push("-f", "counter/v1.0.0").code == 0
    assert site.refs()["refs/tags/counter/v1.0.0"] == second
    assert site.push("--delete", "counter/v1.0.0").code == 0
    assert site.refs() == {}
    ref = "refs/tags/counter/v1.0.0"
    assert [asked["changes"] for asked in host.asked] == [
        [{"ref": ref, "old": None, "new": first}],
        [{"ref": ref, "old": first, "new": second}],
        [{"ref": ref, "old": second, "new": None}],
    ]


def test_an_annotated_tag_is_as_good_as_a_lightweight_one(site: Site, host: Host) -> None:
    site.must("tag", "-a", "-m", "first", "counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    assert len(host.asked) == 1


def test_a_tag_outside_the_grammar_is_stored_and_said_to_be_ignored(site: Site, host: Host) -> None:
    for name in ("v1", "counter-1.0.0", "counter/1.0.0", "Counter/v1.0.0"):
        site.tag(name)
        answer = site.push(name)
        assert answer.code == 0, answer.text
        assert len(answer.remote) == 1
        assert answer.remote[0].startswith(f"{name}: ignored: not a release tag")
    assert len(site.refs()) == 4
    assert host.asked == host.announced == []
    site.tag("counter/v1.0.0")
    assert site.push("v1", "counter-1.0.0", "counter/v1.0.0").code == 0
    assert host.announced == [host.asked[0]["changes"]]


def test_a_deletion_of_a_tag_that_is_not_there_changes_nothing(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    answer = site.push(":refs/tags/counter/v9.9.9")
    assert site.refs().keys() == {"refs/tags/counter/v1.0.0"}
    assert "Traceback" not in answer.text
    assert host.asked[0]


# --- what the host refuses


def test_a_refused_release_fails_the_push_and_leaves_no_tag(site: Site, host: Host) -> None:
    host.verdicts = {
        "counter/v1.0.0": ("refused", "counter 1.0.0 not live: prepare() raised KeyError('n').\nFix it.")
    }
    site.tag("counter/v1.0.0")
    answer = site.push("main", "counter/v1.0.0")
    assert answer.code == 1
    assert answer.remote == [
        "counter/v1.0.0: refused, tag taken back: counter 1.0.0 not live: prepare() raised KeyError('n').",
        "    Fix it.",
    ]
    assert (
        "[remote rejected] counter/v1.0.0 -> counter/v1.0.0 (counter 1.0.0 not live: prepare()" in answer.text
    )
    assert site.refs().keys() == {"refs/heads/main"}


def test_a_pusher_whose_name_is_no_utf_8_is_judged_as_any(site: Site, host: Host) -> None:
    """What cannot be sent is not judged: the tag of a refused release would stay, and the push succeed."""
    host.verdicts = {"counter/v1.0.0": ("refused", "no")}
    site.tag("counter/v1.0.0")
    for variable, who in (("REMOTE_USER", "http"), ("LIVETAG_PRINCIPAL", "ssh")):
        site.extra_env = {variable: os.fsdecode(b"J\xf6rg")}
        assert site.push("counter/v1.0.0").code == 1
        assert site.refs() == {}
        assert host.asked[-1]["who"] == f"{who}:J\\udcf6rg"


def test_a_refused_move_puts_the_tag_back_where_it_was(site: Site, host: Host) -> None:
    first = site.must("rev-parse", "HEAD").strip()
    site.tag("counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    site.commit({"modules/counter/__init__.py": COUNTER + "# more\n"})
    site.tag("counter/v1.0.0")
    host.verdicts = {"counter/v1.0.0": ("refused", "no")}
    assert site.push("-f", "counter/v1.0.0").code == 1
    assert site.refs() == {"refs/tags/counter/v1.0.0": first}
    assert site.push("--delete", "counter/v1.0.0").code == 1
    assert site.refs() == {"refs/tags/counter/v1.0.0": first}


def test_a_refused_tag_takes_no_other_tag_of_the_push_with_it(site: Site, host: Host) -> None:
    host.verdicts = {"counter/v1.1.0": ("refused", "no")}
    site.tag("counter/v1.0.0")
    site.tag("counter/v1.1.0")
    answer = site.push("counter/v1.0.0", "counter/v1.1.0")
    assert answer.code == 1
    assert site.refs().keys() == {"refs/tags/counter/v1.0.0"}


def test_an_atomic_push_is_taken_or_taken_back_as_one(site: Site, host: Host) -> None:
    host.verdicts = {"counter/v1.1.0": ("refused", "no")}
    for name in ("counter/v1.0.0", "counter/v1.1.0", "other"):
        site.tag(name)
    answer = site.push("--atomic", "main", "counter/v1.0.0", "counter/v1.1.0", "other")
    assert answer.code == 1
    assert site.refs() == {}
    assert "counter/v1.0.0 -> counter/v1.0.0 (another tag of this atomic push was refused)" in answer.text
    host.verdicts = {}
    assert site.push("--atomic", "main", "counter/v1.0.0", "counter/v1.1.0", "other").code == 0
    assert len(site.refs()) == 4


def test_a_refused_tag_that_somebody_moved_meanwhile_is_left_alone(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    site.tag("counter/v1.1.0")
    host.verdicts = {"counter/v1.0.0": ("refused", "no"), "counter/v1.1.0": ("refused", "no")}
    host.hold = threading.Event()
    answers: list[Answer] = []
    pushing = threading.Thread(
        target=lambda: answers.append(site.push("main", "counter/v1.0.0", "counter/v1.1.0"))
    )
    pushing.start()
    assert host.reached.wait(DEADLINE_S)
    moved = site.commit({"README": "x"})
    site.must("push", "-q", "live", "HEAD:refs/heads/next")
    subprocess.run(
        ["git", f"--git-dir={site.store}", "update-ref", "refs/tags/counter/v1.0.0", moved],
        env=clean_env(),
        check=True,
    )
    host.hold.set()
    pushing.join(DEADLINE_S)
    assert answers[0].code == 1
    assert "counter/v1.0.0: moved by somebody else meanwhile; left as it is now." in answers[0].remote
    tags = {ref: at for ref, at in site.refs().items() if ref.startswith("refs/tags/")}
    assert tags == {"refs/tags/counter/v1.0.0": moved}


def test_other_verdicts_leave_the_tag_and_say_themselves(site: Site, host: Host) -> None:
    host.verdicts = {
        "counter/v1.0.0": ("recorded", "not deployed: counter/v1.2.0 is higher"),
        "counter/v1.1.0": ("waiting", "requires rib >=2"),
        "counter/v1.2.0": ("unchanged", ""),
    }
    for name in host.verdicts:
        site.tag(name)
    answer = site.push(*host.verdicts)
    assert answer.code == 0
    assert answer.remote == [
        "counter/v1.0.0: recorded: not deployed: counter/v1.2.0 is higher",
        "counter/v1.1.0: waiting: requires rib >=2",
        "counter/v1.2.0: unchanged",
    ]
    assert len(site.refs()) == 3


def test_nothing_that_is_shown_can_steer_the_terminal(site: Site, host: Host) -> None:
    host.verdicts = {"counter/v1.0.0": ("refused", "bad\x1b]0;owned\x07 name\r\u202egnp")}
    host.events = [{"phase": "st\x1b[2Jaged", "text": "a\rb"}]
    site.tag("counter/v1.0.0")
    answer = site.push("counter/v1.0.0")
    for char in ("\x1b[2J", "\x1b]", "\x07", "\u202e", "a\rb"):
        assert char not in answer.text
    assert r"\x1b]0;owned\x07 name" in answer.text


# --- when nothing is known


def test_without_a_host_the_tag_stays_and_the_push_says_so(site: Site) -> None:
    site.tag("counter/v1.0.0")
    answer = site.push("counter/v1.0.0")
    assert answer.code == 0
    assert answer.remote == [
        "counter/v1.0.0: recorded: no host is running; it is acted on at the next start (`livetag run`)"
    ]
    assert site.refs().keys() == {"refs/tags/counter/v1.0.0"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_socket_that_may_not_be_opened_is_said_as_such(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    head = site.must("rev-parse", "HEAD").strip()
    assert site.push("main").code == 0
    for each in (site.folder, *site.folder.parents[:4]):
        each.chmod(0o755)
    subprocess.run(["chown", "-R", "65534", str(site.store)], check=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.path.relpath(site.socket))
        other.listen()
        site.socket.chmod(0o600)
        command = Command(None, head, "refs/tags/counter/v1.0.0")
        os.seteuid(65534)
        try:
            results = proc_receive.receive(Push((command,), (), atomic=False), Place(site.store), "a")
        finally:
            os.seteuid(0)
    assert results == [Result("refs/tags/counter/v1.0.0")]
    assert "this user may not open" in capsys.readouterr().err


def test_a_lost_connection_leaves_the_tag(site: Site) -> None:
    site.tag("counter/v1.0.0")
    with socket.socket(socket.AF_UNIX) as hanging_up:
        hanging_up.bind(os.path.relpath(site.socket))
        hanging_up.listen()

        def hang_up() -> None:
            for _ in range(2):  # it says who pushes, and then asks
                hanging_up.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        answer = site.push("counter/v1.0.0")
        thread.join(DEADLINE_S)
    assert answer.code == 0
    assert "the outcome is not known" in answer.remote[0]
    assert site.refs().keys() == {"refs/tags/counter/v1.0.0"}


def test_an_error_of_the_host_leaves_the_tag(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    host.error = Refused("the host is stopping")
    answer = site.push("counter/v1.0.0")
    assert answer.code == 0
    assert answer.remote == [
        "counter/v1.0.0: stored: the host could not answer: the host is stopping. The tag stays; see `livetag status`"
    ]
    host.error = None
    answers: list[object] = [[], {"tags": 3}, {"tags": [1, {"tag": 5}]}, {"tags": []}]
    for number, nonsense in enumerate(answers):
        host.answer = nonsense
        site.tag(f"counter/v1.0.{number + 1}")
        answer = site.push(f"counter/v1.0.{number + 1}")
        assert answer.code == 0
        assert "the host said nothing about this tag" in answer.remote[-1]


def test_at_the_deadline_the_push_says_still_under_way(
    site: Site, host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = site.must("rev-parse", "HEAD").strip()
    assert site.push("main").code == 0
    monkeypatch.setattr(proc_receive, "WAIT_S", 0.1)
    host.hold = threading.Event()
    command = Command(None, head, "refs/tags/counter/v1.0.0")
    results = proc_receive.receive(Push((command,), (), atomic=False), Place(site.store), "a")
    assert results == [Result("refs/tags/counter/v1.0.0")]
    assert "counter/v1.0.0: still under way: no outcome after 0.1 s" in capsys.readouterr().err
    assert "refs/tags/counter/v1.0.0" in site.refs()


def test_a_pusher_who_hangs_up_does_not_keep_a_refused_tag(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    host.verdicts = {"counter/v1.0.0": ("refused", "no")}
    host.events = [{"phase": "staged", "text": "x" * 100}] * 50
    host.hold = threading.Event()
    pushing = subprocess.Popen(
        ["git", "push", "live", "counter/v1.0.0"],
        cwd=site.work,
        env=clean_env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert host.reached.wait(DEADLINE_S)
    os.killpg(pushing.pid, 2)  # as Ctrl-C does: to the hook, too
    pushing.wait(DEADLINE_S)
    assert "refs/tags/counter/v1.0.0" in site.refs()
    host.hold.set()
    deadline = time.monotonic() + DEADLINE_S
    while site.refs():
        assert time.monotonic() < deadline, "the refused tag is still there"
        time.sleep(0.02)


# --- push options


def test_push_options_reach_the_host(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    assert site.push("-o", "no-wait", "counter/v1.0.0").code == 0
    site.tag("counter/v1.0.1")
    assert site.push("-o", "wait=confirmed", "counter/v1.0.1").code == 0
    assert [asked["options"] for asked in host.asked] == [["no-wait"], ["wait=confirmed"]]


def test_a_plan_is_shown_and_nothing_is_changed(site: Site, host: Host) -> None:
    assert site.push("main").code == 0
    before = site.refs()
    host.verdicts = {"counter/v1.0.0": ("plan", "would go live in place of 0.9.0")}
    site.tag("counter/v1.0.0")
    answer = site.push("-o", "plan", "counter/v1.0.0")
    assert answer.code == 1
    assert answer.remote == ["counter/v1.0.0: plan: would go live in place of 0.9.0"]
    assert "(plan only, nothing was changed)" in answer.text
    assert site.refs() == before
    assert host.refs_seen[0] == before
    answer = site.push("-o", "plan", "counter/v1.0.0", "HEAD:refs/heads/next")
    assert answer.code == 1
    assert "push only tags with it" in answer.text
    assert site.refs() == before


def test_a_plan_without_a_host_changes_nothing_either(site: Site) -> None:
    site.tag("counter/v1.0.0")
    answer = site.push("-o", "plan", "counter/v1.0.0")
    assert answer.code == 1
    assert answer.remote[0].startswith("counter/v1.0.0: no plan: no host is running")
    assert site.refs() == {}


def test_a_misspelt_push_option_deploys_nothing(site: Site, host: Host) -> None:
    site.tag("counter/v1.0.0")
    for options in (["-o", "paln"], ["-o", "no-wait", "-o", "wait=confirmed"], ["-o", ""]):
        answer = site.push(*options, "counter/v1.0.0")
        assert answer.code == 1
        assert "push option" in answer.text
    assert site.refs() == {}
    assert host.asked == []


# --- what pre-receive refuses


BAD_PUSHES = {
    "a missing folder": ({}, "rib/v1.0.0", "modules/rib"),
    "a name of the standard library": (
        {"modules/json/__init__.py": COUNTER},
        "json/v1.0.0",
        "standard library",
    ),
    "a name of livetag": ({"modules/hooks/__init__.py": COUNTER}, "hooks/v1.0.0", "livetag itself"),
    "an installed distribution": ({"modules/msgspec/__init__.py": COUNTER}, "msgspec/v1.0.0", "installed"),
    "broken TOML": ({"modules/counter/module.toml": "entry = "}, "counter/v1.0.0", "module.toml"),
    "an unknown key": ({"modules/counter/module.toml": "entyr = 'a:b'"}, "counter/v1.0.0", "entyr"),
    "a syntax error": ({"modules/counter/__init__.py": "def ("}, "counter/v1.0.0", "__init__.py"),
    "an app.toml that is missing": ({}, "app/v1.0.0", "app.toml"),
    "an app.toml that is broken": ({"app.toml": "[modules.rib]\npakage='x'"}, "app/v1.0.0", "pakage"),
    "a composition of nothing": ({"app.toml": "[modules.rib]"}, "app/v1.0.0", "neither a tag nor a folder"),
    "a composition with a bad package": (
        {"app.toml": "[modules.rib]", "modules/rib/__init__.py": "def ("},
        "app/v1.0.0",
        "__init__.py",
    ),
}


@pytest.mark.parametrize("what", BAD_PUSHES)
def test_what_can_never_go_live_is_refused_before_it_is_stored(site: Site, host: Host, what: str) -> None:
    files, tag, expected = BAD_PUSHES[what]
    site.commit(files)
    site.tag(tag)
    answer = site.push("main", tag)
    assert answer.code == 1
    assert answer.remote[0].startswith(f"refused: {tag}: ")
    assert expected in " ".join(answer.remote)
    assert answer.remote[-1].startswith("Nothing of this push was taken; what is in service serves on.")
    assert "Traceback" not in answer.text
    assert site.refs() == {}
    assert host.asked == []


def test_a_tag_of_a_blob_or_a_tree_is_refused(site: Site) -> None:
    for target in ("HEAD:modules/counter/__init__.py", "HEAD:modules"):
        site.tag("counter/v1.0.0", target)
        answer = site.push("counter/v1.0.0")
        assert answer.code == 1
        assert "points at no commit" in answer.text
    assert site.refs() == {}


def test_a_symlink_or_a_submodule_in_the_package_is_refused(site: Site) -> None:
    (site.work / "modules/counter/link").symlink_to("/etc/passwd")
    site.commit({})
    site.tag("counter/v1.0.0")
    answer = site.push("counter/v1.0.0")
    assert answer.code == 1
    assert "link" in answer.text
    (site.work / "modules/counter/link").unlink()
    site.commit({})
    head = site.must("rev-parse", "HEAD").strip()
    site.must("update-index", "--add", "--cacheinfo", f"160000,{head},modules/counter/sub")
    site.must("commit", "-q", "-m", "submodule")
    site.tag("counter/v1.0.0")
    answer = site.push("counter/v1.0.0")
    assert answer.code == 1
    assert "submodule" in answer.text
    assert site.refs() == {}


@pytest.mark.parametrize("ref", ["refs/heads/deployments", "refs/live/counter", "refs/keep/0123"])
def test_the_refs_of_the_host_cannot_be_pushed(site: Site, ref: str) -> None:
    answer = site.push(f"HEAD:{ref}")
    assert answer.code == 1
    assert f"refused: {ref}: only the host writes this ref" in answer.text
    assert site.refs() == {}
    head = site.must("rev-parse", "HEAD").strip()
    assert site.push("main").code == 0
    subprocess.run(["git", f"--git-dir={site.store}", "update-ref", ref, head], env=clean_env(), check=True)
    assert site.push(f":{ref}").code == 1
    assert site.refs()[ref] == head


def test_nothing_of_a_push_is_executed_by_pre_receive(site: Site, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    evil = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    site.commit(
        {
            "modules/counter/__init__.py": evil + COUNTER,
            "modules/counter/conftest.py": evil,
            "sitecustomize.py": evil,
            "livetag.py": evil,
            "hooks.py": evil,
            ".gitattributes": "* filter=evil diff=evil",
        }
    )
    site.tag("counter/v1.0.0")
    answer = site.push("main", "counter/v1.0.0")
    assert answer.code == 0, answer.text
    assert not mark.exists()


def test_one_bad_tag_refuses_the_whole_push_and_every_reason_is_given(site: Site) -> None:
    for name in ("counter/v1.0.0", "rib/v1.0.0", "fib/v1.0.0"):
        site.tag(name)
    answer = site.push("main", "counter/v1.0.0", "rib/v1.0.0", "fib/v1.0.0")
    assert answer.code == 1
    assert {line.split(" ")[1] for line in answer.remote if line.startswith("refused: ")} == {
        "rib/v1.0.0:",
        "fib/v1.0.0:",
    }
    assert site.refs() == {}


# --- ways to push


def test_a_push_works_by_path_by_file_url_and_through_ssh(site: Site, host: Host, tmp_path: Path) -> None:
    wrapper = tmp_path / "ssh"
    wrapper.write_text('#!/bin/sh\nshift\ncd /\nexec env -u PYTHONPATH sh -c "$*"\n')
    wrapper.chmod(0o755)
    site.extra_env["GIT_SSH_COMMAND"] = str(wrapper)
    site.extra_env["GIT_SSH_VARIANT"] = "simple"
    ways = {"path": str(site.store), "file": f"file://{site.store}", "ssh": f"somebody:{site.store}"}
    for number, way in enumerate(ways):
        site.commit({"modules/counter/__init__.py": COUNTER + f"# {way}\n"})  # new objects, so a quarantine
        name = f"counter/v1.0.{number}"
        site.tag(name)
        answer = site.push(name, remote=ways[way])
        assert answer.code == 0, (way, answer.text)
        assert answer.remote[-1].startswith(f"{name}: live: "), way
        host.verdicts = {f"counter/v2.0.{number}": ("refused", "no")}
        site.tag(f"counter/v2.0.{number}")
        assert site.push(f"counter/v2.0.{number}", remote=ways[way]).code == 1
    assert len(site.refs()) == 3


def test_the_environment_and_directory_of_the_pusher_choose_nothing(
    site: Site, host: Host, tmp_path: Path
) -> None:
    mark = tmp_path / "imported"
    trap = tmp_path / "trap"
    for name in ("hooks", "orchestrator", "repo_store", "json", "git", "sitecustomize"):
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    site.extra_env = {"PYTHONPATH": str(trap), "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": str(trap / "x")}
    site.tag("counter/v1.0.0")
    answer = site.git(
        "--git-dir", str(site.work / ".git"), "push", str(site.store), "counter/v1.0.0", cwd=trap
    )
    assert answer.code == 0, answer.text
    assert answer.remote[-1].startswith("counter/v1.0.0: live: ")
    assert not mark.exists()
    assert host.asked


def test_a_hooks_path_in_the_pushers_configuration_does_not_switch_ours_off(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "gitconfig").write_text(f"[core]\n\thooksPath = {tmp_path}/none\n")
    site.extra_env["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    site.tag("rib/v1.0.0")
    answer = site.push("rib/v1.0.0")
    assert answer.code == 1
    assert answer.remote[0].startswith("refused: rib/v1.0.0: ")


def test_hooks_work_under_a_path_with_spaces_quotes_and_unicode(tmp_path: Path) -> None:
    site = Site(tmp_path / 'it\'s a "deploy" é', tmp_path / "work")
    site.folder.mkdir()
    RepoStore.create(site.store).close()
    install.install(site.store)
    site.work.mkdir()
    site.must("init", "-q", "-b", "main")
    site.commit({"modules/counter/__init__.py": COUNTER})
    site.tag("counter/v1.0.0")
    answer = site.push("main", "counter/v1.0.0", remote=str(site.store))
    assert answer.code == 0, answer.text
    assert answer.remote[0].startswith("counter/v1.0.0: recorded")


def test_two_pushes_of_one_tag_at_once_leave_one_of_them(site: Site, host: Host) -> None:
    first = site.must("rev-parse", "HEAD").strip()
    second = site.commit({"README": "second"})
    assert site.push("main").code == 0
    answers: list[Answer] = []

    def push(commit_id: str) -> None:
        answers.append(site.push(f"{commit_id}:refs/tags/counter/v1.0.0"))

    threads = [threading.Thread(target=push, args=(commit_id,)) for commit_id in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(answer.code for answer in answers) == [0, 1]
    assert site.refs()["refs/tags/counter/v1.0.0"] in (first, second)
    assert len(host.asked) == 2  # for the branch, and for the push that won


def test_a_branch_wakes_the_host_and_says_nothing(site: Site, host: Host) -> None:
    answer = site.push("main")
    assert answer.code == 0
    assert answer.remote == []
    assert [change["ref"] for asked in host.asked for change in asked["changes"]] == ["refs/heads/main"]  # type: ignore[attr-defined]
    site.tag("counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    assert len(host.asked) == 2  # by proc-receive; post-receive had nothing to add


# --- installation


def test_installing_again_renews_and_a_foreign_hook_is_never_replaced(site: Site) -> None:
    assert install.install(site.store) == []
    foreign = site.store / "hooks" / "pre-receive"
    foreign.write_text("#!/bin/sh\n")
    with pytest.raises(install.HooksRefused, match="is not livetag's"):
        install.install(site.store)
    assert foreign.read_text() == "#!/bin/sh\n"


def test_a_missing_interpreter_refuses_the_push_with_a_way_out(site: Site, tmp_path: Path) -> None:
    install.install(site.store, python=tmp_path / "gone" / "python")
    site.tag("counter/v1.0.0")
    answer = site.push("counter/v1.0.0")
    assert answer.code == 1
    assert "livetag is not where this repository expects it" in answer.text
    assert "python -m hooks install" in answer.text
    assert site.refs() == {}


def test_a_repository_that_cannot_be_read_is_not_called_a_bug(tmp_path: Path) -> None:
    broken = tmp_path / "store.git"
    broken.mkdir()
    line = f"{'0' * 40} {'1' * 40} refs/tags/counter/v1.0.0\n"
    done = subprocess.run(
        [sys.executable, "-m", "hooks", "pre-receive"],
        check=False,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, "GIT_DIR": str(broken)},
        cwd=Path(__file__).parents[1],
        input=line,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "the repository could not be read" in done.stderr
    assert "bug" not in done.stderr


def test_an_old_git_is_told_what_it_lacks(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("git")
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text(
        '#!/bin/sh\nfor each in "$@"; do [ "$each" = --version ] && echo git version 2.25.1 && exit 0; done\n'
        f'exec {real} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    (lacking,) = install.install(site.store)
    assert "git 2.25 has no proc-receive hook" in lacking
    assert "2.29" in lacking


def test_without_proc_receive_the_tag_is_stored_and_the_host_is_woken(site: Site, host: Host) -> None:
    """As with git before 2.29: post-receive is all there is."""
    subprocess.run(
        ["git", f"--git-dir={site.store}", "config", "--unset-all", "receive.procReceiveRefs"],
        env=clean_env(),
        check=True,
    )
    install._write(
        site.store / "hooks" / "post-receive",
        install._shim("post-receive", Path(sys.executable), tags_are_handled=False),
    )
    site.tag("counter/v1.0.0")
    assert site.push("counter/v1.0.0").code == 0
    assert [asked["options"] for asked in host.asked] == [["no-wait"]]


def test_the_hooks_can_be_installed_from_any_directory(site: Site, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(ROOT / "hooks" / "__main__.py"), "install", str(site.store)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [sys.executable, "-m", "hooks", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    done = subprocess.run(
        [sys.executable, "-m", "hooks", "pre-receive"],
        cwd=ROOT,
        input="",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "GIT_DIR is not set" in done.stderr


def test_the_hooks_start_without_the_heavy_libraries() -> None:
    heavy = {"typer", "rich", "loguru", "asyncio", "watchdog", "orchestrator.runtime", "orchestrator.upgrade"}
    code = "import sys; sys.path.insert(0, sys.argv[1]); import hooks.{}; print(*sys.modules)"
    for hook in ("pre_receive", "release_check", "proc_receive", "post_receive"):
        shown = subprocess.run(
            [sys.executable, "-I", "-c", code.format(hook), str(ROOT)],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(shown.stdout.split())
        assert not loaded & heavy, hook
        if hook in ("pre_receive", "post_receive"):
            assert not loaded & {"git", "msgspec"}, hook
        if hook != "release_check":  # which reads manifests
            assert not loaded & {"typing_extensions"}, hook


# --- the conversation with Git


def packets(*contents: bytes | None) -> io.BytesIO:
    stream = io.BytesIO()
    for content in contents:
        if content is None:
            write_flush(stream)
        else:
            write_packet(stream, content)
    stream.seek(0)
    return stream


OLD, NEW, ZERO = b"1" * 40, b"2" * 40, b"0" * 40


def test_the_conversation_is_version_1_with_its_features() -> None:
    out = io.BytesIO()
    push = read_push(
        packets(
            b"version=1\0push-options atomic object-format=sha1",
            None,
            ZERO + b" " + NEW + b" refs/tags/a/v1.0.0",
            OLD + b" " + ZERO + b" refs/tags/a name",
            None,
            b"no-wait",
            None,
        ),
        out,
    )
    assert out.getvalue() == b"0022version=1\x00push-options atomic\n0000"
    assert [(each.old, each.new, each.ref) for each in push.commands] == [
        (None, "2" * 40, "refs/tags/a/v1.0.0"),
        ("1" * 40, None, "refs/tags/a name"),
    ]
    assert push.options == ("no-wait",)
    assert push.atomic


def test_a_conversation_without_features_has_no_options_part() -> None:
    out = io.BytesIO()
    push = read_push(packets(b"version=1", None, OLD + b" " + NEW + b" refs/tags/x", None), out)
    assert (len(push.commands), push.options, push.atomic) == (1, (), False)
    assert out.getvalue() == b"000eversion=1\n0000"


def test_a_reason_is_one_line_whatever_it_holds() -> None:
    out = io.BytesIO()
    write_results(
        out, [Result("refs/tags/a"), Result("refs/tags/b", "one\ntwo\r\n three"), Result("refs/tags/c", "")]
    )
    out.seek(0)
    read = []
    while (packet := read_packet(out)) is not None:
        read.append(packet)
    assert read == [b"ok refs/tags/a", b"ng refs/tags/b one two three", b"ng refs/tags/c refused"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"00",
        b"zzzz",
        b"0001",
        b"0003",
        b"-001",
        b"ffff",
        b"0010abc",
        b"000dversion=9",
        b"000eversion=1\n0000000bhello w0000",
    ],
)
def test_what_is_no_conversation_is_told_from_one(sent: bytes) -> None:
    with pytest.raises((ProtocolError, EOFError)):
        read_push(io.BytesIO(sent), io.BytesIO())
