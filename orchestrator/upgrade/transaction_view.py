"""One transaction as the records of the journal tell it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.upgrade.overrides import OverrideKey
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import Change, Planned, Record, Unchanged


@dataclass(frozen=True, slots=True)
class TransactionView:
    """One transaction as the records tell it.

    `outcome` is None until it is decided, then "committed", "rolled_back", "unchanged", or "reverted" once a
    later transaction took it back. `probation` are the modules that its Confirmed will confirm: its own, and
    those of probations it took over; one that was taken over has none left. `ended_at` is the time of the
    decision.
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
