import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import typer

from orchestrator.control.cli.app import FILES, build, execute
from orchestrator.control.cli.body import parse_body
from orchestrator.control.cli.failures import Usage
from orchestrator.control.cli.screen import duration
from orchestrator.control.cli.status import first_line
from orchestrator.control.cli.views import HistoryEntry, ModuleChange, Status
from orchestrator.control.config import Deployment
from orchestrator.control.server import ControlServer, Emit, Operation
from orchestrator.control.wire import Refused
from orchestrator.runtime.errors import ModuleError

ROOT = Path(__file__).parents[1]
HOSTILE = "evil[red]\x1b[2J\n[/]\u202ename"
Answer = Callable[[dict[str, object], Emit], object]


class Host:
    """A real control server on a deployment's socket; its operations answer what the test says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.answers: dict[str, Answer] = {}
        (path / "livetag.toml").touch()
        (path / "logs").mkdir()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(self._start())

    def _do(self, work: Awaitable[ControlServer | None]) -> ControlServer | None:
        async def run() -> ControlServer | None:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _start(self) -> ControlServer:
        names = "status history plan deploy retry rollback state send ask publish dead_letters restart"
        server = ControlServer(
            self.path / "control.sock", {name: self._operation(name) for name in names.split()}
        )
        await server.start()
        return server

    def _operation(self, name: str) -> Operation:
        async def answer(arguments: dict[str, object], emit: Emit) -> object:
            self.asked.append((name, arguments))
            return self.answers[name](arguments, emit)

        return answer

    def says(self, op: str, value: object) -> None:
        self.answers[op] = lambda _arguments, _emit: value

    def refuses(self, op: str, message: str) -> None:
        def refuse(_arguments: dict[str, object], _emit: Emit) -> object:
            raise Refused(message)

        self.answers[op] = refuse

    def close(self) -> None:
        if self._server is not None:
            self._do(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    path = tmp_path / "live"
    path.mkdir()
    monkeypatch.setenv("LIVETAG_DIR", str(path))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    host = Host(path)
    yield host
    host.close()


def json_of(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


STATUS: dict[str, object] = {
    "app": "shop",
    "host": {"pid": 7, "since": 1_700_000_000.0},
    "modules": {
        "counter": {
            "version": "1.1.0",
            "tag": "counter/v1.1.0",
            "commit": "c" * 40,
            "tree": "d" * 40,
            "state": "live",
            "state_version": 2,
            "probation": None,
            "mailbox": {"length": 3, "accepted": 9, "handled": 6, "dead": 0},
            "drift": None,
        }
    },
    "transaction": {"id": 5, "phase": "prepared", "modules": ["counter"]},
    "quarantine": [
        {"module": "counter", "commit": "e" * 40, "tag": "counter/v2.0.0", "reason": "bad", "at": 1.0}
    ],
    "waiting": [{"tags": ["rib/v1.0.0"], "why": "needs clock >=2"}],
    "dead_letters": 2,
    "problem": "the journal cannot be written",
    "availability": 0.99999997,
    "last_change": {
        "id": 4,
        "at": 1_700_000_100.0,
        "modules": [{"module": "counter", "from": "1.0.0", "to": "1.1.0", "commit": "c" * 40}],
        "outcome": "committed",
        "who": "ada",
    },
}


def test_help_shows_every_command_in_its_panel(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    shown = capsys.readouterr().out
    for panel in ("Host", "Deploy", "Reconfigure", "Modules", "Messages"):
        assert f"─ {panel} ─" in shown
    commands = (
        "init run restart status demo check plan deploy retry history rollback state interface send ask publish"
        " dead-letters"
        " load unload enable disable swap bind unbind hold unhold"
    )
    for command in commands.split():
        assert f"│ {command} " in shown
        assert execute([command, "--help"]) == 0
        assert "Usage: livetag" in capsys.readouterr().out


def test_each_command_is_found_without_the_files_of_the_others() -> None:
    names = [name for commands in FILES.values() for name in commands]
    assert sorted(names) == sorted(names_in(build())) == sorted(names_in(build("no-such-command")))
    for commands in FILES.values():
        for name in commands:
            assert sorted(names_in(build(name))) == sorted(commands)


def names_in(app: typer.Typer) -> list[str]:
    return list(typer.main.get_group(app).commands)


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("ask counter tick by:=2", {"asyncio", "git", "loguru", "pydantic", "watchdog"}),
        ("status --json", {"asyncio", "git", "loguru", "pydantic", "watchdog", "rich"}),
    ],
)
def test_a_command_starts_without_the_heavy_libraries(host: Host, command: str, heavy: set[str]) -> None:
    """Each start of a host begins as a command, too."""
    host.says(command.split(maxsplit=1)[0], 3)
    code = (
        "import sys; from orchestrator.control.cli.app import execute; "
        f"code = execute({command.split()}); print(code, *sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    answer, code, *loaded = shown.stdout.split()
    assert (answer, code) == ("3", "0")
    assert not set(loaded) & heavy


def test_a_command_that_does_not_exist_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["deplyo"]) == 2
    assert execute(["deploy"]) == 2
    assert execute(["ask", "[/red]", "--bogus[/]"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "deplyo" in shown.err


def test_without_a_host_it_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "livetag.toml").touch()
    assert execute(["status", "--dir", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"livetag run {tmp_path}" in shown.err
    monkeypatch.delenv("LIVETAG_DIR", raising=False)
    monkeypatch.chdir(tmp_path / "..")
    assert execute(["status", "--dir", "nowhere"]) == 1
    assert "livetag init" in capsys.readouterr().err


def test_status_begins_with_availability_the_last_change_by_whom_and_its_undo(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.says("status", STATUS)
    assert execute(["status"]) == 0
    shown = capsys.readouterr().out
    first = shown.splitlines()[0]
    assert first.startswith("99.999997 % available since its start · last change: counter 1.0.0 → 1.1.0 ")
    assert first.endswith(" by ada · undo: livetag rollback --txn 4")
    assert "counter/v1.1.0" in shown
    assert "transaction 5 is prepared: counter" in shown
    assert "waiting: rib/v1.0.0: needs clock >=2" in shown
    assert "dead letters: 2" in shown
    assert "problem: the journal cannot be written" in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    assert "quarantined: counter at eeeeeeeeeeee (counter/v2.0.0): bad" in shown


def test_availability_is_never_rounded_up_to_all() -> None:
    assert first_line(Status(availability=0.99999999999)).startswith("99.9999999 %")
    assert first_line(Status(availability=1.0)).startswith("100 %")
    assert first_line(Status()) == "availability not measured · nothing has changed yet"


def test_a_change_that_cannot_be_rolled_back_offers_no_undo() -> None:
    added = HistoryEntry(1, 0.0, [ModuleChange("rib", None, "1.0.0")], "committed", can_undo=False)
    assert "undo" not in first_line(Status(last_change=added))
    assert "undo: livetag rollback --txn 1" in first_line(
        Status(last_change=HistoryEntry(1, 0.0, [], "committed"))
    )


def test_a_change_that_was_undone_offers_no_undo() -> None:
    change = ModuleChange("counter", "1.0.0", "2.0.0")
    last = HistoryEntry(3, "2026-01-01", [change], "rolled_back")
    assert first_line(Status(last_change=last)).endswith("counter 1.0.0 → 2.0.0 2026-01-01, which was undone")


@pytest.mark.parametrize(
    ("words", "op", "value"),
    [
        (["status"], "status", STATUS),
        (["plan"], "plan", {"steps": [{"ok": True, "why": ""}], "checks": []}),
        (["history"], "history", [{"id": 1, "at": 1.0, "modules": [], "outcome": "committed"}]),
        (["deploy", "counter/v1.0.0"], "deploy", {"tags": [{"tag": "t", "verdict": "live", "text": "x"}]}),
        (["state", "counter"], "state", {"total": 3}),
        (["send", "counter", "tick"], "send", None),
        (["ask", "counter", "tick"], "ask", "text\x1b"),
        (["publish", "clock"], "publish", {"delivered": 2}),
        (["dead-letters", "list"], "dead_letters", []),
        (["rollback", "--reason", "r"], "rollback", {"tag": "counter/v1.0.1", "verdict": "live"}),
    ],
)
def test_with_json_stdout_is_the_host_s_answer_and_nothing_else(
    host: Host, capsys: pytest.CaptureFixture[str], words: list[str], op: str, value: object
) -> None:
    def answer(_arguments: Mapping[str, object], emit: Emit) -> object:
        emit({"tag": "counter/v1.0.0", "phase": "trial", "text": "passed"})
        return value

    host.answers[op] = answer
    assert execute([*words, "--json"]) == 0
    assert json_of(capsys) == value


def test_progress_goes_to_stderr(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(_arguments: Mapping[str, object], emit: Emit) -> object:
        emit({"tag": "counter/v1.0.0", "phase": "trial", "text": HOSTILE})
        return {"tags": [{"tag": "counter/v1.0.0", "verdict": "live", "text": "pause 47 µs, held 3"}]}

    host.answers["deploy"] = answer
    assert execute(["deploy", "counter/v1.0.0"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "counter/v1.0.0 live: pause 47 µs, held 3\n"
    assert shown.err.startswith("counter/v1.0.0: trial: evil[red]")


@pytest.mark.parametrize("verdict", ["refused", "waiting", "under way", "recorded", "ignored"])
def test_a_deploy_that_is_not_in_service_fails_and_says_why(
    host: Host, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    answer = {"tags": [{"tag": "counter/v1.0.0", "verdict": verdict, "text": "because"}]}
    host.says("deploy", answer)
    assert execute(["deploy", "counter/v1.0.0"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"error: counter/v1.0.0 {verdict}: because\n")
    assert execute(["deploy", "counter/v1.0.0", "--json"]) == 1
    assert json_of(capsys) == answer


def test_no_wait_is_done_when_the_deploy_is_under_way(host: Host) -> None:
    host.says("deploy", {"tag": "counter/v1.0.0", "verdict": "under way"})
    assert execute(["deploy", "counter/v1.0.0", "--no-wait"]) == 0
    assert host.asked == [("deploy", {"tag": "counter/v1.0.0", "wait": False})]


def test_what_the_host_refuses_is_exit_1_with_its_reason(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.refuses("state", "there is no module rib. Known: counter.")
    assert execute(["state", "rib", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "there is no module rib. Known: counter."}, (
        "one document, always"
    )
    assert shown.err == "error: there is no module rib. Known: counter.\n"
    assert execute(["state", "rib"]) == 1
    assert not capsys.readouterr().out


def test_a_bug_in_the_host_is_exit_3_without_a_traceback(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: Mapping[str, object], _emit: Emit) -> object:
        raise ZeroDivisionError("oops")

    host.answers["state"] = fail
    assert execute(["state", "rib"]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_of_the_command_itself_is_exit_3_and_names_the_file_with_the_traceback(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.says("status", {"modules": "a text where a table should be"})
    assert execute(["status"]) == 3
    shown = capsys.readouterr()
    assert "Sorry, this is a bug in livetag" in shown.err
    assert "Traceback" not in shown.err
    log = host.path / "logs" / "cli.log"
    assert str(log) in shown.err
    assert "Traceback" in log.read_text()


def test_a_bug_that_ends_the_host_is_told_as_one_that_did(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_deployment: Deployment, _without: object) -> int:
        raise KeyError("n")

    monkeypatch.setattr("orchestrator.control.logs.setup_logging", lambda *_: None)
    monkeypatch.setattr("orchestrator.control.host.run", broken)
    assert execute(["run", str(host.path)]) == 3
    said = capsys.readouterr().err
    assert "this is a bug in livetag (KeyError), and it has ended the host. The journal has what was" in said
    assert "not affected" not in said
    log = host.path / "logs" / "cli.log"
    assert str(log) in said
    assert "in broken" in log.read_text()


def test_a_start_that_is_refused_is_no_bug(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_deployment: Deployment, _without: object) -> int:
        raise ModuleError("counter cannot be loaded")

    monkeypatch.setattr("orchestrator.control.logs.setup_logging", lambda *_: None)
    monkeypatch.setattr("orchestrator.control.host.run", refused)
    assert execute(["run", str(host.path)]) == 1
    assert capsys.readouterr().err.strip() == "error: counter cannot be loaded"


def test_hostile_names_break_no_table_and_reach_no_terminal(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"module": HOSTILE, "from": HOSTILE, "to": None}
    entry = {
        "id": 1,
        "at": HOSTILE,
        "modules": [change],
        "outcome": HOSTILE,
        "reason": HOSTILE,
        "who": HOSTILE,
    }
    host.says("history", [entry])
    quarantined = {"module": HOSTILE, "commit": HOSTILE, "tag": HOSTILE, "reason": HOSTILE}
    modules = {HOSTILE: {"version": HOSTILE, "drift": HOSTILE, "probation": {HOSTILE: 1}}}
    host.says(
        "status",
        {
            "app": HOSTILE,
            "modules": modules,
            "quarantine": [quarantined],
            "availability": 1,
            "last_change": entry,
        },
    )
    host.says(
        "plan",
        {
            HOSTILE: HOSTILE,
            "steps": [{HOSTILE: HOSTILE, "module": HOSTILE, "to": HOSTILE, "transaction": 1}],
            "checks": [
                {"text": HOSTILE, "transaction": 1},
                {"what": HOSTILE, "why": HOSTILE, "transaction": 1},
            ],
            "transactions": [
                {
                    "transaction": 1,
                    "is": "ready",
                    "by": [HOSTILE],
                    "text": HOSTILE,
                    "pause": {"text": HOSTILE},
                }
            ],
            "tags": [{"tag": HOSTILE, "verdict": HOSTILE, "text": HOSTILE}],
        },
    )
    host.says("state", {HOSTILE: HOSTILE})
    host.says("ask", HOSTILE)
    host.says("dead_letters", [{"id": HOSTILE, "error": HOSTILE}])
    host.says("deploy", {"tag": HOSTILE, "verdict": HOSTILE, "text": HOSTILE})
    host.refuses("send", HOSTILE)
    commands = [
        "history",
        "status",
        "plan",
        "state x",
        "dead-letters list",
        "deploy x",
        "send x y",
        "ask x y",
    ]
    for command in commands:
        execute(command.split())
        shown = capsys.readouterr()
        text = shown.out + shown.err
        assert "evil[red]" in text, command
        assert "Sorry" not in text, command
        assert not set(text) & {"\x1b", "\u202e"}, command
        forged = [line for line in text.splitlines() if line.startswith("[/]")]
        assert not forged or command == "ask x y"  # the reply itself is the module's to write


def test_a_body_is_fields_or_one_json_object() -> None:
    assert parse_body([]) == {}
    assert parse_body(["key=a=b", "n:=2", "list:=[1, null]", "empty=", "url=http://x:=y"]) == {
        "key": "a=b",
        "n": 2,
        "list": [1, None],
        "empty": "",
        "url": "http://x:=y",
    }
    assert parse_body([' {"key": {"deep": 1}}']) == {"key": {"deep": 1}}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tick"], "tick"),
        (["=text"], "=text"),
        ([":=1"], ":=1"),
        (["n:=two"], "n:=two"),
        (["n:=NaN"], "NaN"),
        (["a=1", "a=2"], "twice"),
        (['{"a": 1, "a": 2}'], "twice"),
        (["[1]"], "[1]"),
        (["{"], "{"),
        (["n:=" + "[" * 100_000], "not JSON"),
    ],
)
def test_a_body_that_is_neither_names_the_word(words: list[str], named: str) -> None:
    with pytest.raises(Usage) as refused:
        parse_body(words)
    assert named in str(refused.value)
    assert "key=text" in str(refused.value)


def test_messages_are_sent_as_typed(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    for op in ("send", "ask", "publish"):
        host.says(op, 3)
    assert execute(["send", "counter", "tick", "key=a", "by:=2"]) == 0
    assert execute(["ask", "counter", "tick", '{"key": "a"}', "--timeout", "0.5"]) == 0
    assert execute(["publish", "clock.second", "at:=1.5"]) == 0
    assert execute(["ask", "counter", "tick", "oops"]) == 2
    assert host.asked == [
        ("send", {"name": "counter", "type": "tick", "body": {"key": "a", "by": 2}}),
        ("ask", {"name": "counter", "type": "tick", "body": {"key": "a"}, "timeout_s": 0.5}),
        ("publish", {"topic": "clock.second", "body": {"at": 1.5}}),
    ]
    assert capsys.readouterr().out == "counter accepted tick.\n3\nPublished clock.second.\n"


def test_a_dead_letter_says_whether_its_first_try_may_have_had_effects(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = {"id": 1, "reason": "it failed", "version": "1.0.0", "may_have_had_effects": "it asked"}
    host.says("dead_letters", [letter, {**letter, "id": 2, "may_have_had_effects": ""}])
    assert execute(["dead-letters", "list"]) == 0
    shown = capsys.readouterr().out
    assert "it failed; may have had effects: it asked" in shown
    assert shown.count("effects") == 1
    assert execute(["dead-letters", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == letter


def test_a_dead_letter_is_named_or_all_are(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.says("dead_letters", {"done": 1})
    assert execute(["dead-letters", "retry", "12"]) == 0
    assert execute(["dead-letters", "drop", "--all"]) == 0
    assert host.asked == [
        ("dead_letters", {"action": "retry", "id": 12}),
        ("dead_letters", {"action": "drop"}),
    ]
    assert execute(["dead-letters", "drop"]) == 2
    assert execute(["dead-letters", "drop", "12", "--all"]) == 2
    assert len(host.asked) == 2
    assert "--all" in capsys.readouterr().err


def test_a_rollback_where_nobody_can_be_asked_needs_a_reason(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["rollback", "counter"]) == 2
    assert "--reason" in capsys.readouterr().err
    assert host.asked == []
    host.says("rollback", {"tags": [{"tag": "counter/v1.2.1", "verdict": "live", "text": "1.1.0 is back"}]})
    assert execute(["rollback", "counter", "--to", "1.1.0", "--only", "--reason", "wrong sums"]) == 0
    assert host.asked == [
        (
            "rollback",
            {"module": "counter", "to": "1.1.0", "only": True, "reason": "wrong sums", "dry_run": False},
        )
    ]


def test_a_dry_run_shows_all_that_the_host_says_and_does_nothing(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    preview = {
        "txn": 4,
        "modules": [{"module": "counter", "from": "1.1.0", "to": "1.0.0", "lost": ["by_key"], "safe": False}],
        "pause_us": 47.0,
    }
    host.says("rollback", preview)
    assert execute(["rollback", "--txn", "4", "--dry-run"]) == 0
    assert host.asked == [("rollback", {"txn": 4, "dry_run": True})]
    shown = capsys.readouterr().out
    for part in ("txn: 4", "counter", "1.1.0", "by_key", "no", "pause: 47 µs"):
        assert part in shown


def on_a_terminal(host: Host, words: list[str], typed: bytes) -> tuple[int, str]:
    """Run the command on a real terminal, type, and return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "LIVETAG_DIR": str(host.path),
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
        "COLUMNS": "120",
    }
    code = "from orchestrator.control.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as command:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        while select.select([ours], [], [], 20)[0]:  # 20 s of silence: it waits for more than was typed
            try:
                got = os.read(ours, 4096)
            except OSError:  # Linux: the other side is closed
                break
            shown += got
        else:
            command.kill()
        os.close(ours)
        return command.wait(20), shown.decode()


