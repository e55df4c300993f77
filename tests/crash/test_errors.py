"""Each durable step fails, as a disk fails or as a bug does: the host lives or stops cleanly, and a restart is right."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.crash.aftermath import check
from tests.crash.conftest import Bases
from tests.crash.scenarios import COMPOSITION, DEPLOY, ROLLBACK, STOP
from tests.crash.victim import Scenario, run

ACTIONS = ("eio", "enospc", "raise")
QUICK = (
    (DEPLOY, "stage.rename:before", "enospc"),
    (DEPLOY, "refs.deployments:before", "eio"),
)


def fails(bases: Bases, scenario: Scenario, plan: str) -> tuple[str, str]:
    """Carry the scenario out while a step fails; returns how the host ended, and whether old or new serves then."""
    with bases.victim(scenario) as victim:
        end = run(victim, scenario, plan)
        honest = {"lived", "ended with 0", "ended with 1"}
        if plan.endswith(
            "raise"
        ):  # an error that no code expects is a bug, and a host that ends by one says so
            honest.add("ended with 3")
        assert end in honest, f"{plan}: {end}\n{victim.said()}"
        if end == "lived":
            assert victim.stop() in {0, 1}, victim.said()
        return end, check(victim, scenario)


@pytest.mark.parametrize(("scenario", "point", "action"), QUICK, ids=lambda each: getattr(each, "name", None))
def test_a_step_that_fails_ends_nobody(bases: Bases, scenario: Scenario, point: str, action: str) -> None:
    assert fails(bases, scenario, f"{point} 1 {action}") == ("lived", "new"), "tried again, and done"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "scenario", [DEPLOY, COMPOSITION, ROLLBACK, STOP], ids=lambda scenario: scenario.name
)
def test_each_durable_step_that_fails_ends_nobody(
    bases: Bases, scenario: Scenario, capsys: pytest.CaptureFixture[str]
) -> None:
    points = dict.fromkeys(point for point, _ in bases.golden(scenario))
    points.pop("switch.record:after", None)  # after the decision nothing can raise, and no disk is asked
    ends = Counter(fails(bases, scenario, f"{p} 1 {action}") for p in points for action in ACTIONS)
    with capsys.disabled():
        told = ", ".join(f"{number} {end} and {side}" for (end, side), number in sorted(ends.items()))
        print(f"\n{scenario.name}: {len(points)} points, each with {', '.join(ACTIONS)}: {told}")  # noqa: T201
