"""A gateway with a thousand open connections is upgraded by real pushes: none is dropped, no line lost, split or doubled."""

from __future__ import annotations

import resource
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sample_app
from tests.stories.deployment import Deployment, wait_until
from tests.stories.lines import ROOM_OF, Crowd

GATEWAY = Path(sample_app.__file__).parent / "gateway"
DESCRIPTORS = 300  # beside the connections


def need_descriptors(count: int) -> None:
    """Let this process open so many files; the host sees to itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files; {wanted} are needed")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def releases(deployment: Deployment) -> Mapping[int, str]:
    """Commit the gateway's two versions; state version → commit id. The first is live as gateway/v1.0.0."""
    config = '[app]\nname = "gateway"\n[modules.gateway]\nconfig = { host = "127.0.0.1", port = 0 }\n'
    deployment.work.write("app.toml", config)
    commits = {}
    for shape, folder in ((2, GATEWAY / "upgrades" / "gateway-1.1.0"), (1, GATEWAY / "modules" / "gateway")):
        compiled = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            folder, deployment.work.path / "modules" / "gateway", ignore=compiled, dirs_exist_ok=True
        )
        commits[shape] = deployment.release(message=f"shape {shape}")
    for tag in ("app/v1.0.0", "gateway/v1.0.0"):
        deployment.work.tag(tag, commits[1])
    done = deployment.push("main", "app/v1.0.0", "gateway/v1.0.0")
    assert done.returncode == 0, done.stderr
    return commits


