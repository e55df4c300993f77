"""SIGKILL before and after each durable step: all old or all new, equal to the journal, restarting twice gives the same."""

from __future__ import annotations

from collections import Counter

import pytest

from repo_store import failpoints
from tests.crash.conftest import Bases
from tests.crash.scenarios import COMPOSITION, DEPLOY, RECOVERIES, ROLLBACK, SCENARIOS, START_COMMITTED
from tests.crash.victim import Scenario, check, run

# One on each side of the decision, and one in each kind of step. The whole matrix is in the long programme.
QUICK = (
    (DEPLOY, "journal.sync:before", 4),
    (DEPLOY, "journal.sync:after", 4),
    (DEPLOY, "stage.rename:before", 3),
    (COMPOSITION, "refs.deployments:before", 1),
    (ROLLBACK, "refs.rollback:after", 1),
    (START_COMMITTED, "recovery.confirmed:before", 1),
)


@pytest.mark.parametrize(("scenario", "point", "number"), QUICK, ids=lambda each: getattr(each, "name", None))
def test_a_kill_leaves_all_old_or_all_new(bases: Bases, scenario: Scenario, point: str, number: int) -> None:
    with bases.victim(scenario) as victim:
        assert run(victim, scenario, f"{point} {number} kill") == "died"
        check(victim, scenario)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_kill_at_every_durable_step_leaves_all_old_or_all_new(
    bases: Bases, scenario: Scenario, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a recovery it is the second kill: the first one is what has to be recovered from."""
    points = golden(bases, scenario)
    ends: Counter[str] = Counter()
    for point, number in points:
        with bases.victim(scenario) as victim:
            end = run(victim, scenario, f"{point} {number} kill")
            if end == "lived":  # a hook died, or the order was another one this time
                victim.kill()
            side = check(victim, scenario)
            hook = point.startswith(("refs.push", "refs.refused", "tags.object"))
            ends[f"{side}" if end == "died" or hook else "not reached"] += 1
    with capsys.disabled():
        sides = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
        names = len({point for point, _ in points})
        print(f"\n{scenario.name}: {len(points)} kills at {names} points: {sides}, 0 mixed")  # noqa: T201
    assert ends["not reached"] <= len(points) // 10, "void: the runs differ too much from each other"
    if scenario.old != scenario.new:
        assert {"old", "new"} <= set(ends), "void: the kills were all on one side"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_matrix_reaches_every_failpoint_there_is(
    bases: Bases, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = {point for scenario in SCENARIOS for point, _ in golden(bases, scenario)}
    with capsys.disabled():
        print(f"\n{len(reached)} of {len(failpoints.POINTS)} failpoints reached")  # noqa: T201
    assert set(failpoints.POINTS) - reached == set()


def golden(bases: Bases, scenario: Scenario) -> list[tuple[str, int]]:
    """The points that the scenario reaches when nothing dies."""
    with bases.victim(scenario) as victim:
        end = run(victim, scenario, "")
        assert end == ("ended with 0" if scenario.stops else "lived"), victim.said()
        points = victim.trace()
        if end == "lived":
            victim.kill()
        assert check(victim, scenario) == "new"
    if scenario not in RECOVERIES:
        assert points, "void: no failpoint was reached"
    return points
