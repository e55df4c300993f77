"""Who asked for a change: told by tag, until that has led to one."""

from __future__ import annotations

from orchestrator.upgrade.causes import Cause, Causes
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.records import Change, Entry

OLD_TAG, NEW_TAG = "counter/v1.0.0", "counter/v1.1.0"
ANN, BOB, NOBODY = Cause("ann"), Cause("bob"), Cause("refs")
WAY_BACK = Cause("livetag rollback", "by mistake", 7)


def release(before: str | None, after: str) -> Group:
    """A tag comes into service, in place of another one or of none."""
    old = entry(before) if before is not None else None
    return Group((), (after,), (Change("counter", old, entry(after)),))


def entry(tag: str) -> Entry:
    return Entry("counter", "counter", tag.partition("/v")[2], tag, tag, tag, tag)


UP, DOWN = release(OLD_TAG, NEW_TAG), release(NEW_TAG, OLD_TAG)


def test_who_pushed_a_tag_asked_for_it_again_and_again_until_it_serves() -> None:
    causes = Causes()
    causes.told([NEW_TAG], ANN)
    assert (causes.of(UP), causes.of(UP)) == (ANN, ANN)
    causes.spent(UP, ANN)
    assert (causes.of(UP), causes.who(NEW_TAG, "o")) == (NOBODY, "refs")


def test_a_tag_that_was_a_way_back_serves_again_for_the_reason_of_that_time() -> None:
    causes = Causes()
    causes.told([OLD_TAG], WAY_BACK)
    causes.spent(DOWN, causes.of(DOWN))
    causes.told([NEW_TAG], ANN)
    causes.spent(UP, causes.of(UP))
    causes.told([NEW_TAG], BOB)  # who deletes it
    assert causes.of(DOWN) == BOB


def test_a_way_back_from_a_tag_that_somebody_has_just_moved_is_a_way_back() -> None:
    causes = Causes()
    causes.told([NEW_TAG], BOB)
    causes.told([OLD_TAG], WAY_BACK)
    assert causes.of(DOWN) == WAY_BACK


def test_what_is_said_of_a_tag_while_it_comes_into_service_counts_for_the_next_change() -> None:
    causes = Causes()
    causes.told([NEW_TAG], ANN)
    causes.told([NEW_TAG], BOB)
    causes.spent(UP, ANN)
    assert causes.of(UP) == BOB


def test_who_is_about_to_move_a_tag_is_known_before_the_push_has_said_so_and_only_of_that_very_move() -> None:
    causes = Causes()
    ann = Cause("ann")
    causes.announced({NEW_TAG: "o1", "counter/v0.9.0": None}, ann)
    assert causes.who(NEW_TAG, "o1") == "ann"
    assert causes.who("counter/v0.9.0", None) == "ann"
    assert (causes.who(NEW_TAG, "o2"), causes.who(NEW_TAG, None)) == ("refs", "refs")
    causes.told([NEW_TAG], Cause("bob"))
    assert causes.who(NEW_TAG, "o1") == "bob", "what was said last counts"
    assert causes.of(UP).who == "bob"


def test_who_moved_a_tag_has_not_moved_it_again() -> None:
    """A refused tag was taken back; who makes it anew beside the hooks is not the one who was refused."""
    causes = Causes()
    causes.told_of({NEW_TAG: "o1"}, ANN, {})
    for object_id in (
        "o0",
        "o1",
        None,
    ):  # one of before that is recorded late, then hers, then it is taken back
        assert causes.who(NEW_TAG, object_id) == "ann"
        causes.noted(NEW_TAG, object_id)
    assert (causes.who(NEW_TAG, "o2"), causes.of(UP)) == ("refs", NOBODY)


def test_a_move_that_was_recorded_before_its_push_has_told_of_it_is_the_last_of_that_push() -> None:
    causes = Causes()
    causes.told_of({NEW_TAG: "o1", OLD_TAG: None}, ANN, {NEW_TAG: "o1"})
    causes.noted(NEW_TAG, "o2")
    causes.noted(OLD_TAG, "o3")
    assert (causes.of(UP), causes.of(DOWN)) == (NOBODY, NOBODY)
    causes.told_of({NEW_TAG: "o4"}, BOB, {NEW_TAG: "o2"})
    assert causes.of(UP) == BOB
