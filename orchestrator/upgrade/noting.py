"""What a look at the refs writes into the journal before anything is done: tags that moved, orders that were given."""

from __future__ import annotations

from loguru import logger

from orchestrator.upgrade import words
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.causes import Causes
from orchestrator.upgrade.orders import Admission
from orchestrator.upgrade.records import TagMoved, TagRefused
from repo_store.release import RefMap


async def note_tags(book: Book, refs: RefMap, causes: Causes) -> None:
    """Journal each tag that is new, moved or gone, with both ids and who did it (DESIGN §4)."""
    known = book.ledger.tags
    for name in sorted({*known, *refs}):
        old, new = known.get(name), refs.get(name)
        if new is not None and new.lost and not new.object_id:
            continue  # damage tells nothing of where it points: it may come back as it was
        before = (old.object_id, old.commit_id) if old is not None else (None, None)
        after = (new.object_id, new.commit_id) if new is not None else (None, None)
        if before != after:
            logger.info(words.moved(name, after[0], before[0]))
            book.append(TagMoved(name, after[0], after[1], before[0], before[1], causes.who(name, after[0])))
    await book.flush()


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
