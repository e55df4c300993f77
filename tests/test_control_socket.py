import asyncio
import contextlib
import functools
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.control import client
from orchestrator.control.server import ControlServer, Emit, SocketTaken
from orchestrator.control.wire import MAX_REQUEST_BYTES, BadRequest, Refused, reachable
from tests.control_host import serving

DEADLINE_S = 10.0
NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


async def ping(_arguments: dict[str, object], _emit: Emit) -> object:
    return "pong"


async def echo(arguments: dict[str, object], _emit: Emit) -> object:
    return arguments


async def count(arguments: dict[str, object], emit: Emit) -> object:
    upto = arguments["upto"]
    assert isinstance(upto, int)
    for number in range(upto):
        emit({"number": number})
    return upto


async def refuse(_arguments: dict[str, object], _emit: Emit) -> object:
    raise Refused("rib is not loaded; see `livetag status`")


async def misuse(_arguments: dict[str, object], _emit: Emit) -> object:
    raise BadRequest("tag: missing")


async def break_down(_arguments: dict[str, object], _emit: Emit) -> object:
    raise KeyError("n")


async def answer_nonsense(_arguments: dict[str, object], _emit: Emit) -> object:
    return "\ud800"


async def sleep(arguments: dict[str, object], _emit: Emit) -> object:
    seconds = arguments["seconds"]
    assert isinstance(seconds, float)
    await asyncio.sleep(seconds)
    return "slept"


