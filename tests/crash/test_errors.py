"""Each durable step fails, as a disk fails or as a bug does: the host lives or stops cleanly, and a restart is right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from orchestrator.control.selftest.errors import Broken
from tests.crash.aftermath import check
from tests.crash.conftest import FIGURE, Bases
from tests.crash.scenarios import (
    COMPOSITION,
    DEPLOY,
    ROLLBACK,
    START_LOOPING,
    START_QUARANTINE,
    START_UNFINISHED,
    STOP,
)
from tests.crash.victim import Scenario, Victim, run
from tests.stories.deployment import wait_until

ACTIONS = ("eio", "enospc", "raise", "sleep 1")
FAILING = (DEPLOY, COMPOSITION, ROLLBACK, STOP, START_UNFINISHED, START_QUARANTINE, START_LOOPING)
WHY = {"eio": "Input/output error", "enospc": "No space left on device"}  # what an ERROR names
BUG = r"error: Sorry, this is a bug in livetag \(FailpointReached\), and it has ended the host\."
QUICK = (
    (DEPLOY, "stage.rename:before", "enospc"),
    (DEPLOY, "refs.deployments:before", "eio"),
)


def fails(bases: Bases, scenario: Scenario, plan: str) -> tuple[str, str]:
    """Carry the scenario out while a step fails; returns how the host ended, and whether old or new serves then."""
    raises = plan.endswith(" raise")
    with bases.victim(scenario) as victim:
        end = run(victim, scenario, plan)
        # An error that no code expects is a bug.
        honest = {"lived", "ended with 0", "ended with 1", *(("ended with 3",) if raises else ())}
        assert end in honest, f"{plan}: {end}\n{victim.said()}"
        if end == "lived":
            if plan.startswith("journal.") and not plan.endswith("sleep 1"):
                wait_until(lambda: "could not write" in victim.said(), f"{plan}: the log says it")
            assert victim.stop() in {0, 1}, victim.said()
        elif end != "ended with 0":
            words = BUG if end == "ended with 3" else f"ERROR .*{WHY.get(plan.split()[2], '')}"
            assert re.search(words, victim.said()), f"it ends with words: {victim.said()[-500:]}"
        if plan.startswith("journal.") and not plan.endswith("sleep 1"):
            _see_no_second_try(victim, plan)
        return end, check(victim, scenario)


def _see_no_second_try(victim: Victim, plan: str) -> None:
    """What could not be written or synced is not tried again, and nothing is written after it: a retry may lie."""
    point, number = plan.split()[:2]
    trace = victim.trace()
    later = trace[trace.index((point, int(number))) + 1 :]
    assert [each for each, _ in later if each.startswith("journal.")] == [], plan


@pytest.mark.parametrize(("scenario", "point", "action"), QUICK, ids=lambda each: getattr(each, "name", None))
def test_a_step_that_fails_ends_nobody(bases: Bases, scenario: Scenario, point: str, action: str) -> None:
    assert fails(bases, scenario, f"{point} 1 {action}") == ("lived", "new"), "tried again, and done"


def test_what_was_decided_before_the_journal_failed_is_what_the_push_says(bases: Bases) -> None:
    """The states that leave with a composition are recorded after COMMITTED: its tag is not taken back for them."""
    assert fails(bases, COMPOSITION, "journal.sync:before 5 eio") == ("lived", "new")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("scenario", FAILING, ids=lambda scenario: scenario.name)
def test_each_durable_step_that_fails_ends_nobody(
    bases: Bases, scenario: Scenario, action: str, record_property: Callable[[str, object], None]
) -> None:
    """Each point once, those of the journal at each record; slow is a step that takes a second longer."""
    points = [
        (point, number)
        for point, number in bases.golden(scenario)
        # After the decision nothing can raise, and no disk is asked.
        if (number == 1 or point.startswith("journal.sync")) and point != "switch.record:after"
    ]
    ends: Counter[str] = Counter()
    wrong = []
    for point, number in points:
        try:
            end, side = fails(bases, scenario, f"{point} {number} {action}")
            ends[f"{end}, {side}"] += 1
        except (AssertionError, Broken) as error:
            wrong.append(f"{point} {number} {action}: {error}")
    ends.update({"WRONG": len(wrong)} if wrong else {})
    record_property(f"{FIGURE}{action}, {scenario.name}", dict(ends))
    assert wrong == []
