"""Lock files that a killed Git has left: seen, said, and removed where no Git can hold them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from repo_store.errors import GitFailed
from repo_store.locks import STALE_S, git_at_work, locks, remove_stale
from repo_store.refs import RefChange
from tests.git_fixtures import GitRepo, bare_store, clean_environment


def leave_lock(store: Path, name: str, age_s: float) -> Path:
    """What a Git that was killed that many seconds ago leaves."""
    lock = store / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_bytes(b"")
    then = time.time() - age_s
    os.utime(lock, (then, then))
    return lock


def test_a_lock_that_a_killed_git_left_holds_up_no_ref_for_longer_than_a_minute(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        work = GitRepo(tmp_path / "work", store.path)
        commit_id = work.commit("one")
        work.push("main")
        tag = "refs/tags/counter/v1.0.0"
        store.update_refs([RefChange(tag, commit_id, None)])
        work.git(f"--git-dir={store.path}", "pack-refs", "--all")
        lock = leave_lock(store.path, tag, 5.0)
        with pytest.raises(GitFailed, match="livetag doctor --repair removes it once it is a minute old"):
            store.update_refs([RefChange(tag, None, commit_id)])
        assert lock.exists(), "a Git may be at work"
        leave_lock(store.path, tag, STALE_S + 1)
        leave_lock(store.path, "packed-refs", STALE_S + 1)
        store.update_refs([RefChange(tag, None, commit_id)])  # a deletion writes packed-refs too
        assert store.refs() == {}
        assert locks(store.path) == []


def test_a_lock_is_left_alone_while_a_git_that_could_hold_it_is_seen(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        lock = leave_lock(store.path, "refs/tags/counter/v1.0.0", 3600.0)
        with subprocess.Popen(
            ["git", f"--git-dir={store.path}", "update-ref", "--stdin"],
            stdin=subprocess.PIPE,
            env=clean_environment(),
        ) as waiting:
            if not Path("/proc/self").exists():
                pytest.skip("this system does not list its processes in /proc")
            while not git_at_work(store.path):  # until it has become git
                assert waiting.poll() is None
            assert remove_stale(store.path) == []
            waiting.communicate(b"")
        assert remove_stale(store.path) == [lock]