OPERATIONS = {
    "ping": ping,
    "echo": echo,
    "count": count,
    "refuse": refuse,
    "misuse": misuse,
    "break_down": break_down,
    "answer_nonsense": answer_nonsense,
    "sleep": sleep,
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def raw(path: Path, sent: bytes) -> list[dict[str, object]]:
    """What a client gets that does not use our code: the lines until the server closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        with reachable(path) as address:
            connection.connect(address)
        with contextlib.suppress(BrokenPipeError):  # refused before it was read: the reason is there to read
            connection.sendall(sent)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    return [json.loads(line) for line in received.splitlines()]


def error_of(answers: list[dict[str, object]]) -> tuple[object, str]:
    assert len(answers) == 1
    error = answers[0]["error"]
    assert isinstance(error, dict)
    return error["kind"], str(error["message"])


def test_a_call_gets_its_value_back(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        assert client.call(path, "ping") == "pong"
        assert client.call(path, "echo", name="é", body={"n": [1, None, 2.5]}) == {
            "name": "é",
            "body": {"n": [1, None, 2.5]},
        }


def test_an_argument_may_be_called_anything(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        assert client.call(path, "echo", path="a.b") == {"path": "a.b"}
        assert client.request(path, "echo", {"timeout_s": 1.5}) == {"timeout_s": 1.5}


def test_events_come_before_the_answer_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    seen: list[Mapping[str, object]] = []
    with serving(path, OPERATIONS):
        assert client.call(path, "count", on_event=seen.append, upto=1000) == 1000
    assert [event["number"] for event in seen] == list(range(1000))


def test_a_refusal_a_misuse_and_a_bug_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    kinds = {}
    with serving(path, OPERATIONS):
        for op in ("refuse", "misuse", "break_down", "no_such_op", "answer_nonsense"):
            with pytest.raises(client.HostRefused) as caught:
                client.call(path, op)
            kinds[op] = (caught.value.kind, caught.value.message)
        assert client.call(path, "ping") == "pong"
    assert kinds["refuse"] == ("refused", "rib is not loaded; see `livetag status`")
    assert kinds["misuse"] == ("usage", "tag: missing")
    assert kinds["break_down"][0] == "bug"
    assert "KeyError('n')" in kinds["break_down"][1] or "KeyError: 'n'" in kinds["break_down"][1]
    assert kinds["no_such_op"][0] == "usage"
    assert "ping" in kinds["no_such_op"][1]
    assert kinds["answer_nonsense"][0] == "bug"


def test_a_request_that_is_no_request_gets_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        for line in (b"hello\n", b"[]\n", b"\xff\xfe\n", b'{"op": 1}\n', b"[" * 200_000 + b"\n", b"{}\n"):
            kind, message = error_of(raw(path, line))
            assert kind == "usage"
            assert message


@pytest.mark.parametrize("size", [MAX_REQUEST_BYTES + 1, 2 * MAX_REQUEST_BYTES, 1_000_000, 16_000_000])
def test_a_request_that_is_too_long_is_told_so_at_once(tmp_path: Path, size: int) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        began = time.monotonic()
        with pytest.raises(client.HostRefused, match="longer than 262144 bytes") as caught:
            client.call(path, "echo", text="x" * size)
        assert caught.value.kind == "usage"
        assert time.monotonic() - began < 0.9  # no wait for an end that was read already
        assert client.call(path, "ping") == "pong"


def test_a_simple_client_can_send_all_of_a_request_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        with reachable(path) as address:
            connection.connect(address)
        connection.sendall(b'"' + b"x" * 4_000_000 + b'"\n')  # no broken pipe before it could read the reason
        assert b"longer than 262144 bytes" in connection.recv(65536)


def test_a_reason_given_before_the_request_was_read_still_arrives(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with (
        serving(path, OPERATIONS, functools.partial(ControlServer, max_clients=0)),
        pytest.raises(client.HostRefused, match="serves 0 clients already"),
    ):
        client.call(path, "echo", text="x" * 4_000_000)


def test_a_request_that_never_ends_is_told_so_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS, functools.partial(ControlServer, idle_s=0.05)):
        assert error_of(raw(path, b'{"op": "pi')) == ("usage", "no request within 0.05 s")
        assert error_of(raw(path, b"")) == ("usage", "no request within 0.05 s")


def test_one_client_too_many_is_told_so_and_the_others_are_served(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    gate = threading.Event()
    entered = []

    async def wait_for_gate(_arguments: dict[str, object], _emit: Emit) -> object:
        entered.append(1)
        await asyncio.to_thread(gate.wait, DEADLINE_S)
        return "done"

    answers: list[object] = []
    with serving(
        path, {"wait": wait_for_gate, "ping": ping}, functools.partial(ControlServer, max_clients=2)
    ):
        waiting = [
            threading.Thread(target=lambda: answers.append(client.call(path, "wait"))) for _ in range(2)
        ]
        for thread in waiting:
            thread.start()
        until(lambda: len(entered) == 2)
        with pytest.raises(client.HostRefused, match="serves 2 clients already"):
            client.call(path, "ping")
        gate.set()
        for thread in waiting:
            thread.join(DEADLINE_S)
        assert answers == ["done", "done"]
        assert client.call(path, "ping") == "pong"


def test_an_operation_goes_on_when_its_client_hangs_up(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    gate = threading.Event()
    entered = threading.Event()
    finished = threading.Event()

    async def slow(_arguments: dict[str, object], emit: Emit) -> object:
        entered.set()
        await asyncio.to_thread(gate.wait, DEADLINE_S)
        for number in range(100):
            emit({"number": number})
            await asyncio.sleep(0)
        finished.set()
        return None

    with serving(path, {"slow": slow}):
        with socket.socket(socket.AF_UNIX) as connection, reachable(path) as address:
            connection.connect(address)
            connection.sendall(b'{"op": "slow"}\n')
            assert entered.wait(DEADLINE_S)
        gate.set()
        assert finished.wait(DEADLINE_S)


def test_a_client_that_does_not_read_does_not_fill_the_hosts_memory(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    finished = threading.Event()

    async def flood(_arguments: dict[str, object], emit: Emit) -> object:
        for _ in range(200):
            emit({"text": "x" * 100_000})
            await asyncio.sleep(0)
        finished.set()
        return None

    with serving(path, {"flood": flood}), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        with reachable(path) as address:
            connection.connect(address)
        connection.sendall(b'{"op": "flood"}\n')
        assert finished.wait(DEADLINE_S)
        received = 0
        try:
            while piece := connection.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 6_000_000


def test_nobody_there_is_not_the_same_as_lost_or_slow(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(client.HostAbsent, match="no host is running"):
        client.call(path, "ping")
    with pytest.raises(client.HostAbsent):
        client.call(tmp_path / "no" / "such" / "control.sock", "ping")
    with serving(path, OPERATIONS), pytest.raises(client.HostSlow, match=r"within 0\.05 s"):
        client.call(path, "sleep", timeout_s=0.05, seconds=0.3)
    with socket.socket(socket.AF_UNIX) as hanging_up:
        with reachable(path) as address:
            hanging_up.bind(address)
        hanging_up.listen()

        def hang_up() -> None:
            hanging_up.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(client.HostLost) as caught:
            client.call(path, "ping", timeout_s=DEADLINE_S)
        thread.join(DEADLINE_S)
    assert not isinstance(caught.value, client.HostSlow)


def test_closing_lets_the_running_finish_and_ends_the_late_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    outcome: list[object] = []

    async def story() -> None:
        entered = asyncio.Event()

        async def forever(_arguments: dict[str, object], _emit: Emit) -> object:
            entered.set()
            await asyncio.Event().wait()
            return None

        server = ControlServer(path, {"forever": forever})
        await server.start()
        asking = asyncio.create_task(asyncio.to_thread(ask))
        await asyncio.wait_for(entered.wait(), DEADLINE_S)
        await server.close(grace_s=0.05)
        await asking

    def ask() -> None:
        try:
            client.call(path, "forever")
        except client.HostRefused as refusal:
            outcome.append(refusal.message)

    asyncio.run(story())
    assert outcome == ["the host is stopping; what was asked for was not finished"]
    assert not path.exists()


def test_the_socket_is_for_its_owner_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == ["control.sock"]
    assert list(tmp_path.iterdir()) == []


def test_a_socket_left_by_a_killed_host_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead, reachable(path) as address:
        dead.bind(address)
    with serving(path, OPERATIONS):
        assert client.call(path, "ping") == "pong"


def test_a_socket_that_somebody_removed_is_put_back(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "control.sock"
        server = ControlServer(path, OPERATIONS, look_s=0.02)
        await server.start()
        try:
            path.unlink()
            for _ in range(500):
                if path.exists():
                    break
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(client.call, path, "echo", value=1) == {"value": 1}
            assert path.stat().st_mode & 0o777 == 0o600
        finally:
            await server.close()
        assert not path.exists()

    asyncio.run(story())


def test_a_living_socket_or_a_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        with pytest.raises(SocketTaken, match="already answers"), serving(path, OPERATIONS):
            pass
        assert client.call(path, "ping") == "pong"
    path.write_text("mine")
    with pytest.raises(SocketTaken, match="not a socket"), serving(path, OPERATIONS):
        pass
    assert path.read_text() == "mine"


def test_closing_does_not_remove_the_socket_of_another_host(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, OPERATIONS):
        path.unlink()
        with serving(path, OPERATIONS):
            pass
        path.touch()
    assert path.exists()


def test_a_deep_deployment_works_although_socket_addresses_are_short(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    path = folder / "control.sock"
    assert len(str(path)) > 200
    with serving(path, OPERATIONS):
        assert client.call(path, "ping") == "pong"


def test_a_group_that_does_not_exist_is_named(tmp_path: Path) -> None:
    make = functools.partial(ControlServer, group="no-such-group-here")
    with (
        pytest.raises(Refused, match="no group 'no-such-group-here'"),
        serving(tmp_path / "control.sock", OPERATIONS, make),
    ):
        pass


def open_to_all(folder: Path) -> None:
    """Let every user reach this folder of pytest's, which makes them private from the first on."""
    while folder.name:
        if stat.S_IMODE(folder.stat().st_mode) & 0o055 != 0o055:
            folder.chmod(0o755)
        if folder.name.startswith("pytest-of-"):
            return
        folder = folder.parent


@only_root
def test_another_user_is_refused_by_the_file_and_by_its_peer_id(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("open")
    path = folder / "control.sock"
    open_to_all(folder)
    with serving(path, OPERATIONS):
        try:
            os.seteuid(NOBODY)
            with pytest.raises(client.HostForbidden, match="may not open"):
                client.call(path, "ping")
        finally:
            os.seteuid(0)
        path.chmod(0o666)
        try:
            os.seteuid(NOBODY)
            with pytest.raises(client.HostRefused, match=f"user {NOBODY} may not control"):
                client.call(path, "ping")
        finally:
            os.seteuid(0)
        assert client.call(path, "ping") == "pong"


@only_root
def test_a_member_of_the_group_is_served(tmp_path_factory: pytest.TempPathFactory) -> None:
    import grp
    import pwd

    user = pwd.getpwuid(NOBODY)
    group = grp.getgrgid(user.pw_gid).gr_name
    folder = tmp_path_factory.mktemp("group")
    path = folder / "control.sock"
    open_to_all(folder)
    with serving(path, OPERATIONS, functools.partial(ControlServer, group=group)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == user.pw_gid
        path.chmod(0o666)  # the file lets everybody in; the kernel's word about the user decides
        try:
            os.seteuid(NOBODY)
            assert client.call(path, "ping") == "pong"
        finally:
            os.seteuid(0)


def test_the_client_starts_without_the_heavy_libraries() -> None:
    heavy = "{'typer', 'rich', 'loguru', 'asyncio', 'msgspec', 'git', 'watchdog'}"
    code = f"import sys; import orchestrator.control.client; print(sorted(set(sys.modules) & {heavy}))"
    root = Path(__file__).parent.parent
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
