from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from repo_store.errors import GitFailed
from repo_store.git import GitDoor
from repo_store.starting import Start, directly, through_gitpython
from tests.git_fixtures import GitRepo


@pytest.fixture(params=[directly, through_gitpython])
def start(request: pytest.FixtureRequest) -> Start:
    made: Start = request.param
    return made


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    repo = GitRepo(tmp_path / "work")
    repo.write("a.txt", "one\n")
    repo.commit()
    return repo


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def git_dir(repo: GitRepo) -> Path:
    return repo.path / ".git"


def test_a_command_gives_its_whole_output_and_takes_input(repo: GitRepo, start: Start) -> None:
    with GitDoor(git_dir(repo), start=start) as door:
        blob = door.run("hash-object", "-w", "--stdin", stdin=b"hello\n\n").decode().strip()
        assert door.run("cat-file", "blob", blob) == b"hello\n\n"
        assert door.cat(blob) == ("blob", b"hello\n\n")


def test_a_failure_says_the_command_and_what_git_said(repo: GitRepo, start: Start) -> None:
    with (
        GitDoor(git_dir(repo), start=start) as door,
        pytest.raises(GitFailed, match=r"rev-parse .* exit code 128: fatal"),
    ):
        door.run("rev-parse", "--verify", "--end-of-options", "refs/heads/none")


def test_a_command_that_does_not_end_is_killed_at_its_deadline(repo: GitRepo, start: Start) -> None:
    fifo = repo.path / "pipe"
    os.mkfifo(fifo)
    holder = os.open(fifo, os.O_RDWR)
    try:
        with (
            GitDoor(git_dir(repo), start=start) as door,
            pytest.raises(GitFailed, match=r"did not end within 0.2 s"),
        ):
            door.run("config", "--file", str(fifo), "--list", timeout_s=0.2)
    finally:
        os.close(holder)


def test_a_repository_that_is_not_there_is_an_error_of_git(tmp_path: Path, start: Start) -> None:
    with GitDoor(tmp_path / "none", start=start) as door:
        with pytest.raises(GitFailed):
            door.run("for-each-ref")
        with pytest.raises(GitFailed):
            door.cat("0" * 40)


def test_the_environment_of_a_hook_steers_nothing(
    repo: GitRepo, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = GitRepo(tmp_path / "other")
    other.commit("elsewhere")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.path / ".git" / "objects"))
    monkeypatch.setenv("GIT_QUARANTINE_PATH", "/nowhere")
    monkeypatch.setenv("GIT_NAMESPACE", "else")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.bare'='maybe'")
    head = repo.head()
    with GitDoor(git_dir(repo), start=start) as door:
        assert door.run("rev-parse", "HEAD").decode().strip() == head
        assert door.cat(head)[0] == "commit"
        door.run("update-ref", "refs/tags/x", head)
    assert not (tmp_path / "trace").exists()


def test_objects_in_quarantine_are_seen_only_when_asked_for(
    repo: GitRepo, tmp_path: Path, start: Start
) -> None:
    other = GitRepo(tmp_path / "other")
    commit_id = other.commit("not accepted yet")
    quarantine = {
        "GIT_OBJECT_DIRECTORY": str(other.path / ".git" / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(git_dir(repo) / "objects"),
        "GIT_QUARANTINE_PATH": str(other.path / ".git" / "objects"),
        "GIT_DIR": "/nowhere",
    }
    with GitDoor(git_dir(repo), quarantine, start) as door:
        assert door.cat(commit_id)[0] == "commit"
        assert door.infos([repo.head()]) != [None]
        with pytest.raises(GitFailed, match="quarantine"):
            door.run("update-ref", "refs/tags/x", commit_id)
    with GitDoor(git_dir(repo), start=start) as door:
        assert door.infos([commit_id]) == [None]


def test_nothing_of_the_repository_is_executed(repo: GitRepo, tmp_path: Path, start: Start) -> None:
    proof = tmp_path / "proof"
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\ntouch {proof}\n")
    script.chmod(0o755)
    (git_dir(repo) / "hooks").mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-index-change", "pre-auto-gc"):
        hook = git_dir(repo) / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
        hook.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "core.alternateRefsCommand", "core.sshCommand"):
        repo.git("config", key, str(script))
    with GitDoor(git_dir(repo), start=start) as door:
        door.run("update-ref", "refs/tags/y", repo.head())
        door.run("log", "-1", "HEAD")
    assert not proof.exists()
    repo.git("update-ref", "refs/tags/z", repo.head())
    assert proof.exists(), "the trap itself works"


def test_replace_refs_do_not_change_what_is_read(repo: GitRepo, start: Start) -> None:
    blob = repo.git("rev-parse", "HEAD:a.txt")
    fake = repo.git("hash-object", "-w", "--stdin", stdin="forged\n")
    repo.git("replace", blob, fake)
    with GitDoor(git_dir(repo), start=start) as door:
        assert door.cat(blob) == ("blob", b"one\n")


def test_a_missing_object_is_said_and_the_next_question_gets_its_own_answer(
    repo: GitRepo, start: Start
) -> None:
    head = repo.head()
    with GitDoor(git_dir(repo), start=start) as door:
        for _ in range(3):
            with pytest.raises(GitFailed, match="is missing"):
                door.cat("1" * 40)
            assert door.cat(head)[0] == "commit"
        for text in ("", "HEAD\n" + head, "a b", "--help"):
            with pytest.raises(GitFailed, match="not object ids"):
                door.cat(text)


def test_sizes_of_thousands_of_objects_are_asked_in_one_go(repo: GitRepo, start: Start) -> None:
    head, blob = repo.head(), repo.git("rev-parse", "HEAD:a.txt")
    with GitDoor(git_dir(repo), start=start) as door:
        infos = door.infos([head, "2" * 40, blob] * 1500)
    assert infos[1::3] == [None] * 1500
    assert infos[2::3] == [("blob", 4)] * 1500


def test_a_resident_that_was_killed_is_started_again(repo: GitRepo, start: Start) -> None:
    head = repo.head()
    with GitDoor(git_dir(repo), start=start) as door:
        first = door.cat(head)
        process = door._contents._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        with pytest.raises(GitFailed):
            door.cat(head)
        assert door.cat(head) == first


def test_a_resident_sees_what_was_written_after_it_started(repo: GitRepo, start: Start) -> None:
    with GitDoor(git_dir(repo), start=start) as door:
        assert door.cat(repo.head())[0] == "commit"
        newer = repo.commit("later")
        repo.git("gc", "--quiet", "--prune=now")
        assert door.cat(newer)[0] == "commit"


def test_four_threads_on_one_door_each_read_their_own_answer(repo: GitRepo, start: Start) -> None:
    blobs = {repo.git("hash-object", "-w", "--stdin", stdin=f"{n}\n" * 500): f"{n}\n" * 500 for n in range(4)}
    wrong: list[str] = []
    with GitDoor(git_dir(repo), start=start) as door:

        def read(blob: str, text: str) -> None:
            wrong.extend(blob for _ in range(200) if door.cat(blob) != ("blob", text.encode()))

        threads = [threading.Thread(target=read, args=item) for item in blobs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert wrong == []


def test_a_closed_door_leaves_no_process_and_no_descriptor(repo: GitRepo, start: Start) -> None:
    before = descriptors()
    for _ in range(20):
        with GitDoor(git_dir(repo), start=start) as door:
            door.cat(repo.head())
            door.infos([repo.head()])
            process = door._contents._process
        assert process is not None
        assert process.returncode is not None
    assert descriptors() == before
