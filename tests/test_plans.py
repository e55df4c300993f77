"""Whose clones a host plans from: its trial runs their code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.control.plans import check_tag, readable
from orchestrator.control.wire import Refused
from tests.git_fixtures import GitRepo


def test_a_clone_of_the_hosts_own_user_is_read(tmp_path: Path) -> None:
    work = GitRepo(tmp_path / "work")
    assert readable(str(work.path)) == (work.path / ".git").resolve()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_clone_of_somebody_else_is_not_read_because_the_trial_would_run_its_code(tmp_path: Path) -> None:
    work = GitRepo(tmp_path / "work")
    os.chown(work.path / ".git", 54321, 54321)
    with pytest.raises(
        Refused, match=r"belongs to the user 54321, not to the host's.*git push -o plan live TAG"
    ):
        readable(str(work.path))


def test_a_name_outside_the_grammar_is_no_tag_to_plan() -> None:
    check_tag("counter/v1.0.0")
    with pytest.raises(Refused, match="'counter' is not a release tag"):
        check_tag("counter")