def test_a_rollback_on_a_terminal_shows_what_it_does_and_asks(host: Host) -> None:
    def answer(arguments: Mapping[str, object], _emit: Emit) -> object:
        if arguments["dry_run"]:
            return {"txn": 4, "lost": ["by_key"]}
        return {"tag": "counter/v1.2.1", "verdict": "live", "text": "1.1.0 is back"}

    host.answers["rollback"] = answer
    code, shown = on_a_terminal(host, ["rollback"], b"y\nwrong sums\n")
    assert code == 0, shown
    assert (
        shown.index("lost: by_key")
        < shown.index("[y/N]")
        < shown.index("Why:")
        < shown.index("1.1.0 is back")
    )
    agreed = {"txn": 4, "reason": "wrong sums", "dry_run": False}
    assert host.asked[-1] == ("rollback", agreed), "what was shown, though more may have gone live meanwhile"


@pytest.mark.parametrize("typed", [b"n\n", b"\n", b"y\n\n", b"\x04"])
def test_a_rollback_that_is_not_agreed_to_changes_nothing(host: Host, typed: bytes) -> None:
    host.says("rollback", {"txn": 4})
    code, shown = on_a_terminal(host, ["rollback"], typed)
    assert code == 1
    assert "Nothing was changed" in shown
    assert [arguments for _, arguments in host.asked] == [{"dry_run": True}]


