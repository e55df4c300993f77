"""`livetag selftest` as an operator uses it: on modules of his own, with what it says and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from orchestrator.control.init import create
from repo_store import failpoints
from tests.git_fixtures import clean_environment
from tests.stories.deployment import Deployment, wait_until

ONE = "deploy/switch.record:before/1"
BELIEVES_PREPARED = """
import sys
if "run" in sys.orig_argv:
    from orchestrator.control import host
    from orchestrator.upgrade.records import Committed
    honest = host.close_the_past

    def believing(book, *rest):
        if book.ledger.unfinished is not None:
            book.write_now(Committed(book.ledger.unfinished.id, 0.0, 0))
        honest(book, *rest)

    host.close_the_past = believing
"""


class Operator:
    """Somebody with a working copy and a deployment, and a folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.live, self.work, self.tmp = folder / "live", folder / "work", folder / "tmp"
        self.tmp.mkdir()
        self.report = folder / "report.md"
        create(self.live, self.work, clean_environment())

    def begin(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "livetag", "selftest", "--report", str(self.report), *arguments],
            env={**clean_environment(), "TMPDIR": str(self.tmp), **env},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def selftest(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.begin(*arguments, **env) as running:
            out, err = running.communicate(timeout=110)
        return subprocess.CompletedProcess(arguments, running.returncode, out, err)

    def left(self) -> list[str]:
        """What is left of it among the temporary files, trials of killed hosts apart."""
        return [path.name for path in self.tmp.glob("livetag-selftest-*")]

    def hosts(self) -> list[str]:
        """The hosts that still run below the folder for temporary files."""
        lines = subprocess.run(
            ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
        return [line for line in lines.splitlines() if str(self.tmp) in line and "livetag run" in line]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    made = Operator(tmp_path)
    yield made
    assert made.hosts() == []


def facts(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_kill_on_ones_own_modules_says_what_was_seen_and_leaves_only_its_report(operator: Operator) -> None:
    other = operator.work / "modules" / "hen"
    other.mkdir()
    (other / "__init__.py").write_text(dedent(shaped(1)))
    before = sorted(operator.work.rglob("*"))
    done = operator.selftest("--repo", str(operator.work), "--points", ONE, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    told = facts(done)
    assert told["ok"] is True
    assert told["kills"] == [{"name": ONE, "outcome": "old", "seconds": told["kills"][0]["seconds"]}]
    assert told["verdict"].startswith("crash-safe here: 1 kill at 1 point, 1 all old, 0 all new")
    assert told["modules"]["counter"].startswith("1.0.0 ")
    assert "→" in told["modules"]["hen"], "both at once, though nothing of one commit served before"
    assert "counter" in operator.report.read_text()
    assert operator.left() == []
    assert sorted(operator.work.rglob("*")) == before


def test_a_recovery_that_believes_what_is_only_prepared_is_found(operator: Operator, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(BELIEVES_PREPARED)
    done = operator.selftest("--repo", str(operator.work), "--points", ONE, "--yes", PYTHONPATH=str(planted))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(
        f"NOT crash-safe here: after {ONE}, expected: start 1 after the death serves"
    )
    assert f"--points {ONE}" in done.stdout.replace("'", "")
    (kept,) = operator.tmp.glob("livetag-selftest-*/*/*/d/journal.db")
    assert str(kept.parents[1]) in done.stdout


def test_it_asks_before_it_runs_modules(operator: Operator) -> None:
    done = operator.selftest("--repo", str(operator.work))
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "bind ports" in done.stderr
    done = operator.selftest("--yes")
    assert done.returncode == 1
    assert "Nothing is in service" in done.stderr
    assert operator.left() == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_in_service_is_tested_beside_its_host_and_is_not_touched(tmp_path: Path) -> None:
    """The release before is the base, so the steps of the state run, up and down."""
    deployment = Deployment(tmp_path)
    report = tmp_path / "report.md"
    try:
        deployment.start()
        for version, shape in (("1.0.0", 1), ("1.1.0", 2)):
            deployment.deploy(f"hen/v{version}", hen=shaped(shape))
        status, journal = deployment.status(), deployment.place.journal.read_bytes()
        done = deployment.livetag(
            "selftest", "--yes", "--report", str(report), "--json", "--points", "*/switch.record:*"
        )
        told = facts(done)
        assert done.returncode == 0, told
        assert told["modules"]["hen"].startswith("1.0.0 (")
        assert "state 1) → 1.1.0 (" in told["modules"]["hen"]
        assert {kill["name"].partition("/")[0] for kill in told["kills"]} >= {"deploy", "rollback"}
        assert {kill["outcome"] for kill in told["kills"]} >= {"old"}
        assert deployment.place.journal.read_bytes() == journal
        assert deployment.status()["modules"] == status["modules"]
    finally:
        deployment.close()


def shaped(version: int) -> str:
    """A module whose state has this version; the second one knows the way up and down."""
    steps = """
        @Hen.migrates(1, 2)
        def up(old: dict) -> dict:
            return {"total": old["total"], "more": 0}

        @Hen.migrates(2, 1)
        def down(new: dict) -> dict:
            return {"total": new["total"]}
    """
    initial = {"total": 7} if version == 1 else {"total": 7, "more": 0}
    return f"""
        from livetag import Module, handles

        class Hen(Module):
            state_version = {version}

            def initial_state(self):
                return {initial!r}
    """ + (steps if version == 2 else "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_says_how_far_it_came_and_leaves_nothing(operator: Operator) -> None:
    with operator.begin("--repo", str(operator.work), "--full", "--yes") as running:
        wait_until(operator.hosts, "a host runs", 60.0)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "interrupted" in out + err
    assert operator.left() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_at_once_do_not_disturb_one_another(operator: Operator) -> None:
    arguments = ("--repo", str(operator.work), "--points", "deploy/journal.sync:*/4", "--yes", "--json")
    running = [operator.begin(*arguments) for _ in range(2)]
    for each in running:
        with each:
            out, err = each.communicate(timeout=200)
        assert each.returncode == 0, err
        assert len(json.loads(out)["kills"]) == 2
    assert operator.left() == []


def test_the_variable_alone_is_refused_by_the_hooks_of_a_deployment(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.write("hen", shaped(1))
    deployment.release("hen/v1.0.0")
    pushed = deployment.work.run("push", "live", "hen/v1.0.0", check=False, env={failpoints.VARIABLE: "1"})
    assert pushed.returncode != 0
    assert "is not a test's deployment" in pushed.stderr
    assert "bug" not in pushed.stderr
    assert deployment.tags() == []
