"""A rollback begins: in the journal first, then its tags, then what they leave is in quarantine (DESIGN §9).

A death between two of these leaves it open in the journal; the next start goes on with it. It would otherwise be tags of
nobody: the release that it leaves would not be in quarantine, and the next rollback would take the way back for the change
that is to be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping

from loguru import logger

from orchestrator.upgrade.causes import Cause
from orchestrator.upgrade.records import Lifted, Quarantined, RollbackAsked
from orchestrator.upgrade.rollback import Rollback
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.errors import StoreError
from repo_store.release import RefMap, Tag

TAGGER = "livetag rollback <livetag@localhost>"


async def roll_back(
    upgrader: Upgrader, rollback: Rollback, cause: Cause, message: str, signed: Mapping[Tag, bytes]
) -> list[str]:
    """Begin a rollback and return its tags, which lead to one transaction.

    `signed` has the content of tags that a person signed. Raises StoreError or OSError if the tags cannot be written;
    nothing has happened then.
    """
    asked = _asked(upgrader, rollback, cause)
    book = upgrader.book
    book.append(asked)
    for package, commit_id in rollback.lifted:
        book.append(Lifted(package, commit_id, "livetag rollback", cause.why))
    await book.flush()
    _tell(upgrader, asked)
    try:
        tags = {step.tag: step.commit_id for step in rollback.steps}
        await upgrader.repository.write_tags(tags, message, TAGGER, signed)
    except (StoreError, OSError):
        upgrader.asked.forget(asked.tags)
        raise
    await _leave(upgrader, asked)
    return list(asked.tags)


async def go_on_with_rollback(upgrader: Upgrader) -> None:
    """Take up the rollback that a death of the host has cut off, before the first look at its tags.

    What serves comes back also where the tags cannot be read: then the first look that can read them begins with it.
    """
    try:
        await _go_on(upgrader)
    except StoreError:
        upgrader.first = lambda: _go_on(upgrader)


async def _go_on(upgrader: Upgrader) -> None:
    asked = upgrader.book.ledger.rollback
    if asked is None or not _written(asked, await upgrader.repository.refs()):
        return
    logger.info("going on with the rollback by {}: {}", " ".join(asked.tags), asked.why)
    _tell(upgrader, asked)
    await _leave(upgrader, asked)


def _asked(upgrader: Upgrader, rollback: Rollback, cause: Cause) -> RollbackAsked:
    # Of the table before the tags are there: they may be acted on at once, and what is left is then not in it any more.
    leaving = {(e.package, e.commit_id): e.tag for e in upgrader.book.ledger.table.values()}
    return RollbackAsked(
        {step.tag.name: step.commit_id for step in rollback.steps},
        tuple((*key, leaving.get(key, "")) for key in rollback.quarantine),
        cause.who,
        cause.why,
        rollback.txn,
    )


def _written(asked: RollbackAsked, refs: RefMap) -> bool:
    """Whether its tags are as it wrote them, all at once: else it has not happened, or is somebody else's."""
    return all(tag in refs and refs[tag].commit_id == commit for tag, commit in asked.tags.items())


def _tell(upgrader: Upgrader, asked: RollbackAsked) -> None:
    upgrader.asked.deploy(tuple(asked.tags), together=True)
    upgrader.told(tuple(asked.tags), Cause(asked.who, asked.why, asked.reverts))


async def _leave(upgrader: Upgrader, asked: RollbackAsked) -> None:
    """Put what it leaves in quarantine, so that its tag does not bring it back."""
    for package, commit_id, tag in asked.quarantine:
        if (package, commit_id) not in upgrader.book.ledger.quarantine:
            why = f"rolled back by hand: {asked.why}"
            upgrader.book.append(Quarantined(package, commit_id, tag, why))
    await upgrader.book.flush()
