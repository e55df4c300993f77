"""The judge of a probation: what is a breach, what a pass, and what too little to say (DESIGN §7.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.figures import Figures, Terms
from orchestrator.upgrade.probation import Backlog, Judgement, Signs, judge, together

TERMS = Terms(seconds=30.0, min_messages=100, max_error_rate=0.01, max_p99_ms=100.0)
GOOD = Figures(units=5000, failed=0, slow=0, p99_ms=0.4, p50_ms=0.1)
SLOWER = Figures(units=5000, failed=0, slow=0, p99_ms=0.6, p50_ms=0.2)
OVER = 31.0


def of(
    now: Figures, before: Figures | None = None, *, elapsed_s: float = OVER, terms: Terms = TERMS
) -> Judgement:
    return judge(Signs(terms, now, before, elapsed_s))


def test_it_passes_with_its_figures_once_the_time_is_over() -> None:
    assert of(GOOD, elapsed_s=29.0).word == "watching"
    assert of(GOOD) == Judgement("passed", "5000 messages, none failed, p99 0.4 ms")


@pytest.mark.parametrize("units", [0, 1, 99])
def test_too_few_messages_are_inconclusive_and_never_a_pass(units: int) -> None:
    few = of(Figures(units=units))
    assert few.word == "inconclusive"
    assert "min_messages = 100" in few.reason
    assert of(Figures(units=100)).word == "passed"


def test_failures_are_a_breach_as_soon_as_the_rate_can_not_be_kept_any_more() -> None:
    assert of(Figures(units=1, failed=1), elapsed_s=0.5).word == "watching"
    early = of(Figures(units=2, failed=2), elapsed_s=0.5)
    assert early == Judgement("breach", "2 of 2 messages failed, over probation.max_error_rate = 0.01")
    assert of(Figures(units=1000, failed=10)).word == "passed"
    assert of(Figures(units=1000, failed=11)).word == "breach"
    assert of(Figures(units=500, failed=1), terms=Terms(seconds=30.0, max_error_rate=0.0)).word == "breach"


def test_slow_messages_are_a_breach_as_soon_as_the_p99_can_not_be_kept_any_more() -> None:
    assert of(Figures(units=1, slow=1, p99_ms=300.0), elapsed_s=0.5).word == "watching"
    early = of(Figures(units=2, slow=2, p99_ms=300.0), elapsed_s=0.5)
    assert early.word == "breach"
    assert early.reason == "2 of 2 messages took longer than probation.max_p99_ms = 100, p99 300 ms"
    assert of(Figures(units=1000, slow=10, p99_ms=90.0)).word == "passed"
    assert of(Figures(units=1000, slow=11, p99_ms=101.0)).word == "breach"


def test_what_the_release_before_did_as_badly_is_told_and_no_breach() -> None:
    before = Figures(units=1000, failed=100, p99_ms=200.0)
    as_bad = of(Figures(units=1000, failed=125, slow=500, p99_ms=250.0), before)
    assert as_bad.word == "passed"
    assert as_bad.notes == (
        "125 of 1000 messages failed, over probation.max_error_rate = 0.01; of the release before, 100 of 1000 did",
        "500 of 1000 messages took longer than probation.max_p99_ms = 100, p99 250 ms; that of the release before was 200 ms",
    )
    assert of(Figures(units=1000, failed=126), before).word == "breach"
    assert of(Figures(units=1000, slow=500, p99_ms=251.0), before).word == "breach"


def test_what_few_messages_say_does_not_tell_bad_from_worse() -> None:
    before = Figures(units=1000, failed=100, p99_ms=200.0)
    assert of(Figures(units=20, failed=20, slow=20, p99_ms=900.0), before, elapsed_s=1.0).word == "watching"
    little = Figures(units=10, failed=10, p99_ms=900.0)  # too little to excuse failures
    assert of(Figures(units=200, failed=20), little).word == "breach"
    assert of(Figures(units=200, slow=20, p99_ms=900.0), little).word == "passed"  # but it was slow by nature


def test_a_good_release_before_excuses_nothing() -> None:
    assert of(Figures(units=200, failed=20), GOOD).reason.endswith("of the release before, 0 of 5000 did")
    assert of(Figures(units=200, slow=20, p99_ms=150.0), GOOD).word == "breach"


def test_a_stall_is_a_breach_at_once_and_so_is_what_self_test_says() -> None:
    assert (
        "a unit did not end within host.stall_s"
        in of(Figures(units=5000, stalls=1), GOOD, elapsed_s=1.0).reason
    )
    unfit = judge(
        Signs(TERMS, GOOD, GOOD, 1.0, unfit="self_test() raised ValueError: the books do not balance")
    )
    assert unfit == Judgement("breach", "self_test() raised ValueError: the books do not balance")


def test_a_mailbox_that_grows_past_its_half_is_a_breach_and_a_burst_is_not() -> None:
    def looks(*lengths: int, at_switch: int = 0, now: Figures = SLOWER) -> Judgement:
        backlog = Backlog(at_switch, 1000, at_switch)
        for length in lengths:
            backlog = backlog.after(length, 1000)
        return judge(Signs(TERMS, now, GOOD, OVER, backlog=backlog))

    assert "600 messages wait" in looks(200, 400, 600).reason
    assert looks(200, 400, 600).word == "breach"
    assert looks(1000, 1000, 1000).word == "breach"
    assert looks(900, 700, 600).word == "passed"  # it is worked off
    assert looks(0, 0, 900).word == "passed"  # it came just now
    assert looks(500, 600, 700, at_switch=400).word == "passed"  # the one before did not keep up either
    assert (
        looks(90, 300, 400, 600, at_switch=800).word == "breach"
    )  # what waited at the switch was worked off
    assert looks(100, 200, 400).word == "passed"
    more = looks(200, 400, 600, now=GOOD)  # it is as fast as the one before: more is sent
    assert more.word == "passed"
    assert "600 messages wait and the mailbox grows" in more.notes[0]


def test_of_several_modules_a_breach_decides_then_who_is_still_watched_then_who_is_not_measured() -> None:
    passed, few, on = of(GOOD), of(Figures()), of(GOOD, elapsed_s=1.0)
    bad = of(Figures(units=5, failed=5))
    assert together({"a": passed, "b": few, "c": on, "d": bad}).word == "breach"
    assert together({"a": passed, "b": few, "c": on, "d": bad}).reason.startswith("d: 5 of 5")
    assert together({"a": passed, "b": few, "c": on}).word == "watching"
    assert together({"a": passed, "b": few}).word == "inconclusive"
    assert together({"a": passed, "b": passed}).reason.startswith("a: 5000 messages")


@given(
    st.builds(
        Figures,
        units=st.integers(0, 3000),
        failed=st.integers(0, 60),
        slow=st.integers(0, 60),
        p99_ms=st.none() | st.floats(0.01, 1000.0),
    ),
    st.none() | st.builds(Figures, units=st.integers(0, 3000), failed=st.integers(0, 60)),
    st.floats(0.0, 60.0),
)
def test_no_measurement_is_ever_a_pass(now: Figures, before: Figures | None, elapsed_s: float) -> None:
    said = of(now, before, elapsed_s=elapsed_s)
    if said.word == "passed":
        assert now.units >= 100
        assert elapsed_s >= 30.0
        assert said.notes or (now.failed <= 0.01 * now.units and now.slow <= 0.01 * now.units)
    assert said.reason
