"""What a look writes into the journal: of thousands of tags a few in each turn of the event loop, which serves meanwhile."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

from orchestrator.runtime.slices import in_turns
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.causes import Causes
from orchestrator.upgrade.desired import REFS_PER_TURN, desired, desiring
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.noting import NOTED_PER_TURN, WRITTEN_AT_ONCE, note_tags
from repo_store.release import RefMap, TagRef, parse_tag

TAGS = 3 * WRITTEN_AT_ONCE + 7


def many(count: int, commit: str = "c") -> RefMap:
    found = {}
    for number in range(count):
        tag = parse_tag(f"counter/v1.{number // 100}.{number % 100}")
        assert tag is not None
        found[tag.name] = TagRef(tag, f"object {number}", f"{commit} {number}")
    return found


def test_tags_that_come_by_the_thousand_are_noted_a_few_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        journal = Journal.open(tmp_path / "journal.db", time.time)
        book = Book(journal)
        at_turns = [(0, 0)]

        async def watch() -> None:
            while True:
                at_turns.append((book.ledger.seq + len(book._pending), book.ledger.seq))
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        try:
            await note_tags(book, many(TAGS), Causes())
            assert {name: pin.commit_id for name, pin in book.ledger.tags.items()} == {
                name: ref.commit_id for name, ref in many(TAGS).items()
            }
            noted = [after - before for (before, _), (after, _) in pairwise(at_turns)]
            written = [after - before for (_, before), (_, after) in pairwise(at_turns)]
            assert max(noted) == NOTED_PER_TURN
            assert max(written) <= WRITTEN_AT_ONCE
            records = book.ledger.seq
            await note_tags(book, many(TAGS), Causes())
            assert book.ledger.seq == records, "what is known is not noted again"
            del at_turns[:]
            await note_tags(book, many(TAGS - 1, "d"), Causes())
            assert book.ledger.seq == records + TAGS
            assert len(at_turns) > TAGS / REFS_PER_TURN
        finally:
            watching.cancel()
            await asyncio.to_thread(journal.close)

    asyncio.run(story())


def test_the_highest_of_thousands_is_found_in_as_many_turns_as_they_need() -> None:
    async def story() -> None:
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        refs = many(10 * REFS_PER_TURN)
        best = await in_turns(desiring(refs, (), prereleases=False))
        watching.cancel()
        assert best == desired(refs, (), prereleases=False)
        assert best["counter"].tag.name == f"counter/v1.{10 * REFS_PER_TURN // 100 - 1}.99"
        assert turns >= 10

    asyncio.run(story())
