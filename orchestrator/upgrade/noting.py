"""What a look at the refs writes into the journal before anything is done: tags that moved, orders that were given."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping

from loguru import logger

from orchestrator.runtime.slices import in_turns
from orchestrator.upgrade import words
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.causes import Causes
from orchestrator.upgrade.desired import REFS_PER_TURN
from orchestrator.upgrade.noted import TagPin
from orchestrator.upgrade.orders import Admission
from orchestrator.upgrade.records import TagMoved, TagRefused
from repo_store.release import RefMap

NOTED_PER_TURN = 10  # each is a line in the log, too
WRITTEN_AT_ONCE = 200  # what the ledger takes in a millisecond


async def note_tags(book: Book, refs: RefMap, causes: Causes) -> None:
    """Journal each tag that is new, moved or gone, with both ids and who did it (DESIGN §4).

    Among some ten thousand tags, and of a script that makes as many; the event loop turns all the while.
    """
    moved = await in_turns(_moved(book.ledger.tags, refs))
    for number, each in enumerate(sorted(moved), 1):
        name, object_id, _, before, _ = each
        logger.info(words.moved(name, object_id, before))
        book.append(TagMoved(*each, causes.who(name, object_id)))
        causes.noted(name, object_id)
        if not number % WRITTEN_AT_ONCE:
            await book.flush()
        elif not number % NOTED_PER_TURN:
            await asyncio.sleep(0)
    await book.flush()


_Moved = tuple[str, "str | None", "str | None", "str | None", "str | None"]  # name, ids now, ids before


def _moved(known: Mapping[str, TagPin], refs: RefMap) -> Generator[None, None, list[_Moved]]:
    found: list[_Moved] = []
    for number, name in enumerate({**known, **refs}, 1):
        if not number % REFS_PER_TURN:
            yield
        old, new = known.get(name), refs.get(name)
        if new is not None and new.lost and not new.object_id:
            continue  # damage tells nothing of where it points: it may come back as it was
        before = (old.object_id, old.commit_id) if old is not None else (None, None)
        after = (new.object_id, new.commit_id) if new is not None else (None, None)
        if before != after:
            found.append((name, *after, *before))
    return found


async def note_orders(book: Book, admission: Admission, refs: RefMap, causes: Causes) -> None:
    """Journal what was accepted, before it is acted on, and what was refused, once (strict policy)."""
    for accepted in admission.accepted:
        logger.info("tag {} is an order of {}, key {}", accepted.tag, accepted.principal, accepted.key)
        book.append(accepted)
    refused, known = admission.all_refused, book.ledger.refusals
    for tag in sorted({*refused, *known}):
        reason, object_id = refused.get(tag, ""), refs[tag].object_id if tag in refs else None
        before = known.get(tag)
        if before is None and not reason:
            continue
        if before is not None and (reason, object_id) == (before.reason, before.object_id):
            continue
        if reason:
            logger.warning("tag {} is not acted on: {}", tag, reason)
        book.append(TagRefused(tag, object_id, reason, causes.who(tag, object_id)))
    await book.flush()
