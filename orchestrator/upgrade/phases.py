"""The phases of a transaction: one enum of phases, one of signals, one table (DESIGN section 7).

What holds in each phase:
- PLANNED: the wish is on disk; nothing is loaded, the old table is in service.
- PREPARED: every participant has voted yes; the old table is still in service.
- COMMITTED: the new table is in service, and is what a restart loads. This is the only decision.
- CONFIRMED: the probation is over; this is what an automatic way back returns to.
- ROLLED_BACK: the old table is in service, and is what a restart loads.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from orchestrator.upgrade.errors import IllegalTransition


class Phase(str, Enum):
    PLANNED = "planned"
    PREPARED = "prepared"
    COMMITTED = "committed"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"


class Signal(str, Enum):
    ALL_VOTED = "all_voted"
    SWITCHED = "switched"
    PROBATION_PASSED = "probation_passed"
    FAILED = "failed"


TRANSITIONS: Mapping[Phase, Mapping[Signal, Phase]] = MappingProxyType(
    {
        Phase.PLANNED: {Signal.ALL_VOTED: Phase.PREPARED, Signal.FAILED: Phase.ROLLED_BACK},
        Phase.PREPARED: {Signal.SWITCHED: Phase.COMMITTED, Signal.FAILED: Phase.ROLLED_BACK},
        Phase.COMMITTED: {Signal.PROBATION_PASSED: Phase.CONFIRMED},
        Phase.CONFIRMED: {},
        Phase.ROLLED_BACK: {},
    }
)

UNFINISHED = frozenset({Phase.PLANNED, Phase.PREPARED})
"""A transaction found in one of these at start never happened: recovery rolls it back."""


def advance(phase: Phase, signal: Signal) -> Phase:
    """Return the phase that follows; raises IllegalTransition where the table has no row."""
    try:
        return TRANSITIONS[phase][signal]
    except KeyError:
        allowed = ", ".join(each.value for each in TRANSITIONS[phase]) or "none, it is an end"
        raise IllegalTransition(
            f"a transaction that is {phase.value} cannot take the signal {signal.value}; "
            f"signals it can take: {allowed}. This is a bug in livetag: please report it."
        ) from None
