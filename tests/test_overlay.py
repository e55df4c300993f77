"""A repository to look ahead in sees what others have, and neither changes them nor needs them to agree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo_store.errors import StoreError
from repo_store.overlay import git_directory, make_overlay, tags_of
from repo_store.store import RepoStore
from tests.git_fixtures import COUNTER, GitRepo, bare_store


def everything_in(path: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and when it was written."""
    return {
        str(file.relative_to(path)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file()
    }


def test_an_overlay_reads_a_release_that_only_a_clone_has_and_writes_nothing_there(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        work = GitRepo(tmp_path / "work", tmp_path / "store.git")
        work.release("counter/v1.0.0")
        work.module("counter", COUNTER + "# better\n")
        commit_id = work.commit()
        tag_id = work.tag("counter/v1.1.0", annotate="1.1.0")
        before = everything_in(tmp_path)

        make_overlay(tmp_path / "ahead.git", store.path, git_directory(work.path))
        with RepoStore.open(tmp_path / "ahead.git") as ahead:
            found = ahead.refs_after({"counter/v1.1.0": tags_of(git_directory(work.path))["counter/v1.1.0"]})
            ref = found["counter/v1.1.0"]
            assert (ref.object_id, ref.commit_id) == (tag_id, commit_id)
            assert ahead.release(ref, {**store.refs(), **found}).version == "1.1.0"
            assert b"better" in (ahead.read_file(commit_id, "modules/counter/__init__.py") or b"")

        after = {name: each for name, each in everything_in(tmp_path).items() if not name.startswith("ahead")}
        assert after == before
        assert list(store.refs()) == ["counter/v1.0.0"]


def test_a_git_directory_is_found_from_a_folder_inside_a_work_tree_of_its_own_and_a_bare_repository(
    tmp_path: Path,
) -> None:
    work = GitRepo(tmp_path / "work")
    work.module()
    work.commit()
    work.tag("counter/v1.0.0")
    work.git("worktree", "add", "-q", str(tmp_path / "second"))
    own = (work.path / ".git").resolve()

    assert git_directory(work.path) == own
    assert git_directory(work.path / "modules" / "counter") == own
    assert git_directory(tmp_path / "second" / "modules") == own
    assert git_directory(own) == own
    assert set(tags_of(own)) == {"counter/v1.0.0"}
    with pytest.raises(StoreError, match=r"is no Git repository and lies in none\. Name a clone"):
        git_directory(Path(os.sep))


def test_repositories_of_two_object_formats_are_not_mixed(tmp_path: Path) -> None:
    old, new = GitRepo(tmp_path / "old"), tmp_path / "new"
    old.git("init", "-q", "--object-format=sha256", str(new))
    with pytest.raises(
        StoreError, match=r"differ in their object format .*old.* has sha1, .*new.* has sha256"
    ):
        make_overlay(tmp_path / "ahead.git", git_directory(old.path), git_directory(new))
    assert not (tmp_path / "ahead.git").exists()


def test_a_path_that_git_could_not_read_as_an_alternate_is_said(tmp_path: Path) -> None:
    odd = GitRepo(tmp_path / "a\nb")
    with pytest.raises(StoreError, match="cannot read the objects of a repository with such a path"):
        make_overlay(tmp_path / "ahead.git", git_directory(odd.path))
