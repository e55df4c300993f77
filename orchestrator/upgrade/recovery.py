"""The start of a host: what the journal's last records say is what comes back (DESIGN §7).

COMMITTED is the only decision: a transaction without it never happened. Doing this twice gives the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import ModuleError, error_text
from orchestrator.upgrade import words
from orchestrator.upgrade.alarm import interrupt_after
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.image import LETTERS, kept_state, restore_letters
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.overrides import Override, OverrideKey
from orchestrator.upgrade.participant import STALL_S, KeptState, Participant
from orchestrator.upgrade.records import (
    Change,
    Confirmed,
    Entry,
    HostStarted,
    ImageUsed,
    Quarantined,
    RolledBack,
)
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.source import incoming_release
from orchestrator.upgrade.wiring import next_wiring
from repo_store.errors import StoreError
from repo_store.failpoints import step
from repo_store.manifest import TrialSection

DEATHS_MAX = 2  # the second death of the host in a release's hands quarantines it


def close_the_past(book: Book, version: str) -> None:
    """Record the start, roll back what a death left unfinished, quarantine what killed the host twice.

    Before any module code is loaded, so that a release that kills the host at import is counted too.
    """
    died = book.ledger.running
    with step("recovery.started"):
        book.write_now(HostStarted(os.getpid(), version))
    unfinished = book.ledger.unfinished
    if unfinished is not None:
        reason = "the host died before the transaction was committed"
        with step("recovery.rolled-back"):
            book.write_now(RolledBack(unfinished.id, reason, "died"))
        logger.warning("transaction {} was under way when the host died: rolled back", unfinished.id)
    elif died:
        logger.warning(
            "the host before this one died; in-memory state of its modules starts anew (DESIGN §6, P2)"
        )
    for (package, commit_id), deaths in book.ledger.deaths.items():
        if deaths >= DEATHS_MAX and (package, commit_id) not in book.ledger.quarantine:
            reason = f"the host died {deaths} times while this release was coming into service"
            with step("recovery.quarantined"):
                book.write_now(Quarantined(package, commit_id, _tag_of(book, package, commit_id), reason))


def _tag_of(book: Book, package: str, commit_id: str) -> str:
    names = [
        n for n, pin in book.ledger.tags.items() if pin.commit_id == commit_id and n.startswith(f"{package}/")
    ]
    return max(names, default="")


class Recovered:
    """What came back: modules that could not, with the reason, and the state that still waits for them."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.kept: dict[str, KeptState] = {}


async def bring_back(
    app: Application,
    book: Book,
    repository: Repository,
    images: Mapping[str, ModuleImage],
    trial: TrialSection,
) -> Recovered:
    """Load every module of the table, give it its image, and start them all together.

    A module that cannot be loaded stays out, with the reason; the others serve.
    """
    recovered = Recovered()
    if LETTERS in images:
        restore_letters(app, images[LETTERS])
    ready: list[Participant] = []
    gone = set(images) - set(book.ledger.table) - {LETTERS}
    recovered.kept.update({name: kept_state(images[name]) for name in gone})
    for name, entry in sorted(book.ledger.table.items()):
        kept = kept_state(images[name]) if name in images else None
        try:
            ready.append(await _ready(app, repository, entry, kept, trial, book.ledger.overrides))
        except (UpgradeError, ModuleError, StoreError) as error:
            recovered.failed[name] = str(error)
            if kept is not None:
                recovered.kept[name] = kept
            logger.bind(module=name).error("{} {} did not come back: {}", name, entry.version, error)
    app.rewire(next_wiring(app, ready))
    for participant in ready:
        participant.attach()
    used = tuple(sorted({p.name for p in ready if p.name in images} | ({LETTERS} & set(images))))
    if used:
        # Marked used before the first message is handled: a death after it must not handle one twice.
        with step("recovery.image-used"):
            await book.write(ImageUsed(used))
    for participant in ready:
        await participant.start()
    await _confirm(book, recovered)
    return recovered


async def _confirm(book: Book, recovered: Recovered) -> None:
    """Confirm what a death kept from being confirmed right after its commit, now that it serves again.

    Else it would be suspect for ever: any later death of the host, of whatever cause, would quarantine it.
    """
    for view in book.ledger.in_probation:
        if not recovered.failed.keys() & set(view.probation):
            with step("recovery.confirmed"):
                await book.write(
                    Confirmed(view.id, "probation is not asked for; it came back after a death of the host")
                )


async def _ready(  # noqa: PLR0917  # all that a module needs to come back
    app: Application,
    repository: Repository,
    entry: Entry,
    kept: KeptState | None,
    trial: TrialSection,
    overrides: Mapping[OverrideKey, Override],
) -> Participant:
    folder, manifest = await repository.staged(entry)
    incoming = incoming_release(folder, entry, manifest, trial)
    change = Change(entry.name, None, entry)
    participant = Participant(app, change, incoming, kept, words.why_out(change, overrides))
    try:
        await participant.prepare()
        try:
            with interrupt_after(min(participant.limits.load_s, STALL_S)):
                participant.migrate()
                participant.take_over()
        except BaseException as error:  # SystemExit in take_over() must not end each start of the host
            raise UpgradeError(f"its state or take_over() failed: {error_text(error)}") from error
    except (UpgradeError, ModuleError):
        await participant.retire(committed=False)
        raise
    return participant
