"""Figure 11: a server under load is upgraded: the gateway sample by a push, gunicorn by SIGHUP, asked by the same clients."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns

import sample_app
from tests.benchmarks.harness import Bench, Found, Row, Values
from tests.benchmarks.install import PEERS
from tests.benchmarks.peers.answer import Measured
from tests.benchmarks.traffic import Heard, Room, Traffic, http, line
from tests.stories.deployment import Deployment, deployed, wait_until

GATEWAY = Path(sample_app.__file__).parent / "gateway"
CLIENTS = 8
WORKERS = 2
CONFIG = '[app]\nname = "gateway"\n[modules.gateway]\nconfig = { host = "127.0.0.1", port = 0 }\n'


def figure_11(bench: Bench) -> list[Row]:
    found = bench.shared("upgraded", upgraded)
    ours, theirs = found["livetag"], found["gunicorn"]
    kept = [100.0 * each for each in ours.lists.get("kept", [])]
    return [
        Row(
            11,
            ours.of("gap", "gateway: longest gap between answers at an upgrade"),
            theirs.of("gap", "gunicorn HUP"),
            aim=0.05,
            unit="ms",
        ),
        Row(
            11,
            ours.of("gap", "gateway: longest gap between answers at an upgrade"),
            ours.of("quiet", "the same time without an upgrade"),
            unit="ms",
        ),
        Row(
            11,
            ours.of("slowest", "gateway: slowest answer at an upgrade"),
            theirs.of("slowest", "gunicorn HUP"),
            unit="ms",
        ),
        Row(11, _total(ours, "gateway: connections dropped, in all"), None, aim=0, unit=""),
        Row(11, _total(theirs, "gunicorn: connections dropped, in all"), None, unit=""),
        Row(
            11,
            Values("gateway: rooms kept, per cent", kept, ours.missing),
            None,
            aim=100,
            at_least=True,
            unit="",
        ),
    ]


def _total(found: Found, what: str) -> Values:
    return Values(what, [sum(found.lists.get("dropped", [0.0]))], found.missing)


def upgraded(bench: Bench) -> dict[str, Found]:
    """Each server is upgraded under load, in turn; what the last round heard is kept for the picture."""
    span_s = 1.5 if bench.quick else 4.0
    with _gateway(bench) as gateway:
        return bench.in_turn(
            bench.size(5, 1),
            {
                "livetag": lambda: gateway.upgrade(span_s),
                "gunicorn": lambda: _hup(bench, span_s),
            },
        )


class Gateway:
    """The sample in a real host, and its two versions to push in turn."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        work = deployment.work
        work.write("app.toml", CONFIG)
        self._commits = []
        for folder in (GATEWAY / "modules" / "gateway", GATEWAY / "upgrades" / "gateway-1.1.0"):
            compiled = shutil.ignore_patterns("__pycache__")
            shutil.copytree(folder, work.path / "modules" / "gateway", ignore=compiled, dirs_exist_ok=True)
            self._commits.append(deployment.release())
        self._pushed = 0
        for tag in ("app/v1.0.0", "gateway/v1.0.0"):
            work.tag(tag, self._commits[0])
        done = deployment.push("main", "app/v1.0.0", "gateway/v1.0.0")
        assert done.returncode == 0, done.stderr
        self._port = deployment.ask("gateway", "port")

    def upgrade(self, span_s: float) -> Measured:
        with Traffic(self._port, CLIENTS, Room().join, line) as traffic:
            wait_until(lambda: len(traffic.heard.answers) > CLIENTS * 20, "the clients are served", 20)
            quiet = perf_counter_ns()
            _await_span(quiet, span_s)
            began = perf_counter_ns()
            self._pushed += 1
            tag = f"gateway/v1.0.{self._pushed}"
            self._deployment.work.tag(tag, self._commits[self._pushed % 2])
            done = self._deployment.push(tag)
            assert done.returncode == 0, done.stderr
            _await_span(began, span_s)
            kept = self._deployment.ask("gateway", "clients") / CLIENTS
        return {
            **heard(traffic.heard, began, span_s),
            "quiet": [traffic.heard.gap(quiet, began)],
            "kept": [kept],
        }


@contextmanager
def _gateway(bench: Bench) -> Iterator[Gateway]:
    with deployed(bench.scratch("gateway")) as deployment:
        yield Gateway(deployment)


def _hup(bench: Bench, span_s: float) -> Measured:
    """A gunicorn of two workers, which reads its version when a worker starts."""
    folder = bench.scratch("gunicorn")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PEERS / "web.py", folder / "web.py")
    (folder / "version").write_text("1", encoding="ascii")
    port = _free_port()
    command: Sequence[str | Path] = [
        *(bench.peers.script("gunicorn"), "web:app", "--bind", f"127.0.0.1:{port}"),
        *("--workers", str(WORKERS), "--log-level", "error", "--chdir", str(folder)),
    ]
    with (bench.folder / "sides.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port), "gunicorn answers", 20)
        time.sleep(0.7)  # until all its workers have come up
        with Traffic(port, CLIENTS, None, http) as traffic:
            wait_until(lambda: len(traffic.heard.answers) > CLIENTS * 20, "the clients are served", 20)
            began = perf_counter_ns()
            (folder / "version").write_text("2", encoding="ascii")
            server.send_signal(signal.SIGHUP)
            _await_span(began, span_s)
        return heard(traffic.heard, began, span_s)
    finally:
        server.terminate()
        server.wait(20)


def heard(traffic: Heard, began: int, span_s: float) -> Measured:
    end = began + int(span_s * 1e9)
    return {
        "gap": [traffic.gap(began, end)],
        "slowest": [traffic.slowest(began, end)],
        "dropped": [float(traffic.dropped)],
        "at": [float(asked - began) for asked, _ in traffic.answers],
        "took": [float(answered - asked) for asked, answered in traffic.answers],
    }


def _await_span(began: int, span_s: float) -> None:
    end = began + int(span_s * 1e9)
    time.sleep(max(0.0, (end - perf_counter_ns()) / 1e9))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
