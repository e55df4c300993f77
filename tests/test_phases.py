"""The table of phases and signals, walked whole."""

import itertools

import pytest

from orchestrator.upgrade.errors import IllegalTransition
from orchestrator.upgrade.phases import TRANSITIONS, UNFINISHED, Phase, Signal, advance


@pytest.mark.parametrize(("phase", "signal"), list(itertools.product(Phase, Signal)))
def test_a_signal_moves_a_phase_by_the_table_or_is_refused(phase: Phase, signal: Signal) -> None:
    expected = {
        (Phase.PLANNED, Signal.ALL_VOTED): Phase.PREPARED,
        (Phase.PLANNED, Signal.FAILED): Phase.ROLLED_BACK,
        (Phase.PREPARED, Signal.SWITCHED): Phase.COMMITTED,
        (Phase.PREPARED, Signal.FAILED): Phase.ROLLED_BACK,
        (Phase.COMMITTED, Signal.PROBATION_PASSED): Phase.CONFIRMED,
    }
    if (phase, signal) in expected:
        assert advance(phase, signal) is expected[phase, signal]
    else:
        with pytest.raises(IllegalTransition, match=f"{phase.value} cannot take the signal {signal.value}"):
            advance(phase, signal)


def test_every_phase_has_a_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Phase)
    reached = {Phase.PLANNED} | {after for row in TRANSITIONS.values() for after in row.values()}
    assert reached == set(Phase)


def test_there_is_no_way_back_from_the_decision() -> None:
    after = {Phase.COMMITTED}
    for _ in Phase:
        after |= {to for phase in after for to in TRANSITIONS[phase].values()}
    assert after == {Phase.COMMITTED, Phase.CONFIRMED}
    assert not after & UNFINISHED


def test_the_table_cannot_be_edited() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[Phase.CONFIRMED] = {}  # type: ignore[index]
