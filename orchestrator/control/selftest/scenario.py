"""A scenario changes a deployment on disk; `run` carries it out under a plan of failpoints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.control.client import ControlError
from orchestrator.control.selftest.errors import wait_until
from orchestrator.control.selftest.scratch import Facts, Scratch, Served, end_group

SCENARIO_S = 40.0

_FAILS = re.compile(r" (eio|enospc|raise)\b")

S = TypeVar("S", bound=Scratch)


def _ready(_subject: object) -> None:
    """Most scenarios begin from the deployment as it was copied."""


@dataclass(frozen=True)
class Scenario(Generic[S]):
    """Something that changes a deployment on disk.

    `drive` begins it and returns the process that carries it; None: the start of the host is the scenario. `old` and
    `new` are what may serve afterwards, `tags` the tags that ask for the new (deleted where the journal says old, so
    that the old is seen to serve), `beyond` those that ask for what comes after the new, `further` the tag of a release
    that must go live after all.
    """

    name: str
    drive: Callable[[S], subprocess.Popen[str]] | None
    old: Served
    new: Served
    tags: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    further: str = "hen/v1.9.0"
    ready: Callable[[S], None] = _ready
    stops: bool = False  # the scenario ends with the host's end
    # What the host goes back to once a second death has quarantined the release in service.
    before: Served | None = None
    quarantines: bool = False  # it ends with something in quarantine, as is right
    in_probation: bool = False  # what serves may be in one, in which a second death has it go back


def run(subject: S, scenario: Scenario[S], plan: str) -> str:
    """Carry the scenario out under the plan.

    Returns "died", "ended with N", or "lived" if the host and the scenario came to their end. Raises Broken if neither comes.
    """
    scenario.ready(subject)
    if scenario.drive is None:
        subject.aim(plan)
        subject.host = subject.spawn()
        wait_until(lambda: subject.dead or subject.answers(), "the host answers or dies", SCENARIO_S)
    else:
        subject.aim("")
        subject.start()
        wait_until(lambda: _has_settled(subject) and _at_rest(subject), "the host is at rest", SCENARIO_S)
        subject.aim(plan)
        with scenario.drive(subject) as process:
            try:
                wait_until(lambda: process.poll() is not None, "the push or command ends", SCENARIO_S)
            except BaseException:
                end_group(process)
                raise
            subject.answered, _ = process.communicate()
    if not subject.dead:
        wait_until(lambda: subject.dead or _at_rest(subject), "the host dies or comes to rest", SCENARIO_S)
    if scenario.drive is None:
        sides = ("before", "after") if _FAILS.search(plan) else ("after",)  # what fails comes to no "after"
        wait_until(
            lambda: subject.dead or _has_settled(subject, *sides), "the host dies or settles", SCENARIO_S
        )
    if scenario.stops:
        wait_until(lambda: subject.dead, "the host ends", SCENARIO_S)
    if subject.host is None or not subject.dead:
        return "lived"
    code = subject.host.wait()
    subject.buried()
    return "died" if code < 0 else f"ended with {code}"


def _has_settled(subject: Scratch, *sides: str) -> bool:
    points = {f"recovery.settled:{side}" for side in sides or ("after",)}
    return any(point in points for point, _ in subject.trace())


def _at_rest(subject: Scratch) -> bool:
    """Whether the history has caught up with the journal and nothing is under way, or nothing more will be recorded."""
    try:
        status, history = subject.status(), subject.history()
    except ControlError:  # it is dying, which the caller looks for
        return subject.dead
    if rests(status):
        return True
    ended = status["transaction"] is None and status["problem"] is None
    return ended and len(subject.deployments()) == len(history)


def rests(status: Facts) -> bool:
    """Whether nothing more is recorded, or nothing more is done until somebody asks: the problem in `status` says so."""
    problem = status["problem"] or ""
    return "restart the host" in problem or "a bug in livetag" in problem
