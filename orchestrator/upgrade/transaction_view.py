"""One transaction as the records of the journal tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.upgrade.overrides import OverrideKey
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import (
    Breached,
    Change,
    Degraded,
    Inconclusive,
    Planned,
    Record,
    Unchanged,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What was found of a probation, and when (unix seconds)."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class TransactionView:
    """One transaction as the records tell it.

    `outcome` is None until it is decided, then "committed", "rolled_back", "unchanged", or "reverted" once a
    later transaction took it back. `probation` are the modules that its Confirmed will confirm: its own, and
    those of probations it took over, whose transactions it `covers`; one that was taken over has none left.
    `inconclusive`, `breach` and `degraded` are what was found of its probation, `judged` how that ended.
    `ended_at` is the time of the decision.
    """

    id: int
    at: float
    seq: int
    changes: tuple[Change, ...]
    trigger: str
    who: str
    phase: Phase = Phase.PLANNED
    outcome: str | None = None
    reason: str = ""
    fault: str | None = None
    pause_us: float = 0.0
    held_messages: int = 0
    predicted_us: float | None = None
    probation: tuple[str, ...] = ()
    covers: tuple[int, ...] = ()
    inconclusive: Said | None = None
    breach: Said | None = None
    degraded: Said | None = None
    judged: str = ""
    reverts: int | None = None
    overrides: tuple[OverrideKey, ...] = ()
    app: tuple[str, str] | None = None
    app_before: tuple[str, str] | None = None
    ended_at: float | None = None
    ended_seq: int | None = None
    mismatches: tuple[str, ...] = ()

    @classmethod
    def begun(cls, fact: Planned, record: Record, app: tuple[str, str] | None) -> TransactionView:
        """Return one that was planned, while the composition `app` was in force."""
        return cls(
            fact.txn,
            record.at,
            record.seq,
            fact.changes,
            fact.trigger,
            fact.who,
            reason=fact.why,
            reverts=fact.reverts,
            overrides=fact.overrides,
            app=fact.app,
            app_before=app,
        )

    @classmethod
    def renamed(cls, fact: Unchanged, record: Record) -> TransactionView:
        """Return one in which nothing moved, so that there is nothing left to prove."""
        return cls(
            fact.txn,
            record.at,
            record.seq,
            fact.changes,
            fact.trigger,
            fact.who,
            phase=Phase.CONFIRMED,
            outcome="unchanged",
            ended_at=record.at,
            ended_seq=record.seq,
        )

    def began(self, transactions: Mapping[int, TransactionView]) -> float:
        """When the first of the transactions that its probation covers was decided (unix seconds)."""
        chain = (self, *(transactions[txn] for txn in self.covers))
        return min(each.ended_at or each.at for each in chain)

    def found(self, fact: Inconclusive | Breached | Degraded, at: float) -> TransactionView:
        """Return it with what was found of its probation; one that was taken over meanwhile has none, and stays as it is."""
        said = Said(fact.reason, at)
        if not self.probation:
            return self
        if isinstance(fact, Inconclusive):
            return replace(self, inconclusive=said)
        return replace(self, breach=said) if isinstance(fact, Breached) else replace(self, degraded=said)
