"""The book: what the ledger says is on disk, and nobody waits for the disk without end (DESIGN §6, P4 and P5)."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.upgrade.book import Book
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.journal_file import write_lines
from orchestrator.upgrade.noted import AFTER_DEATHS, IN_PROBATION
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Entry,
    Fact,
    HostStopped,
    Planned,
    Prepared,
    Quarantined,
    TagMoved,
)


@pytest.mark.parametrize("who", ["ann", IN_PROBATION])
def test_the_history_of_a_transaction_stays_the_same_when_it_is_put_back(tmp_path: Path, who: str) -> None:
    """The commits of the history are derived from it: another text would give them, and all above, other ids."""
    one, two = (Entry("a", "a", v, f"a/v{v}", v, v, v) for v in ("1.0.0", "1.1.0"))

    async def story() -> None:
        journal = Journal.open(tmp_path / "journal.db", time.time)
        book = Book(journal)
        try:
            there: list[Fact] = [Planned(1, (Change("a", one, two),), "tags", "ann"), Prepared(1)]
            for fact in [*there, Committed(1, 1.0, 0)]:
                await book.write(fact)
            before, _ = book.history()
            back = Planned(2, (Change("a", two, one),), "tags", who, reverts=1)
            for fact in (back, Prepared(2), Committed(2, 1.0, 0)):
                await book.write(fact)
            after, _ = book.history()
            forth = Planned(3, (Change("a", one, two),), "", AFTER_DEATHS, reverts=2)
            for fact in (forth, Prepared(3), Committed(3, 1.0, 0)):
                await book.write(fact)
            at_last, _ = book.history()
            assert [book.ledger.transactions[txn].outcome for txn in (1, 2)] == ["reverted"] * 2
            assert before is not None
            assert after is not None
            assert at_last is not None
            assert (after[:1], at_last[:2]) == (before, after)
        finally:
            await asyncio.to_thread(journal.close)

    asyncio.run(story())


def test_a_long_journal_costs_a_running_host_no_memory(tmp_path: Path) -> None:
    """What a record says is in the ledger, where a newer one takes its place; neither what came nor what was read is kept."""
    ids = [f"{n:040x}" for n in range(2_001)]
    moves: list[Fact] = [
        TagMoved("a/v1.0.0", now, now, before, before, "ann") for before, now in pairwise(ids)
    ]

    def kept(does: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            _there = does()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    book = Book(Journal.open(tmp_path / "journal.db", time.time))
    book.write_together(moves[:10])

    def write() -> None:
        book.write_together(moves)
        book.write_now(moves[0])  # the writer has let go of the batch before

    assert kept(write) < 200_000, "of 6 MB that went through it"
    assert len(book.journal.records()) == 2_011, "read anew"
    book.journal.close()
    books: list[Book] = []
    assert kept(lambda: books.append(Book(Journal.open(tmp_path / "journal.db", time.time)))) < 200_000, (
        "of what a start has read"
    )
    books[0].journal.close()


def test_a_disk_that_does_not_answer_fails_every_wait_and_moves_no_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung disk: whoever writes, flushes or waits for a ticket is told at the deadline; the ledger stays."""
    answers = threading.Event()
    write = write_lines

    def hang(*arguments: object) -> None:
        answers.wait(10.0)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("orchestrator.upgrade.journal.write_lines", hang)

    async def story() -> None:
        journal = Journal.open(tmp_path / "journal.db", time.time, write_timeout_s=0.1)
        book = Book(journal)
        ticket = book.append(Quarantined("a", "c0", "a/v1.0.0", "why"))
        waits = [book.write(Quarantined("a", "c1", "a/v1.0.1", "why")), book.flush(), ticket.wait()]
        try:
            ended = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 5.0)
            assert [type(each) for each in ended] == [JournalFailed] * 3
            with pytest.raises(JournalFailed):
                await book.write(Quarantined("a", "c2", "a/v1.0.2", "why"))
            assert not book.ledger.quarantine
        finally:
            answers.set()
            await asyncio.to_thread(journal.close)

    asyncio.run(story())


@pytest.mark.parametrize(
    "write", [lambda book, fact: book.write_now(fact), lambda book, fact: book.write_together([fact])]
)
def test_at_the_begin_and_the_end_of_a_host_a_disk_that_does_not_answer_is_told_as_any_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Book, Fact], object]
) -> None:
    """The modules must be stopped all the same, for which the host looks for no other error."""
    answers = threading.Event()
    monkeypatch.setattr("orchestrator.upgrade.journal.write_lines", lambda *_: answers.wait(10.0))
    journal = Journal.open(tmp_path / "journal.db", time.time, write_timeout_s=0.1)
    try:
        with pytest.raises(JournalFailed, match="did not end within"):
            write(Book(journal), HostStopped(clean=True))
        assert journal.failed
    finally:
        answers.set()
        journal.close()
