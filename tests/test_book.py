"""The book: what the ledger says is on disk, and nobody waits for the disk without end (DESIGN §6, P4 and P5)."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from orchestrator.upgrade.book import Book
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.journal_file import write_lines
from orchestrator.upgrade.records import Quarantined


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
