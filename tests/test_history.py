from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from repo_store.errors import StoreError
from repo_store.history import BRANCH, DeploymentEntry, History, ModuleChange, message
from repo_store.refs import list_refs
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


def entry(seq: int, commit_id: str, reason: str = "", outcome: str = "committed") -> DeploymentEntry:
    change = ModuleChange("counter", f"1.{seq}.0", f"1.{seq + 1}.0", commit_id)
    return DeploymentEntry(seq, 1_700_000_000.7 + seq, (change,), outcome, reason, 46.6, 12)


def log(store: RepoStore, form: str, ref: str = "deployments") -> list[str]:
    return store.door.run("log", f"--format={form}", ref).decode().rstrip("\n").split("\n")


def test_a_deployment_is_a_commit_with_trailers_that_git_reads(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    assert (
        History(store).record([entry(7, commit_id, "by push of counter/v1.8.0")], {"counter": commit_id}) == 1
    )
    assert log(store, "%s%n%an <%ae>%n%ct%n%T") == [
        "counter 1.7.0 → 1.8.0: committed",
        "livetag <livetag@localhost>",
        "1700000007",
        "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    ]
    assert log(store, "%(trailers:only,unfold)") == [
        "Module: counter",
        "From: 1.7.0",
        "To: 1.8.0",
        f"Release-Commit: {commit_id}",
        "Outcome: committed",
        "Reason: by push of counter/v1.8.0",
        "Pause-Us: 47",
        "Held-Messages: 12",
        "Journal-Seq: 7",
    ]
    store.door.run("fsck", "--strict")


def test_what_was_predicted_of_a_pause_stands_beside_what_it_was(store: RepoStore, work: GitRepo) -> None:
    predicted = replace(entry(7, work.release("counter/v1.0.0")), predicted_us=1234.6)
    History(store).record([predicted], {})
    assert {"Pause-Us: 47", "Predicted-Us: 1235"} <= set(log(store, "%(trailers:only,unfold)"))


def test_the_story_is_read_with_plain_git_from_a_clone(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    first = work.release("counter/v1.0.0")
    second = work.release("counter/v1.1.0", code="X = 2\n")
    History(store).record([entry(1, first), entry(2, second)], {"counter": second})
    assert log(store, "%H", "refs/live/counter") == [second, first]
    clone = GitRepo(tmp_path / "clone", remote=store.path)
    clone.git("fetch", "-q", "live", "refs/live/*:refs/live/*", "deployments", "--tags")
    assert len(clone.git("log", "--oneline", "FETCH_HEAD", "live/deployments").splitlines()) >= 2
    assert "X = 2" in clone.git("diff", "counter/v1.0.0", "refs/live/counter", "--", "modules/counter")
    clone.git("fsck", "--strict")


def test_entries_that_are_there_are_not_written_again(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    history = History(store)
    entries = [entry(seq, commit_id) for seq in (3, 5, 9)]
    assert history.last_seq() == 0
    assert history.record(entries[:2], {}) == 2
    assert history.record([entries[2], entries[0], entries[1]], {}) == 1
    tip = list_refs(store.door, BRANCH)
    assert history.record(entries, {}) == 0
    assert list_refs(store.door, BRANCH) == tip
    assert history.last_seq() == 9
    assert log(store, "%(trailers:key=Journal-Seq,valueonly,separator=%x2C)") == ["9", "5", "3"]


def test_a_journal_begun_anew_goes_on_above_what_the_old_one_wrote(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    History(store).record([entry(seq, commit_id) for seq in (3, 5, 9)], {})
    anew = [replace(entry(seq, commit_id, "anew"), at=1_800_000_000.5 + seq) for seq in (2, 5, 7)]
    assert History(store).record(anew[:2], {}) == 2
    assert History(store).record(anew, {}) == 1
    assert History(store).record(anew, {}) == 0
    assert log(store, "%(trailers:key=Journal-Seq,valueonly,separator=%x2C)") == [
        "7",
        "5",
        "2",
        "9",
        "5",
        "3",
    ]


def test_a_journal_restored_from_a_backup_writes_nothing_twice(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    entries = [entry(seq, commit_id) for seq in (3, 5, 9)]
    History(store).record(entries, {})
    assert History(store).record(entries[:2], {}) == 0
    after = replace(entry(9, commit_id, "after the backup"), at=1_800_000_000.0)
    assert History(store).record([*entries[:2], after], {}) == 1
    assert log(store, "%(trailers:key=Journal-Seq,valueonly,separator=%x2C)") == ["9", "9", "5", "3"]


def test_a_rebuild_gives_the_same_ids_also_in_another_repository(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    commit_id = work.release("counter/v1.0.0")
    entries = [entry(seq, commit_id, f"reason {seq}") for seq in range(1, 9)]
    for each in entries:
        History(store).record([each], {"counter": commit_id})
    before = list_refs(store.door)
    History(store).rebuild(entries, {"counter": commit_id})
    assert list_refs(store.door) == before
    store.door.run("update-ref", "-d", BRANCH)
    History(store).record(entries, {"counter": commit_id})
    assert list_refs(store.door) == before
    with RepoStore.create(tmp_path / "other.git") as other:
        History(other).rebuild(entries, {})
        assert list_refs(other.door)[BRANCH] == before[BRANCH]


def test_live_refs_follow_what_is_in_service(store: RepoStore, work: GitRepo) -> None:
    first, second = work.release("counter/v1.0.0"), work.release("clock/v1.0.0")
    history = History(store)
    history.record([entry(1, first)], {"counter": first, "clock": first})
    assert list_refs(store.door, "refs/live/") == {"refs/live/counter": first, "refs/live/clock": first}
    history.record([], {"clock": second, "lost": "6" * 40})
    assert list_refs(store.door, "refs/live/") == {"refs/live/clock": second}
    assert history.last_seq() == 1


def test_a_branch_that_is_not_ours_is_left_alone_and_rebuilt_on_demand(
    store: RepoStore, work: GitRepo
) -> None:
    commit_id = work.release("counter/v1.0.0")
    store.door.run("update-ref", BRANCH, commit_id)
    with pytest.raises(StoreError, match="which livetag did not write"):
        History(store).record([entry(1, commit_id)], {})
    assert list_refs(store.door, BRANCH) == {BRANCH: commit_id}
    History(store).rebuild([entry(1, commit_id)], {})
    assert History(store).last_seq() == 1


def test_a_reason_cannot_forge_trailers(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    evil = "KeyError\n\nOutcome: committed\nJournal-Seq: 99\x1b[31m"
    History(store).record([entry(4, commit_id, evil, outcome="rolled_back")], {})
    assert History(store).last_seq() == 4
    assert log(store, "%(trailers:key=Journal-Seq,valueonly,separator=%x2C)") == ["4"]
    assert log(store, "%(trailers:key=Outcome,valueonly,separator=%x2C)") == ["rolled_back"]
    assert "\x1b" not in "".join(log(store, "%B"))


def test_messages_say_what_came_what_went_and_how_many() -> None:
    changes = [ModuleChange("a", None, "1.0.0", "c"), ModuleChange("b", "1.0.0", None, None)]
    changes += [ModuleChange(f"m{n}", "1.0.0", "1.1.0", "c") for n in range(4)]
    text = message(DeploymentEntry(1, 0.0, tuple(changes), "committed", "", 0.0, 0))
    assert (
        text.splitlines()[0]
        == "a 1.0.0 (new), b 1.0.0 (removed), m0 1.0.0 → 1.1.0, m1 1.0.0 → 1.1.0 and 2 more: committed"
    )
    assert "Module: b\nFrom: 1.0.0\nTo: none\nRelease-Commit: none\n" in text
    assert message(DeploymentEntry(1, 0.0, (), "unchanged", "", 0.0, 0)).startswith("nothing: unchanged\n")


def test_messages_say_what_became_of_a_module_that_kept_its_version() -> None:
    changes = (
        ModuleChange("a", "1.0.0", "1.0.0", "c", "disabled"),
        ModuleChange("b", "1.0.0", "1.1.0", "c", "no longer bound to x"),
        ModuleChange("d", "1.0.0", "1.0.0", "c"),
    )
    text = message(DeploymentEntry(1, 0.0, changes, "committed", "", 0.0, 0))
    first = text.splitlines()[0]
    assert first == "a 1.0.0 disabled, b 1.0.0 → 1.1.0 (no longer bound to x), d 1.0.0 → 1.0.0: committed"
    assert "Module: a\nFrom: 1.0.0\nTo: 1.0.0\n" in text, "the trailers are for programs: they stay"


def test_writers_at_the_same_time_lose_nothing_and_double_nothing(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from repo_store.history import DeploymentEntry, History
from repo_store.store import RepoStore
entries = [DeploymentEntry(seq, float(seq), (), "committed", "", 0.0, 0) for seq in range(1, 13)]
with RepoStore.open(Path({str(store.path)!r})) as store:
    for last in range(1, 13):
        History(store).record(entries[:last], {{"counter": {commit_id!r}}})
"""
    writers = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0, 0]
    seqs = log(store, "%(trailers:key=Journal-Seq,valueonly,separator=%x2C)")
    assert seqs == [str(seq) for seq in range(12, 0, -1)]
