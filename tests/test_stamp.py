"""What a stamp of the tags shows, on real Git."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store.refs import RefChange
from repo_store.stamp import Stamp, is_unmoved, refs_stamp
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store

REF = "refs/tags/counter/v1.0.0"
TICK_S = 0.02  # Linux keeps the times of files by ticks of 10 ms at most


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        GitRepo(tmp_path / "work", remote=store.path).release("counter/v1.0.0", "clock/v1.0.0")
        yield store


def rested(store: RepoStore) -> Stamp:
    """A stamp of tags that nobody has touched for more than a tick."""
    deadline = time.monotonic() + 10.0
    while not (stamp := refs_stamp(store.path)).rested(TICK_S):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return stamp


def test_every_way_to_change_a_tag_shows(store: RepoStore) -> None:
    here = store.door.run("rev-parse", REF).decode().strip()
    there = store.annotate(next(iter(store.refs().values())).tag, here, "another", "me")

    def shows(*changes: RefChange) -> bool:
        stamp = rested(store)
        store.update_refs(changes)
        return not is_unmoved(stamp)

    assert shows(RefChange(REF, there, here))
    assert shows(RefChange("refs/tags/counter/v1.1.0", here, None))
    assert shows(RefChange("refs/tags/new/v1.0.0", here, None)), "a folder that the stamp does not know"
    assert shows(RefChange("refs/tags/new/v1.1.0", here, None))
    assert shows(RefChange("refs/tags/new/v1.0.0", None, here))
    stamp = rested(store)
    store.door.run("pack-refs", "--all", "--prune")
    assert not is_unmoved(stamp)
    assert shows(RefChange(REF, None, there)), "it is only in packed-refs"
    assert shows(RefChange(REF, here, None))


def test_a_tag_that_went_away_and_came_back_shows(store: RepoStore) -> None:
    here = store.door.run("rev-parse", REF).decode().strip()
    stamp, refs = rested(store), store.refs()
    store.update_refs([RefChange(REF, None, here)])
    store.update_refs([RefChange(REF, here, None)])
    assert store.refs() == refs
    assert not is_unmoved(stamp)


def test_nothing_shows_where_nobody_touched_a_tag(store: RepoStore) -> None:
    stamp = rested(store)
    here = store.door.run("rev-parse", REF).decode().strip()
    store.refs()
    store.keep(here)
    store.update_refs([RefChange("refs/heads/deployments", here, None)])
    assert is_unmoved(stamp)
    assert refs_stamp(store.path).rows == stamp.rows


def test_a_stamp_right_after_a_change_says_that_the_tags_have_not_rested(store: RepoStore) -> None:
    os.utime(store.path / "refs" / "tags")
    assert not refs_stamp(store.path).rested(5.0)
    assert rested(store).rested(TICK_S)
    ahead_s = time.time() + 3600
    os.utime(store.path / "refs" / "tags", (ahead_s, ahead_s))  # the clock was set back since
    assert not refs_stamp(store.path).rested(TICK_S)


def test_a_repository_without_a_tag_or_a_folder_for_them_has_a_stamp(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        shutil.rmtree(store.path / "refs" / "tags")
        stamp = refs_stamp(store.path)
        assert is_unmoved(stamp)
        (store.path / "refs" / "tags").mkdir()
        assert not is_unmoved(stamp)