def test_restart_is_done_when_another_host_answers(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    since = iter((1.0, 1.0, 2.0))
    host.answers["status"] = lambda _arguments, _emit: {"host": {"pid": 7, "since": next(since)}}
    host.says("restart", None)
    assert execute(["restart"]) == 0
    assert [op for op, _ in host.asked] == ["status", "restart", "status", "status"]
    assert "restarted" in capsys.readouterr().out


def test_history_passes_its_filter_and_shows_pauses_in_readable_units(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"module": "counter", "from": None, "to": "1.0.0", "commit": "c" * 40}
    host.says(
        "history",
        [
            {
                "id": 1,
                "at": 1.0,
                "modules": [change],
                "outcome": "committed",
                "pause_us": 47.2,
                "held_messages": 3,
            }
        ],
    )
    assert execute(["history", "counter", "--limit", "3"]) == 0
    assert host.asked == [("history", {"module": "counter", "limit": 3})]
    assert "counter (none) → 1.0.0" in (shown := capsys.readouterr().out)
    assert "47 µs" in shown
    assert [duration(micros) for micros in (None, 999, 1200, 2e6)] == ["", "999 µs", "1.20 ms", "2.0 s"]


def test_a_terminal_that_knows_only_ascii_still_gets_its_answer(host: Host) -> None:
    host.says("status", STATUS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    code = "from orchestrator.control.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "status"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "counter 1.0.0 \\u2192 1.1.0" in done.stdout


def test_a_closed_stdout_is_no_bug(host: Host) -> None:
    host.says("history", [])
    command = f"{sys.executable} -m livetag history --dir {host.path} >&-"
    done = subprocess.run(
        ["sh", "-c", command], check=False, cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_run_refuses_a_broken_livetag_toml_before_it_starts_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "livetag.toml").write_text("[hots]\n")
    assert execute(["run", str(tmp_path)]) == 1
    assert "hots" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["livetag.toml"]
    assert execute(["run", str(tmp_path), "--log-level", "LOUD"]) == 2


def test_init_prints_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["init", str(tmp_path / "live"), "--work", str(tmp_path / "work")]) == 0
    shown = capsys.readouterr().out
    assert "git push live main counter/v1.0.0" in shown
    assert execute(["init", str(tmp_path / "live")]) == 1
    assert "deployment already" in capsys.readouterr().err


def test_demo_refuses_a_feed_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["demo", "--feed", "/nonexistent/feed.gz"]) == 1
    assert "no file" in capsys.readouterr().err
