"""`livetag doctor` on a deployment that was damaged on purpose: it names the damage, and repairs what is safe to repair."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.control.doctor.examine import case_of, examine, repair
from orchestrator.control.doctor.journal import read_ledger
from orchestrator.control.doctor.repository import history
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.records import HostStarted, Settled
from tests.git_fixtures import COUNTER
from tests.stories.deployment import Deployment, wait_until

Damage = Callable[[Deployment], object]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """One module, two versions, stopped cleanly."""
    made = Deployment(tmp_path_factory.mktemp("healthy"))
    try:
        made.start()
        made.deploy("counter/v1.0.0", counter=COUNTER)
        made.deploy("counter/v1.1.0", counter=COUNTER + "\n    # more\n")
        wait_until(lambda: len(made.deployments()) == 2, "the history is written")
        made.stop()
    finally:
        made.close()
    return made


@pytest.fixture
def deployment(healthy: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, healthy)
    try:
        yield made
    finally:
        made.close()


def wrong(deployment: Deployment) -> dict[str, str]:
    """Check → what is wrong."""
    return {f.check: f.what for f in examine(deployment.place).findings if not f.ok}


def test_a_healthy_deployment_has_nothing_wrong_with_and_without_its_host(deployment: Deployment) -> None:
    assert wrong(deployment) == {}
    done = deployment.livetag("doctor")
    assert (done.returncode, "Nothing is wrong." in done.stdout) == (0, True), done.stdout + done.stderr
    deployment.start()
    wait_until(lambda: wrong(deployment) == {}, "nothing is wrong beside a host")
    report = json.loads(deployment.livetag("doctor", "--json").stdout)
    assert report["ok"] is True
    assert {"journal", "history", "hooks", "stage", "socket"} <= {row["check"] for row in report["checks"]}


def test_a_new_deployment_has_nothing_wrong(tmp_path: Path) -> None:
    assert wrong(Deployment(tmp_path)) == {}


def _edit_journal(deployment: Deployment) -> None:
    with closing(sqlite3.connect(deployment.place.journal)) as journal:
        journal.execute("UPDATE journal SET at = at + 1 WHERE seq = 5")
        journal.commit()


def _cut_journal(deployment: Deployment) -> None:
    with closing(sqlite3.connect(deployment.place.journal)) as journal:
        journal.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
        journal.commit()


def _tear_journal(deployment: Deployment) -> None:
    for more in ("-wal", "-shm"):
        Path(f"{deployment.place.journal}{more}").unlink(missing_ok=True)
    with deployment.place.journal.open("r+b") as file:
        file.truncate(file.seek(0, 2) // 2)


def test_a_journal_is_read_as_it_is_at_one_moment_beside_a_host_that_writes(tmp_path: Path) -> None:
    """Its last record and the head that is kept beside the records are of the same moment."""
    path = tmp_path / "journal.db"
    journal = Journal.open(path, time.time)
    journal.write_now(HostStarted(1, "test"))
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            journal.write_now(Settled())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            read_ledger(path)
    finally:
        ended.set()
        writer.join()
        journal.close()


@pytest.mark.parametrize("damage", [_edit_journal, _cut_journal, _tear_journal])
def test_a_journal_that_is_not_as_written_is_named_and_never_repaired_or_half_believed(
    deployment: Deployment, damage: Damage
) -> None:
    damage(deployment)
    before = deployment.place.journal.read_bytes()
    assert "journal" in wrong(deployment)
    report = repair(deployment.place)
    assert not report.ok
    assert deployment.place.journal.read_bytes() == before
    assert not {"history", "kept commits", "transaction"} & {f.check for f in report.findings}, (
        "half believed"
    )
    assert deployment.livetag("doctor").returncode == 1
    assert deployment.spawn().wait(20) == 1, "a host does not start on it"


def _delete_branch(deployment: Deployment) -> None:
    deployment.git("update-ref", "-d", "refs/heads/deployments")


def _move_branch_back(deployment: Deployment) -> None:
    deployment.git("update-ref", "refs/heads/deployments", "deployments~1")


def _commit_on_branch(deployment: Deployment) -> None:
    tree = deployment.git("rev-parse", "deployments^{tree}").strip()
    commit = deployment.git("commit-tree", tree, "-p", "deployments", "-m", "by hand").strip()
    deployment.git("update-ref", "refs/heads/deployments", commit)


def _rewrite_branch(deployment: Deployment) -> None:
    tree = deployment.git("rev-parse", "deployments^{tree}").strip()
    text = deployment.git("log", "-1", "--format=%B", "deployments").replace("committed", "rolled back")
    commit = deployment.git("commit-tree", tree, "-p", "deployments~1", "-m", text).strip()
    deployment.git("update-ref", "refs/heads/deployments", commit)


def _delete_live(deployment: Deployment) -> None:
    deployment.git("update-ref", "-d", "refs/live/counter")


def _move_live(deployment: Deployment) -> None:
    deployment.git("update-ref", "refs/live/counter", "counter/v1.0.0^{commit}")


def _foreign_live(deployment: Deployment) -> None:
    deployment.git("update-ref", "refs/live/nobody", "counter/v1.0.0^{commit}")


def _lose_tip(deployment: Deployment) -> None:
    tip = deployment.git("rev-parse", "deployments").strip()
    (deployment.place.store / "objects" / tip[:2] / tip[2:]).unlink()


FALLEN_BEHIND = [_delete_branch, _move_branch_back, _lose_tip, _delete_live, _move_live, _foreign_live]
MADE_BY_HAND = [_commit_on_branch, _rewrite_branch]


@pytest.mark.parametrize("damage", [*FALLEN_BEHIND, *MADE_BY_HAND])
def test_a_history_that_is_not_the_journals_is_named_and_written_anew(
    deployment: Deployment, damage: Damage
) -> None:
    before = deployment.git("for-each-ref", "refs/heads/deployments", "refs/live")
    damage(deployment)
    assert "history" in wrong(deployment)
    report = repair(deployment.place)
    assert report.ok, [f for f in report.findings if not f.ok]
    assert any("anew from the journal" in done for done in report.repaired)
    assert deployment.git("for-each-ref", "refs/heads/deployments", "refs/live") == before, "the same ids"


@pytest.mark.parametrize("damage", FALLEN_BEHIND)
def test_a_start_repairs_a_history_that_fell_behind(deployment: Deployment, damage: Damage) -> None:
    damage(deployment)
    deployment.start()
    wait_until(lambda: "history" not in wrong(deployment), "the history says what the journal says")


def test_what_a_host_writes_while_the_doctor_looks_is_not_wrong(deployment: Deployment) -> None:
    """The journal was read for the case before; and Git is told after the outcome."""
    deployment.start()
    wait_until(lambda: wrong(deployment) == {}, "nothing is wrong beside a host")
    case = case_of(deployment.place)
    deployment.deploy("counter/v1.2.0", counter=COUNTER + "\n    # even more\n")
    wait_until(lambda: len(deployment.deployments()) == 3, "the history is written")
    assert [found.ok for found in history(case)] == [True]
    branch = "refs/heads/deployments"
    tip = deployment.git("rev-parse", branch)
    deployment.git("update-ref", branch, f"{tip}~1")
    catches_up = threading.Timer(0.5, deployment.git, ("update-ref", branch, tip))
    catches_up.start()
    assert [found.ok for found in history(case)] == [True]
    catches_up.join()


@pytest.mark.parametrize("damage", MADE_BY_HAND)
def test_a_history_that_somebody_else_wrote_ends_no_upgrade_and_is_left_to_a_person(
    deployment: Deployment, damage: Damage
) -> None:
    damage(deployment)
    deployment.start()
    deployment.deploy("counter/v1.2.0", counter=COUNTER + "\n    # even more\n")
    assert deployment.version() == "1.2.0"
    found = next(f for f in examine(deployment.place).findings if f.check == "history")
    assert (found.ok, "stop the host" in found.todo) == (False, True)
    deployment.stop()
    assert repair(deployment.place).ok


def _hook_missing(deployment: Deployment) -> None:
    (deployment.place.store / "hooks" / "pre-receive").unlink()


def _hook_not_executable(deployment: Deployment) -> None:
    (deployment.place.store / "hooks" / "proc-receive").chmod(0o644)


def _hook_interpreter_gone(deployment: Deployment) -> None:
    path = deployment.place.store / "hooks" / "proc-receive"
    text = path.read_text()
    python = text.partition("[ ! -x ")[2].partition(" ]")[0]
    path.write_text(text.replace(python, "/no/such/python"))


def _hook_setting(deployment: Deployment) -> None:
    deployment.git("config", "--unset-all", "receive.procReceiveRefs")


def _stage_leftover(deployment: Deployment) -> None:
    (deployment.place.stage / ".tmp-left" / "counter").mkdir(parents=True)


def _stage_edited(deployment: Deployment) -> None:
    found = next(deployment.place.stage.glob("*/counter/__init__.py"))
    found.write_text(found.read_text() + "\n# edited\n")


def _stage_hollow(deployment: Deployment) -> None:
    shutil.rmtree(next(deployment.place.stage.glob("*/counter")))


def _journal_open(deployment: Deployment) -> None:
    deployment.place.journal.chmod(0o644)


def _not_kept(deployment: Deployment) -> None:
    commit = deployment.git("rev-parse", "counter/v1.1.0^{commit}").strip()
    deployment.git("update-ref", "-d", f"refs/keep/{commit}")


def _stale_socket(deployment: Deployment) -> None:
    deployment.start()
    deployment.kill()
    deployment.start()
    deployment.stop()
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(deployment.place.socket))


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (_hook_missing, "hooks"),
        (_hook_not_executable, "hooks"),
        (_hook_interpreter_gone, "hooks"),
        (_hook_setting, "hooks"),
        (_stage_leftover, "stage"),
        (_stage_edited, "stage"),
        (_stage_hollow, "stage"),
        (_journal_open, "permissions"),
        (_not_kept, "kept commits"),
        (_stale_socket, "socket"),
    ],
)
def test_what_is_safe_to_repair_is_repaired_and_said(
    deployment: Deployment, damage: Damage, check: str
) -> None:
    damage(deployment)
    assert list(wrong(deployment)) == [check]
    done = deployment.livetag("doctor", "--repair")
    assert (done.returncode, "repaired: " in done.stderr) == (0, True), done.stdout + done.stderr
    assert wrong(deployment) == {}
    deployment.start()
    assert deployment.version() == "1.1.0"


def _bad_config(deployment: Deployment) -> None:
    deployment.place.config_file.write_text("[host]\nstall = 3\n")


def _lose_release(deployment: Deployment) -> None:
    commit = deployment.git("rev-parse", "counter/v1.0.0^{commit}").strip()
    (deployment.place.store / "objects" / commit[:2] / commit[2:]).unlink()


def _foreign_hook(deployment: Deployment) -> None:
    (deployment.place.store / "hooks" / "pre-receive").write_text("#!/bin/sh\nexit 0\n")


def _died(deployment: Deployment) -> None:
    deployment.start()
    deployment.kill()
    deployment.place.socket.unlink()


def _for_tests(deployment: Deployment) -> None:
    (deployment.path / "failpoints").write_text("")


def _not_a_socket(deployment: Deployment) -> None:
    deployment.place.socket.write_text("")


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (_bad_config, "config"),
        (_lose_release, "repository"),
        (_foreign_hook, "hooks"),
        (_died, "host"),
        (_for_tests, "failpoints"),
        (_not_a_socket, "socket"),
    ],
)
def test_what_a_person_has_to_do_is_said_and_left_to_the_person(
    deployment: Deployment, damage: Damage, check: str
) -> None:
    damage(deployment)
    assert check in wrong(deployment)
    assert all(f.todo for f in examine(deployment.place).findings if not f.ok)
    repair(deployment.place)
    assert check in wrong(deployment)


def test_beside_a_host_nothing_of_the_hosts_is_touched(deployment: Deployment) -> None:
    deployment.start()
    wait_until(lambda: wrong(deployment) == {}, "the host has written its history")
    _stage_leftover(deployment)
    _delete_live(deployment)
    assert repair(deployment.place).repaired == ()
    assert (deployment.place.stage / ".tmp-left").exists()
