"""One transaction as the records of the journal tell it."""

from dataclasses import dataclass

from orchestrator.upgrade.overrides import OverrideKey
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import Change


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
    probation: tuple[str, ...] = ()
    reverts: int | None = None
    overrides: tuple[OverrideKey, ...] = ()
    app: tuple[str, str] | None = None
    app_before: tuple[str, str] | None = None
    ended_at: float | None = None
    ended_seq: int | None = None
