"""What is taken down of how the host before this one ended: once, of the right one, and of nobody where it was no death.

Hosts that run in one process have one pid, as all hosts in a container have.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from orchestrator.upgrade import black_box
from orchestrator.upgrade.black_box import BlackBox
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    HostStarted,
    HostStopped,
    Planned,
    Prepared,
    Quarantined,
    Record,
    RolledBack,
    Settled,
    StartDied,
)
from orchestrator.upgrade.recovery import close_the_past

HEN = Entry("hen", "hen", "1.0.0", "hen/v1.0.0", "c-1", "t-1", "o")
KEY = ("hen", "c-1")
DEPLOYED = (Planned(1, (Change("hen", None, HEN),), "t", "w"), Prepared(1), Committed(1, 1.0, 0))
OLD = msgspec.structs.replace(HEN, version="0.9.0", tag="hen/v0.9.0", commit_id="c-0", tree_id="t-0")
UPGRADED = (
    *(Planned(1, (Change("hen", None, OLD),), "t", "w"), Prepared(1), Committed(1, 1.0, 0), Confirmed(1, "")),
    *(Planned(2, (Change("hen", OLD, HEN),), "t", "w"), Prepared(2), Committed(2, 1.0, 0)),
)  # so that there is something to go back to


class _Killed(Exception):
    """The process is gone: nothing of it runs on."""


class Place:
    """A deployment in which hosts start and are killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    @contextmanager
    def host(self, *, begins: bool = True, now: float = 1000.0) -> Iterator[tuple[Book, BlackBox]]:
        """A start up to where modules would be loaded, which a `_Killed` in the block ends as a kill does."""
        box = BlackBox(self.path / "running.mark")
        journal = Journal.open(self.path / "journal.db", lambda: now)
        try:
            book = Book(journal, box)
            close_the_past(book, "1", box.last(), box.run)
            if begins:
                box.begin()
            with pytest.raises(_Killed):
                yield book, box
        finally:
            journal.close()

    def deploys(self, *facts: Fact) -> None:
        """A life that ends well."""
        with self.host() as (book, box):
            for fact in (*DEPLOYED, *facts, HostStopped(clean=True)):
                book.write_now(fact)
            box.close()
            raise _Killed

    def dies(self, *facts: Fact, in_hen: bool = True, begins: bool = True) -> None:
        """Killed right after its start, while code of hen runs."""
        with self.host(begins=begins) as (book, box):
            for fact in facts:
                book.write_now(fact)
            if not begins:
                raise _Killed
            with box.during("egg", "being loaded"):
                pass
            if in_hen:
                with box.during("hen", "handling 'tick'"):
                    page = box._path.read_bytes() if box._path is not None else b""
                (self.path / "running.mark").write_bytes(page)  # a dead process does not take its mark away
            raise _Killed

    @property
    def ledger(self) -> Ledger:
        journal = Journal.open(self.path / "journal.db", lambda: 1000.0)
        try:
            return fold(journal.records())
        finally:
            journal.close()

    def facts(self) -> list[Fact]:
        journal = Journal.open(self.path / "journal.db", lambda: 1000.0)
        try:
            return [record.fact for record in journal.records()]
        finally:
            journal.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "deployment")
    made.deploys(Confirmed(1, ""))
    return made


def test_a_death_is_counted_once_though_the_next_host_has_the_same_pid_and_dies_before_its_own_page(
    place: Place,
) -> None:
    place.dies()
    place.dies(begins=False)
    assert place.ledger.starts.deaths == {KEY: 1}
    place.dies(begins=False)
    place.dies()
    assert place.ledger.starts.deaths == {KEY: 1}, "of the two that came to nothing no module was the cause"
    assert place.ledger.starts.unexplained == 0
    with place.host() as (book, _):
        assert book.ledger.starts.deaths == {KEY: 2}
        raise _Killed


def test_a_journal_and_a_page_without_ids_are_told_apart_by_the_pid(place: Place) -> None:
    """Those of the livetag before this one."""
    place.dies()
    page = place.path / "running.mark"
    said = msgspec.json.decode(page.read_bytes())
    del said["run"], said["place"]
    page.write_bytes(msgspec.json.encode(said))
    left = place.ledger
    last = HostStarted(said["pid"], "1")
    now = left.apply(Record(left.seq + 1, 0.0, HostStopped(clean=True), b""))
    now = now.apply(Record(now.seq + 1, 0.0, last, b""))
    box = BlackBox(page)
    journal = Journal.open(place.path / "journal.db", lambda: 1000.0)
    try:
        book = Book(journal, box)
        book.ledger = now
        journal.append(HostStopped(clean=True))
        journal.append(last).wait_blocking(5.0)
        close_the_past(book, "1", box.last(), box.run)
        assert book.ledger.starts.deaths == {KEY: 1}
    finally:
        journal.close()


