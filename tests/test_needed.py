"""What is held against `git gc` and kept staged (DESIGN §4). Pure, and once on a real store."""

from __future__ import annotations

from pathlib import Path

from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.needed import SERVED_KEPT, needed_commits, needed_trees
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    ImageSaved,
    Planned,
    Prepared,
    Record,
)
from tests.git_fixtures import GitRepo, bare_store


def entry(name: str, commit: str) -> Entry:
    return Entry(name, name, "1.0.0", f"{name}/v1.0.0", commit, f"tree of {commit}", commit)


def ledger(*changes: Change, more: tuple[Fact, ...] = ()) -> Ledger:
    facts: list[Fact] = []
    for txn, change in enumerate(changes, 1):
        facts += [
            Planned(txn, (change,), "tags", "ann"),
            Prepared(txn),
            Committed(txn, 1.0, 0),
            Confirmed(txn, ""),
        ]
    return fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate((*facts, *more), 1))


def test_what_serves_and_what_served_last_is_needed_and_nothing_older() -> None:
    versions = [entry("counter", f"c{n}") for n in range(SERVED_KEPT + 5)]
    swaps = [
        Change("counter", before, after) for before, after in zip([None, *versions], versions, strict=False)
    ]
    found = needed_commits(ledger(*swaps))
    assert {"c3", "c4"} & found == {"c4"}
    assert len(found) == SERVED_KEPT + 1
    assert needed_trees(ledger(*swaps)) == {f"tree of {commit}" for commit in found}


def test_a_release_under_way_and_one_whose_state_waits_are_needed() -> None:
    rib, new = entry("rib", "r1"), entry("rib", "r2")
    swaps = [Change("counter", entry("counter", f"c{n}"), entry("counter", f"c{n + 1}")) for n in range(60)]
    left = ledger(Change("rib", None, rib), Change("rib", rib, None), *swaps, more=(ImageSaved(("rib",)),))
    assert "r1" in needed_commits(left)
    assert "r1" not in needed_commits(ledger(Change("rib", None, rib), Change("rib", rib, None), *swaps))
    under_way = ledger(*swaps, more=(Planned(99, (Change("rib", None, new),), "tags", "ann"),))
    assert "r2" in needed_commits(under_way)


def test_a_store_lets_go_of_what_is_needed_no_more(tmp_path: Path) -> None:
    work = GitRepo(tmp_path / "work", tmp_path / "store.git")
    with bare_store(tmp_path / "store.git") as store:
        commits = [work.release(f"counter/v1.{n}.0", message=str(n)) for n in range(3)]
        store.keep(*commits)
        store.unkeep(store.kept() - {commits[2]})
        assert store.kept() == {commits[2]}
