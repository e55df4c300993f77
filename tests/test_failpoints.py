"""Failpoints: off for everybody, on for a test that says so twice."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store import failpoints
from repo_store.failpoints import FailpointReached, FailpointsRefused, arm, reach, step
from tests.stories.deployment import Deployment

ON = {failpoints.VARIABLE: "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose process is armed, with an empty plan."""
    (tmp_path / failpoints.PLAN_NAME).write_text("")
    assert arm(tmp_path, ON)
    yield tmp_path
    failpoints.disarm()


def plan(folder: Path, text: str) -> None:
    (folder / failpoints.PLAN_NAME).write_text(text)


def test_without_the_variable_nothing_is_armed_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    plan(tmp_path, "journal.sync:before 1 raise")
    assert not arm(tmp_path, {})
    with step("journal.sync"):
        pass
    assert not (tmp_path / failpoints.LOG_NAME).exists()


def test_the_variable_alone_is_refused_and_the_host_does_not_start(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with pytest.raises(FailpointsRefused, match="not a test's deployment"):
        arm(deployment.path, ON)
    assert not failpoints.armed()
    deployment.env = ON
    host = deployment.spawn()
    assert host.wait(20) == 1
    assert "LIVETAG_FAILPOINTS is set" in deployment.said()


def test_a_host_that_is_armed_says_so_in_its_log_and_its_status(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    plan(deployment.path, "")
    deployment.env = ON
    try:
        deployment.start()
        assert deployment.status()["failpoints"] is True
        assert "failpoints are ON" in deployment.said()
        assert "failpoints are ON" in deployment.livetag("status").stdout
        deployment.stop()
        deployment.env = {}
        deployment.start()
        assert "failpoints" not in deployment.status()
    finally:
        deployment.close()


def test_a_point_is_counted_from_the_time_its_plan_was_written(folder: Path) -> None:
    reach("journal.sync:before")
    plan(folder, "journal.sync:before 2 raise")
    reach("journal.sync:before")
    with pytest.raises(FailpointReached):
        reach("journal.sync:before")
    reach("journal.sync:before")
    assert (folder / failpoints.LOG_NAME).read_text().count("journal.sync:before") == 4


def test_disk_errors_are_raised_before_or_after_the_step(folder: Path) -> None:
    done = []
    plan(folder, "stage.sync:before * eio\nstage.rename:after * enospc")
    with pytest.raises(OSError, match="failpoint") as before, step("stage.sync"):
        done.append("synced")
    with pytest.raises(OSError, match="failpoint") as after, step("stage.rename"):
        done.append("renamed")
    assert (before.value.errno, after.value.errno, done) == (errno.EIO, errno.ENOSPC, ["renamed"])


def test_what_fails_in_a_step_does_not_reach_the_point_after_it(folder: Path) -> None:
    with pytest.raises(ValueError, match="no"), step("stage.sync"):
        raise ValueError("no")
    assert "stage.sync:after" not in (folder / failpoints.LOG_NAME).read_text()


def test_a_point_that_is_not_listed_fails_the_test_that_reaches_it(folder: Path) -> None:
    with pytest.raises(FailpointReached, match=r"add it there"):
        reach("journal.nowhere:before")


def test_kill_is_a_real_one(tmp_path: Path) -> None:
    plan(tmp_path, "journal.sync:after 1 kill")
    code = (
        "import sys, pathlib; from repo_store.failpoints import arm, step\n"
        f"arm(pathlib.Path({str(tmp_path)!r}), {ON!r})\n"
        "with step('journal.sync'): pass\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