@pytest.mark.parametrize(
    ("clients", "upgrades"),
    [
        pytest.param(1000, 20, marks=pytest.mark.timeout(240)),
        pytest.param(5000, 50, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_no_connection_is_dropped_and_no_line_lost_through_many_upgrades(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], clients: int, upgrades: int
) -> None:
    need_descriptors(clients)
    commits = releases(deployment)
    port = deployment.ask("gateway", "port")
    crowd = Crowd(port, clients)
    try:
        wait_until(lambda: crowd.open == clients, "all clients are in their rooms", 60)
        for number in range(1, upgrades + 1):
            shape = 1 + number % 2
            tag = f"gateway/v1.0.{number}"
            deployment.work.tag(tag, commits[shape])
            pushed = deployment.push(tag)
            assert pushed.returncode == 0, pushed.stderr
            assert deployment.status()["modules"]["gateway"]["state_version"] == shape
        crowd.hush()
        await_last_lines(crowd)
        assert deployment.ask("gateway", "clients") == clients
        assert deployment.ask("gateway", "port") == port
    finally:
        crowd.close()
    switches = deployment.call("history", limit=1000)[:upgrades]
    with capsys.disabled():
        print(f"\n{told(crowd, switches)}")  # noqa: T201  # the figure of the run

    assert [client.ended for client in crowd.clients if client.ended] == []
    assert [client.odd for client in crowd.clients if client.odd] == []
    by_id = {client.id: client for client in crowd.clients}
    for client in crowd.clients:
        assert client.said > 0
        assert client.heard[client.id] == [str(n) for n in range(client.said)]
        for speaker, heard in client.heard.items():  # of the others, from when both were in the room
            first, last = int(heard[0]), by_id[speaker].said
            assert heard == [str(n) for n in range(first, last)]
            assert by_id[speaker].number // ROOM_OF == client.number // ROOM_OF
    assert deployment.call("dead_letters", action="list") == []
    # On a busy machine a pause may be over its budget: it is undone and tried again, which is as good.
    warnings = [line for line in deployment.said().splitlines() if "WARNING" in line]
    assert [line for line in warnings if "limits.pause_ms" not in line] == []
    wait_until(lambda: deployment.ask("gateway", "clients") == 0, "all who hung up are gone", 20)
    assert deployment.call("state", name="gateway") in (
        {"members": {}, "rooms": {}},
        {"room": {}, "rooms": {}},
    )


def await_last_lines(crowd: Crowd) -> None:
    """Return when each has heard its last line. How long that takes is the machine's affair; that lines go on coming is not."""
    while not crowd.is_hushed:
        before = crowd.heard

        def goes_on(before: int = before) -> bool:
            return crowd.is_hushed or crowd.heard > before

        try:
            wait_until(goes_on, "another line is heard", 20)
        except AssertionError:
            pytest.fail(f"nobody has heard anything for 20 s, and still: {crowd.owed[:10]}")


def told(crowd: Crowd, switches: list[Mapping[str, Any]]) -> str:
    """Say the run's figures on one line."""
    pauses = sorted(txn["pause_us"] for txn in switches)
    waits = sorted(client.worst_s * 1000 for client in crowd.clients)
    said = sum(client.said for client in crowd.clients)
    return (
        f"{len(crowd.clients)} connections, {len(switches)} upgrades, {said} lines said, {crowd.heard} heard; pause median "
        f"{pauses[len(pauses) // 2]:.0f} µs, worst {pauses[-1]:.0f} µs; a client's worst wait for its line: median "
        f"{waits[len(waits) // 2]:.0f} ms, of all {waits[-1]:.0f} ms"
    )


def test_after_a_restart_the_rooms_are_empty_and_the_door_is_open_again(deployment: Deployment) -> None:
    releases(deployment)
    with socket.create_connection(("127.0.0.1", deployment.ask("gateway", "port")), 5) as client:
        client.sendall(b"join lobby\nsay hello\nhalf a li")
        file = client.makefile("rb")
        assert b" in lobby" in file.readline()
        assert file.readline().endswith(b": hello\n")
        assert len(deployment.call("state", name="gateway")["room"]) == 1
        restarted = deployment.livetag("restart")
        assert restarted.returncode == 0, restarted.stderr
        assert file.readline() == b""
    assert deployment.call("state", name="gateway") == {"room": {}, "rooms": {}}
    with socket.create_connection(("127.0.0.1", deployment.ask("gateway", "port")), 5) as client:
        client.sendall(b"join lobby\n")
        assert b" in lobby" in client.makefile("rb").readline()


def test_a_gateway_that_is_removed_and_comes_back_knows_that_its_clients_are_gone(
    deployment: Deployment,
) -> None:
    releases(deployment)
    with socket.create_connection(("127.0.0.1", deployment.ask("gateway", "port")), 5) as client:
        client.sendall(b"join lobby\n")
        file = client.makefile("rb")
        assert b" in lobby" in file.readline()
        text = (deployment.work.path / "app.toml").read_text(encoding="utf-8")
        deployment.work.write("app.toml", '[app]\nname = "gateway"\n')
        deployment.release("app/v1.1.0")
        pushed = deployment.push("main", "app/v1.1.0")
        assert pushed.returncode == 0, pushed.stderr
        assert "1 source of gateway.line will be closed" in pushed.stderr
        assert file.readline() == b""
    deployment.work.write("app.toml", text)
    deployment.release("app/v1.2.0")
    pushed = deployment.push("main", "app/v1.2.0")
    assert pushed.returncode == 0, pushed.stderr
    assert deployment.call("state", name="gateway") == {"room": {}, "rooms": {}}
    with socket.create_connection(("127.0.0.1", deployment.ask("gateway", "port")), 5) as client:
        client.sendall(b"join lobby\n")
        assert b" in lobby" in client.makefile("rb").readline()


def test_another_port_opens_another_door_and_those_who_are_in_stay(deployment: Deployment) -> None:
    releases(deployment)
    port = deployment.ask("gateway", "port")
    with socket.create_server(("127.0.0.1", 0)) as found:
        other = found.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"join lobby\n")
        file = client.makefile("rb")
        assert b" in lobby" in file.readline()
        text = (deployment.work.path / "app.toml").read_text(encoding="utf-8")
        deployment.work.write("app.toml", text.replace("port = 0", f"port = {other}"))
        deployment.release("app/v1.1.0")
        pushed = deployment.push("main", "app/v1.1.0")
        assert pushed.returncode == 0, pushed.stderr
        client.sendall(b"say still here\n")
        assert file.readline().endswith(b": still here\n")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with socket.create_connection(("127.0.0.1", other), 5) as newcomer:
            newcomer.sendall(b"join lobby\n")
            assert b" in lobby" in newcomer.makefile("rb").readline()
            newcomer.sendall(b"say hello\n")
            assert file.readline().endswith(b": hello\n")


def test_a_port_that_is_taken_refuses_the_push_and_the_old_door_stays_open(deployment: Deployment) -> None:
    releases(deployment)
    port = deployment.ask("gateway", "port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = (deployment.work.path / "app.toml").read_text(encoding="utf-8")
        deployment.work.write("app.toml", text.replace("port = 0", f"port = {taken.getsockname()[1]}"))
        deployment.release("app/v1.1.0")
        pushed = deployment.push("main", "app/v1.1.0")
    assert pushed.returncode == 1
    assert "opening 'listener' raised OSError: [Errno 98] Address already in use" in pushed.stderr
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"nonsense\n")
        assert client.makefile("rb").readline().startswith(b"? join ROOM")
