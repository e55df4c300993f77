"""What persons ask of tags holds until a look that knew of it has left nothing of them to do."""

from __future__ import annotations

from orchestrator.upgrade.asked import Asked

BOTH = frozenset({"hen/v1.0.1", "egg/v1.0.1"})


def test_a_look_under_way_when_a_rollback_is_asked_for_does_not_take_it_apart() -> None:
    asked = Asked()
    under_way = asked.now()
    asked.deploy(BOTH, together=True)
    asked.done(under_way, {"hen/v1.0.0", "egg/v1.0.0"}, ())
    assert list(asked.now().together) == [BOTH]


def test_a_look_that_read_the_tags_before_they_were_written_does_not_end_it() -> None:
    asked = Asked()
    asked.deploy(BOTH, together=True)
    asked.done(asked.now(), {"hen/v1.0.0", "egg/v1.0.0"}, ())
    assert list(asked.now().together) == [BOTH]
    assert asked.now().by_hand == BOTH


def test_it_holds_while_something_of_it_is_left_to_do_and_no_longer() -> None:
    asked = Asked()
    asked.deploy(BOTH, together=True)
    asked.deploy(["cow/v1.0.0"])
    asked.done(asked.now(), {*BOTH, "cow/v1.0.0"}, {"egg/v1.0.1"})
    assert asked.now().by_hand == BOTH
    assert list(asked.now().together) == [BOTH]
    asked.done(asked.now(), {*BOTH}, ())
    assert not asked.now().all


def test_tags_that_were_deleted_again_end_it() -> None:
    asked = Asked()
    asked.deploy(BOTH, together=True)
    asked.done(asked.now(), BOTH, BOTH)
    asked.done(asked.now(), (), ())
    assert not asked.now().all


def test_tags_that_could_not_be_written_are_forgotten() -> None:
    asked = Asked()
    asked.deploy(BOTH, together=True)
    asked.deploy(["cow/v1.0.0"])
    asked.forget(list(BOTH))
    assert asked.now().by_hand == {"cow/v1.0.0"}
