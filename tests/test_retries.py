"""Failures of the moment: tried again after 1, 10 and 60 seconds, then no more (DESIGN §4)."""

from __future__ import annotations

from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.retries import Retries


def group(commit: str = "c1") -> Group:
    return Group((("counter", commit),), ("counter/v1.1.0",), ())


class Now:
    """The time, as the test has it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_failure_of_the_moment_is_tried_again_three_times_and_then_given_up() -> None:
    now = Now()
    retries = Retries(now)
    for delay in (1.0, 10.0, 60.0):
        assert retries.failed(group(), "drain") == delay
        assert not retries.due(group())
        assert retries.next_due == now.seconds + delay
        now.seconds += delay
        assert retries.due(group())
    assert retries.failed(group(), "drain") is None
    assert retries.next_due is None
    assert retries.failed(group(), "drain") == 1.0  # lifted from quarantine, it starts anew


def test_each_group_has_its_own_count_and_a_success_forgets_it() -> None:
    retries = Retries(Now())
    retries.failed(group("c1"), "drain")
    assert retries.due(group("c2"))
    assert retries.failed(group("c2"), "pause") == 1.0
    assert retries.all_pending() == {("counter", "c1"): "drain", ("counter", "c2"): "pause"}
    retries.forget(group("c1"))
    assert retries.due(group("c1"))


def test_what_brings_no_code_rests_if_it_is_wrong_and_is_tried_on_if_only_the_moment_is() -> None:
    """Nothing of it can be put in quarantine: that must not make it start anew with each look."""
    now = Now()
    wrong, late = (
        Group((), (), (Change(name, None, Entry(name, name, "1.0.0", "t", "c", "t", "")),)) for name in "ab"
    )
    retries = Retries(now)
    for delay in (1.0, 10.0, 60.0, None, None):
        assert retries.failed(wrong, "no way down", "release") == delay
        assert retries.failed(late, "drain", "moment") == (delay or 60.0)
        assert retries.next_due == now.seconds + (delay or 60.0)
        now.seconds += 60.0
        assert retries.due(wrong) == (delay is not None)
        assert retries.due(late)
    assert retries.all_pending() == {}
    retries.keep_only([late])
    assert retries.due(wrong)  # asked for again after something else, it starts anew


def test_what_is_no_longer_wished_for_is_forgotten() -> None:
    retries = Retries(Now())
    retries.failed(group("c1"), "drain")
    retries.keep_only([group("c2")])
    assert retries.next_due is None
    assert retries.due(group("c1"))
