"""The book: the journal and the ledger that is folded from it, kept together.

What the ledger says is always on disk: a record is applied once its ticket says that it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import msgspec

from orchestrator.runtime.durability import Write
from orchestrator.upgrade import words
from orchestrator.upgrade.black_box import BlackBox
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal import Journal, ModuleImage, Ticket
from orchestrator.upgrade.ledger import Ledger, TransactionView, fold
from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.records import (
    Breached,
    Degraded,
    Fact,
    Held,
    Lifted,
    Overridden,
    OverrideEnded,
    Quarantined,
    Record,
    RolledBack,
    Unheld,
)
from repo_store.history import DeploymentEntry, ModuleChange

SAID = (Quarantined, Lifted, Held, Unheld, Overridden, OverrideEnded, Breached)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A transaction whose COMMITTED could not be written: what it brought serves, and only a restart decides."""

    txn: int
    tags: tuple[str, ...]
    reason: str


class Book:
    """Append facts; read what they amount to. The Log of the transactions (DESIGN §6, P5)."""

    def __init__(self, journal: Journal, box: BlackBox | None = None) -> None:
        self.journal = journal
        self.doubt: Doubt | None = None
        self.hide: Callable[[str], str] | None = None  # takes secrets out of a text
        self._box = box or BlackBox()
        self.ledger: Ledger = fold(journal.records())
        self._pending: list[Ticket] = []
        self._history_seq = -1

    async def write(self, fact: Fact, image: Sequence[ModuleImage] = ()) -> Record:
        """Record a fact; returns once it is on disk. Raises JournalFailed."""
        ticket = self.append(fact, image)
        return await ticket.wait()

    def append(
        self, fact: Fact, image: Sequence[ModuleImage] = (), writes: Sequence[Write] = ()
    ) -> _BookTicket:
        """Queue a fact, in order, with what durable modules write; `flush`, `write` or the ticket's wait brings it to disk."""
        ticket = self.journal.append(self._without_secrets(fact), image, writes)
        self._pending.append(ticket)
        return _BookTicket(self, ticket)

    def _without_secrets(self, fact: Fact) -> Fact:
        """The facts that hold texts of authors are kept without what their config has from the host."""
        if self.hide is None or not isinstance(fact, (RolledBack, Quarantined, Breached, Degraded)):
            return fact
        told = msgspec.structs.replace(fact, reason=self.hide(fact.reason))
        return (
            msgspec.structs.replace(told, paste=self.hide(told.paste))
            if isinstance(told, Quarantined)
            else told
        )

    def wake(self) -> None:
        self.journal.wake()

    def in_doubt(self, txn: int, tags: tuple[str, ...], reason: str) -> JournalFailed:
        """Remember that a transaction is in doubt, also for the next start; returns what is to be raised."""
        self.doubt = Doubt(txn, tags, reason)
        self._box.doubt(txn)
        return JournalFailed(f"transaction {txn} is in doubt until a restart: {reason}")

    @property
    def saying(self) -> bool:
        """Whether something that a plan must heed is on its way to the disk: the ledger does not say it yet."""
        return any(isinstance(ticket.record.fact, SAID) for ticket in self._pending)

    async def flush(self) -> None:
        """Return once all that was appended is on disk. Raises JournalFailed."""
        if self._pending:
            await self.journal.durable(self._pending[-1])  # in order, so all before it are, too
            self._apply()

    def write_now(self, fact: Fact, image: Sequence[ModuleImage] = ()) -> Record:
        """As `write`, for the begin and the end of the host, when nothing else runs."""
        ticket = self.journal.append(fact, image)
        self._pending.append(ticket)
        record = self.journal.durable_now(ticket)
        self._apply()
        return record

    def write_together(self, facts: Sequence[Fact]) -> None:
        """As `write_now`, several facts in one write: all of them are on disk, or none."""
        tickets = [self.journal.append(fact) for fact in facts]
        self._pending.extend(tickets)
        self.journal.durable_now(tickets[-1])
        self._apply()

    def _apply(self) -> None:
        done = list(takewhile(lambda ticket: ticket.durable, self._pending))
        if done:
            del self._pending[: len(done)]
            self.ledger = self.ledger.apply(*(ticket.record for ticket in done))
            self._box.recorded(self.ledger.seq)

    # -- the history in Git, derived from the ledger -----------------------------------------------------------

    def history(self) -> tuple[list[DeploymentEntry] | None, Mapping[str, str]]:
        """The deployments so far and module → commit in service; None if Git has them already."""
        ended = [view for view in self.ledger.transactions.values() if view.ended_seq is not None]
        newest = max((view.ended_seq or 0 for view in ended), default=0)
        if newest == self._history_seq:
            return None, {}
        return deployments(self.ledger)

    def history_written(self) -> None:
        views = self.ledger.transactions.values()
        self._history_seq = max((view.ended_seq or 0 for view in views), default=0)


class _BookTicket:
    """A journal ticket whose wait also brings the ledger up to it."""

    __slots__ = ("_book", "_ticket")

    def __init__(self, book: Book, ticket: Ticket) -> None:
        self._book = book
        self._ticket = ticket

    @property
    def record(self) -> Record:
        return self._ticket.record

    async def wait(self) -> Record:
        record = await self._book.journal.durable(self._ticket)
        self._book._apply()  # noqa: SLF001  # a ticket is half of the book
        return record


def deployments(ledger: Ledger) -> tuple[list[DeploymentEntry], dict[str, str]]:
    """What the history in Git is derived from: the ended transactions, oldest first, and module → commit in service."""
    entries = [_entry(view) for view in ledger.transactions.values() if view.ended_seq is not None]
    live = {name: entry.commit_id for name, entry in ledger.table.items()}
    return sorted(entries, key=lambda entry: entry.seq), live


def _entry(view: TransactionView) -> DeploymentEntry:
    """The transaction as it ended. That it was put back later has an entry of its own: this one's id must not change."""
    modules = tuple(
        ModuleChange(
            change.name,
            change.before.version if change.before is not None else None,
            change.after.version if change.after is not None else None,
            change.after.commit_id if change.after is not None else None,
            words.altered(change),
        )
        for change in view.changes
    )
    return DeploymentEntry(
        view.ended_seq or 0,
        view.ended_at or view.at,
        modules,
        _outcome(view),
        view.reason,
        view.pause_us,
        view.held_messages,
        view.predicted_us,
    )


def _outcome(view: TransactionView) -> str:
    decided = "committed" if view.outcome == "reverted" else view.outcome or ""
    if view.who == IN_PROBATION and decided == "committed":
        return "reverted"  # what it says of itself: it is the way back of what did not pass
    return decided
