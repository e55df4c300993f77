"""The way back of what breached its probation: an ordinary transaction to what was confirmed last (DESIGN §7.7).

The same trial, votes, drain, switch and records as any other; its state goes down by the migrations of the version that
leaves, so what was learned is kept, and what that failed on is handled again where the first try left no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.upgrade import words
from orchestrator.upgrade.crash_loop import key_of
from orchestrator.upgrade.errors import Fault, UpgradeError, VoteRefused
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.progress import Event
from orchestrator.upgrade.records import Change, Planned
from orchestrator.upgrade.rewired import Rewired, only_rewired
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from orchestrator.upgrade.unproven import changes_back, composition_back
from repo_store.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.upgrade.upgrader import Upgrader


async def go_back(upgrader: Upgrader, view: TransactionView) -> None:
    """Put every module of a probation back to what was confirmed last. Raises JournalFailed."""
    book = upgrader.book
    changes, txn = changes_back(book.ledger, view), book.ledger.next_txn
    with logger.contextualize(txn=txn):
        await _keep(upgrader, changes)
        try:
            _check_welcome(changes, book.ledger)
            participants = [await _participant(upgrader, view, change) for change in changes]
        except (
            UpgradeError,
            StoreError,
            OSError,
        ) as error:  # nothing was begun, so there is nothing to record
            fault: Fault = "release" if isinstance(error, UpgradeError) else "moment"
            await upgrader.probations.failed(view, str(error), fault)
            return
        reason = words.reverts(view)
        planned = Planned(
            txn, changes, "", IN_PROBATION, view.id, (), composition_back(book.ledger, view), reason
        )
        transaction = UpgradeTransaction(
            upgrader.app,
            planned,
            participants,
            book,
            why=reason,
            report=lambda phase, text: _report(upgrader, view, txn, phase, text),
            on_probation=lambda: upgrader.probations.begin(txn),
        )
        outcome = await upgrader.runner.run(transaction, participants)
        await _after(upgrader, view, changes, participants, outcome)


async def _keep(upgrader: Upgrader, changes: Sequence[Change]) -> None:
    """Hold the commits against `git gc`. What was confirmed is held already: a broken repository keeps nobody from going back."""
    try:
        await upgrader.repository.keep(
            {e.commit_id for c in changes for e in (c.before, c.after) if e is not None}
        )
    except (StoreError, OSError) as error:
        logger.warning("what goes back could not be held against git gc: {}", error)


def _check_welcome(changes: Sequence[Change], ledger: Ledger) -> None:
    """Raises VoteRefused if what was confirmed last is in quarantine since: it ended the host, or a person has left it."""
    for change in changes:
        held = ledger.quarantine.get(key_of(change.after)) if change.after is not None else None
        if change.after is not None and held is not None:
            raise VoteRefused(f"{words.release_name(change.after)} is in quarantine itself: {held.reason}")


async def _participant(upgrader: Upgrader, view: TransactionView, change: Change) -> Participant:
    reason = words.why_out(change, upgrader.book.ledger.overrides)
    if only_rewired(upgrader.app, change):
        return Rewired(upgrader.app, change, reason)
    kept = upgrader.kept.get(change.name)
    if change.after is None:
        return Participant(upgrader.app, change, None, kept, reason)
    folder, manifest = await upgrader.repository.staged(change.after)
    incoming = replace(upgrader.bring_in(folder, change.after, manifest), unshadowed="it is a way back")
    participant = Participant(upgrader.app, change, incoming, kept, reason)
    participant.way_down = upgrader.way_down(change, await upgrader.repository.description(change.after))
    if change.before is not None:
        began = view.began(upgrader.book.ledger.transactions)
        participant.give_again(change.before.version, began)
    return participant


def _report(upgrader: Upgrader, view: TransactionView, txn: int, phase: Phase, text: str) -> None:
    logger.debug("transaction {}: {}", txn, text)
    if phase is Phase.PLANNED:
        return  # it is told that it goes back
    upgrader.progress.tell(Event(tuple(view.trigger.split()), f"way back {phase.value}", text, txn))


async def _after(
    upgrader: Upgrader,
    view: TransactionView,
    changes: tuple[Change, ...],
    participants: list[Participant],
    outcome: Outcome,
) -> None:
    if outcome.result == "in_doubt":
        raise upgrader.book.in_doubt(outcome.txn, tuple(view.trigger.split()), outcome.reason)
    if outcome.result == "rolled_back":
        await upgrader.probations.failed(view, outcome.reason, outcome.fault or "moment")
        return
    upgrader.forget_kept(changes)
    again = sum(participant.given_again for participant in participants)
    upgrader.probations.reverted(view, words.reverted(changes, outcome.pause, again))
    upgrader.announce(Group((), (), changes))