def test_power_cuts_however_many_accuse_no_release(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that has never lasted, too; and though the page that was on disk names it."""
    for number in range(8):
        boot = place.path / "boot_id"
        boot.write_text(f"boot {number}")
        monkeypatch.setattr(black_box, "_BOOT_ID", boot)
        place.dies(in_hen=number % 2 == 0)
    assert not place.ledger.starts.deaths
    assert place.ledger.starts.unexplained == 0
    assert not place.ledger.quarantine
    assert place.ledger.starts.row == 7, "but that it comes to nothing is seen"


def test_a_power_cut_in_a_probation_or_a_transaction_is_no_death_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(black_box, "_BOOT_ID", boot)
    place = Place(tmp_path / "deployment")
    boot.write_text("boot 0")
    place.dies(*UPGRADED, in_hen=False)
    successor = msgspec.structs.replace(HEN, commit_id="c-2")
    for txn in (3, 4):  # each start finds what was in probation, and the cut comes in the next transaction
        boot.write_text(f"boot {txn}")
        place.dies(Planned(txn, (Change("hen", HEN, successor),), "t", "w"), Prepared(txn), in_hen=False)
        assert not place.ledger.deaths
    boot.write_text("boot 5")
    with place.host() as (book, box):
        box.begin()
        assert not book.ledger.deaths
        assert not book.ledger.quarantine
        assert [book.ledger.transactions[txn].fault for txn in (3, 4)] == ["moment", "moment"]
        assert [view.id for view in book.ledger.in_probation] == [2], "it goes on: nothing speaks against it"
        raise _Killed
    place.dies()
    assert place.ledger.deaths == {KEY: 1}, "a death without a reboot counts as before"


def test_a_host_that_had_ended_by_itself_before_the_reboot_has_died_in_the_probation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "deployment")
    with place.host() as (book, box):
        box.begin()
        for fact in UPGRADED:
            book.write_now(fact)
        box.close()
        raise _Killed
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(black_box, "_BOOT_ID", boot)
    place.dies()
    assert place.ledger.deaths == {KEY: 1}


def test_what_was_in_doubt_before_a_reboot_is_held_against_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "deployment")
    with place.host() as (book, box):
        for fact in DEPLOYED[:2]:
            book.write_now(fact)
        book.in_doubt(1, ("hen/v1.0.0",), "no space left")
        box.begin()
        raise _Killed
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(black_box, "_BOOT_ID", boot)
    place.dies()
    (end,) = [fact for fact in place.facts() if isinstance(fact, RolledBack)]
    assert end.fault == "moment"
    assert not place.ledger.deaths


def test_a_copy_of_a_deployment_whose_host_lives_counts_no_death(tmp_path: Path) -> None:
    """Of what was in probation, under way, or running just then: it is tried out beside the one that serves."""
    original = Place(tmp_path / "original")
    original.dies(*UPGRADED)
    original.dies(
        *(Planned(3, (Change("hen", HEN, msgspec.structs.replace(HEN, commit_id="c-2")),), "t", "w"),)
    )
    left = original.ledger
    assert left.running
    assert left.deaths == {KEY: 1}
    for number in range(3):
        shutil.copytree(original.path, tmp_path / f"copy {number}")
        copy = Place(tmp_path / f"copy {number}")
        with copy.host() as (book, _):
            assert book.ledger.deaths == {KEY: 1}
            assert not book.ledger.starts.deaths
            assert not book.ledger.quarantine
            assert book.ledger.transactions[3].fault == "moment"
            raise _Killed
        original = copy  # a copy of the copy
    copy.dies()
    assert copy.ledger.deaths == {KEY: 2}, "what dies in the copy counts from then on"


def test_hosts_that_end_right_after_their_start_are_a_row_until_one_lasts(place: Place) -> None:
    place.dies(Settled())
    for number in range(4):
        place.dies(in_hen=False)
        assert place.ledger.starts.row == number
    place.dies(Settled())
    assert place.ledger.starts.row == 0
    place.dies()
    assert place.ledger.starts.row == 0, "the one before had lasted"
    assert sum(isinstance(fact, StartDied) for fact in place.facts()) == 4


def test_a_row_is_over_once_a_release_is_put_out_of_service_for_it(place: Place) -> None:
    for _ in range(4):
        place.dies(in_hen=False)
    assert [fact.package for fact in place.facts() if isinstance(fact, Quarantined)] == ["hen"]
    assert place.ledger.starts.row == 0


def test_a_row_begins_with_the_start_of_its_first_host_whatever_the_clock_does(place: Place) -> None:
    for now in (5000.0, 90_000.0, 4000.0, 4001.0):
        with place.host(now=now):
            raise _Killed
    starts = place.ledger.starts
    assert (starts.row, starts.since) == (3, 5000.0)


def test_what_could_not_be_loaded_or_came_a_moment_ago_has_not_lasted(place: Place) -> None:
    """A release that is not loaded for what it did to the host must not become proven by the start without it."""
    place.dies()
    place.dies(Settled(but=("hen",)))
    starts = place.ledger.starts
    assert starts.deaths == {KEY: 1}
    assert starts.proven == frozenset()


def test_a_death_in_the_probation_of_what_came_first_is_held_against_nobody(place: Place) -> None:
    """There is nothing to go back to, and a service that was killed twice is not to be left out of service for it."""
    for _ in range(2):
        place.dies(*(DEPLOYED if not place.facts() else ()), in_hen=False)
    assert not place.ledger.deaths
    assert not place.ledger.quarantine
