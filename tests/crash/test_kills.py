"""SIGKILL before and after each durable step: all old or all new, equal to the journal, restarting twice gives the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from orchestrator.control.client import ControlError
from orchestrator.control.selftest.errors import Broken
from repo_store import failpoints
from tests.crash.aftermath import check
from tests.crash.conftest import FIGURE, Bases
from tests.crash.scenarios import (
    COMPOSITION,
    DEPLOY,
    REVERT,
    ROLLBACK,
    SCENARIOS,
    START,
    START_COMMITTED,
    START_LOOPING,
    STOP,
)
from tests.crash.victim import Scenario, run

# Both sides of the decision, of the stop and of the image's use, and one of each kind of step. The whole matrix is in
# the long programme.
QUICK = (
    (DEPLOY, "refs.push:after", 1),
    (DEPLOY, "stage.rename:before", 3),
    (DEPLOY, "journal.sync:before", 4),
    (DEPLOY, "journal.sync:after", 4),
    (COMPOSITION, "refs.deployments:before", 1),
    (ROLLBACK, "refs.rollback:after", 1),
    (STOP, "journal.sync:before", 1),
    (STOP, "stop.image:after", 1),
    (START, "journal.sync:after", 2),
    (START, "socket.bind:before", 1),
    (START_COMMITTED, "recovery.confirmed:before", 1),
    (START_LOOPING, "recovery.put-back:after", 1),
    (REVERT, "probation.breached:after", 1),
    (REVERT, "switch.record:after", 1),
)
IN_HOOKS = ("refs.push", "refs.refused")  # a hook dies there, and the host lives


@pytest.mark.parametrize(("scenario", "point", "number"), QUICK, ids=lambda each: getattr(each, "name", None))
def test_a_kill_leaves_all_old_or_all_new(bases: Bases, scenario: Scenario, point: str, number: int) -> None:
    with bases.victim(scenario) as victim:
        end = run(victim, scenario, f"{point} {number} kill")
        assert end == ("lived" if point.startswith(IN_HOOKS) else "died")
        if end == "lived":
            victim.kill()
        check(victim, scenario)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_kill_at_every_durable_step_leaves_all_old_or_all_new(
    bases: Bases, scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    """In a recovery it is the second kill: the first one is what has to be recovered from.

    A scenario is one test: its points are those of one golden run, so that none is left out or tried twice.
    """
    points = bases.golden(scenario)
    ends: Counter[str] = Counter()
    wrong = []
    for point, number in points:
        with bases.victim(scenario) as victim:
            try:
                if run(victim, scenario, f"{point} {number} kill") == "lived":  # a hook has died
                    victim.kill()
                reached = (point, number) in victim.trace()
                side = check(victim, scenario)
            except (AssertionError, Broken, ControlError) as error:
                wrong.append(f"after a kill at {point} {number}: {error}\n{victim.said()[-4000:]}")
            else:
                ends[side if reached else "not reached"] += 1
    ends.update({"WRONG": len(wrong)} if wrong else {})
    record_property(f"{FIGURE}SIGKILL, {scenario.name}, {len(points)} points", dict(ends))
    assert wrong == []
    # Two records may share a sync in one run and not in the next.
    assert ends["not reached"] <= len(points) // 10, "void: the runs differ too much from each other"
    if scenario.old != scenario.new:
        assert ends.keys() >= {"old", "new"}, "void: all kills were on one side of the decision"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_matrix_reaches_every_failpoint_there_is(
    bases: Bases, record_property: Callable[[str, object], None]
) -> None:
    reached = {point for scenario in SCENARIOS for point, _ in bases.golden(scenario)}
    record_property(f"{FIGURE}failpoints that the scenarios reach", {"points": len(reached)})
    assert set(failpoints.POINTS) - reached == set()
    for scenario in (DEPLOY, COMPOSITION, ROLLBACK):
        assert any(point == "switch.record:after" for point, _ in bases.golden(scenario)), "void: no decision"
