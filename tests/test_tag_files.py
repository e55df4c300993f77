"""The tags as they are read without Git: always what Git says, or no answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repo_store.errors import GitFailed
from repo_store.refs import read_refs
from repo_store.store import RepoStore
from repo_store.tag_files import TagFiles
from tests.git_fixtures import GitRepo, bare_store, tag_ref
from tests.test_control_socket import open_to_all

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


@pytest.fixture
def tagged(store: RepoStore, work: GitRepo) -> RepoStore:
    """Two packed tags, one of which has moved since, a loose one and a foreign one."""
    work.release("counter/v1.0.0")
    work.release("counter/v1.1.0")
    work.git(f"--git-dir={store.path}", "pack-refs", "--all")
    work.release("rib/v1.0.0")
    work.tag("counter/v1.0.0", force=True)
    work.tag("nightly", annotate="of tonight")
    work.push("--force", "refs/tags/counter/v1.0.0", "refs/tags/nightly")
    return store


def trusted(store: RepoStore) -> TagFiles:
    """As after a first look of Git's."""
    files = TagFiles(store.path)
    assert files.read() is None, "Git has not said yet that it is a repository"
    files.vouch(files.condition())
    return files


@contextmanager
def as_any_user(store: RepoStore) -> Iterator[None]:
    """The store belongs to a user who may not do everything, as root may, and it is he who runs the block."""
    if os.geteuid() != 0:
        yield
        return
    open_to_all(store.path)
    subprocess.run(["chown", "-R", str(NOBODY), str(store.path)], check=True)
    store.close()  # what runs for it was started by root
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def said_by_git(store: RepoStore) -> dict[str, str]:
    return read_refs(store.door, "refs/tags/")[0]


def test_plain_tags_are_read_as_git_reads_them_and_without_git(
    tagged: RepoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = said_by_git(tagged)
    found = trusted(tagged).read()
    assert found is not None
    assert list(found.items()) == list(expected.items())
    assert {"refs/tags/counter/v1.0.0", "refs/tags/nightly", "refs/tags/rib/v1.0.0"} < set(found)
    tagged.refs()
    monkeypatch.setattr(tagged.door, "_start", lambda _arguments: pytest.fail("Git was started"))
    assert set(tagged.refs()) == {"counter/v1.0.0", "counter/v1.1.0", "rib/v1.0.0"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "refs/tags/counter/v2.0.0").write_text(""),
        lambda path: (path / "refs/tags/counter/v2.0.0").write_text("ref: refs/heads/main\n"),
        lambda path: (path / "refs/tags/counter/v2.0.0").write_text("0" * 40 + "\n"),
        lambda path: (path / "refs/tags/counter/v2.0.0").write_text("1" * 40),
        lambda path: (path / "refs/tags/counter/v2.0.0").symlink_to("v1.0.0"),
        lambda path: (path / "refs/tags/counter/v2..0").write_text("1" * 40 + "\n"),
        lambda path: (path / "refs/tags/nightly").rename(path / "refs/tags" / os.fsdecode(b"\xff")),
        lambda path: (path / "packed-refs").write_text("garbage\n"),
        lambda path: (path / "packed-refs").write_text("1" * 40 + " refs/tags/counter/v9.0.0"),
        lambda path: (path / "packed-refs").write_text("1" * 40 + " refs/tags/a..b\n"),
        lambda path: (path / "reftable").mkdir(),
        lambda path: (path / "commondir").write_text(str(path)),
        lambda path: (path / "HEAD").unlink(),
        lambda path: (path / "HEAD").write_text("[[[garbage"),
        lambda path: (path / "config").write_text("[[[garbage"),
        lambda path: shutil.rmtree(path / "objects"),
    ],
)
def test_what_is_not_plain_is_left_to_git(tagged: RepoStore, spoil: Callable[[Path], object]) -> None:
    files = trusted(tagged)
    assert files.read() is not None
    spoil(tagged.path)
    assert files.read() is None


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("folder", ["refs/tags", "refs/tags/counter"])
def test_a_folder_that_cannot_be_listed_hides_no_tag(
    tagged: RepoStore, work: GitRepo, folder: str, known: bool
) -> None:
    """Git says nothing of it: counter/v1.2.0 would be gone, and counter/v1.1.0, which is packed, go live in its place."""
    work.release("counter/v1.2.0")
    if known:
        tagged.refs()
    closed = tagged.path / folder
    with as_any_user(tagged):
        closed.chmod(0)
        with pytest.raises(GitFailed, match=re.escape(f"{closed}/ cannot be listed")):
            tagged.refs()
        closed.chmod(0o755)
        assert set(tagged.refs()) == {"counter/v1.0.0", "counter/v1.1.0", "counter/v1.2.0", "rib/v1.0.0"}


def test_a_change_under_way_is_not_seen_before_it_is_made(tagged: RepoStore) -> None:
    files, before = trusted(tagged), said_by_git(tagged)
    lock = tagged.path / "refs/tags/counter/v1.2.0.lock"
    lock.write_text("1" * 40 + "\n")
    assert files.read() == before
    lock.rename(lock.with_suffix(""))
    assert files.read() == {**before, "refs/tags/counter/v1.2.0": "1" * 40}


def test_packed_refs_are_read_again_when_they_have_changed(tagged: RepoStore, work: GitRepo) -> None:
    files = trusted(tagged)
    packed = tagged.path / "packed-refs"
    long_ago = time.time() - 100
    os.utime(packed, (long_ago, long_ago))
    assert files.read() == said_by_git(tagged)
    work.git(f"--git-dir={tagged.path}", "pack-refs", "--all")
    assert files.read() == said_by_git(tagged)
    work.git(f"--git-dir={tagged.path}", "tag", "-d", "rib/v1.0.0")
    assert files.read() == said_by_git(tagged)
    packed.unlink()
    assert files.read() == said_by_git(tagged) == {}


def test_two_states_of_packed_refs_within_one_tick_are_told_apart(tagged: RepoStore) -> None:
    files, packed = trusted(tagged), tagged.path / "packed-refs"
    before = files.read()
    assert before is not None
    text, found = packed.read_text(), packed.stat()
    other = "refs/tags/counter/v1.1.0"
    with packed.open("r+") as file:  # the same file, as long as before, at the same time
        file.write(text.replace(before[other], "1" * 40))
    os.utime(packed, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert files.read() == {**before, other: "1" * 40}


def test_a_tag_that_leads_nowhere_is_asked_again(tagged: RepoStore, work: GitRepo) -> None:
    later = GitRepo(work.path.parent / "later")
    later.module()
    missing = later.commit("not here yet")
    (tagged.path / "refs/tags/counter/v2.0.0").write_text(f"{missing}\n")
    assert tag_ref(tagged, "counter/v2.0.0").commit_id is None
    work.git(f"--git-dir={tagged.path}", "fetch", "--quiet", "--no-tags", str(later.path), "main")
    assert tag_ref(tagged, "counter/v2.0.0").commit_id == missing


def test_a_tag_that_moved_or_left_is_not_remembered(tagged: RepoStore, work: GitRepo) -> None:
    before = tag_ref(tagged, "rib/v1.0.0")
    work.commit("later")
    work.tag("rib/v1.0.0", force=True)
    work.push("refs/tags/rib/v1.0.0", force=True)
    assert tag_ref(tagged, "rib/v1.0.0").commit_id == work.head() != before.commit_id
    work.push(":refs/tags/rib/v1.0.0")
    assert "rib/v1.0.0" not in tagged.refs()
