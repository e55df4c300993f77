"""The scenarios on the user's modules: a deploy of all of them, its rollback, restarts and recoveries."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.control.selftest.checks import shown
from orchestrator.control.selftest.copy import PUSH_S, Copy
from orchestrator.control.selftest.errors import Broken, SelftestImpossible, wait_until
from orchestrator.control.selftest.layout import Layout
from orchestrator.control.selftest.scenario import Scenario, run
from orchestrator.control.selftest.scratch import Served

Point = tuple[str, int]
"""A failpoint, and the how manieth time that it is reached."""

DEPLOY, ROLLBACK, START, STOP = "deploy", "rollback", "restart", "stop"
RECOVERY_OLD, RECOVERY_NEW = "recovery-before-commit", "recovery-after-commit"
_REJECTED = re.compile(r"^ ! \[[^]]*\] \S+ -> \S+ \((.*)\)$", re.MULTILINE)
_HELD = re.compile(r"address already in use|errno 98", re.IGNORECASE)


class NotReached(Exception):
    """What had to come before the kill did not come out as it should; the run says nothing."""


@dataclass(frozen=True)
class Case:
    """A scenario with the points that it reaches when nothing dies, and which deployment it begins from."""

    scenario: Scenario[Copy]
    like: Path
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        return self.scenario.name


@dataclass
class Bench:
    """The deployments to be copied, and the copies: all of them in `root`."""

    root: Path
    layout: Layout
    environment: Mapping[str, str]
    skipped: dict[str, str] = field(default_factory=dict)  # scenario → why it cannot be played here
    states_compared: int = 0
    _copies: int = 0

    @property
    def base(self) -> Path:
        return self.layout.place.path.parent

    @property
    def upgraded(self) -> Path:
        return self.root / "upgraded"

    @contextmanager
    def copy(self, like: Path) -> Iterator[Copy]:
        """A copy to be killed; its folder stays, its processes do not."""
        self._copies += 1
        made = Copy.of(like, self.root / str(self._copies), self.environment)
        try:
            yield made
        finally:
            made.close()
            self.states_compared += made.states_compared

    def bring_up(self) -> Served:
        """Start the scratch deployment, push the base to it, stop it cleanly; returns what served.

        Raises SelftestImpossible with what the push or the host says.
        """
        base = Copy(self.base, self.environment)
        return self._pushed(
            base, self.layout.base, "The releases could not be brought into service in the scratch deployment"
        )

    def _pushed(self, copy: Copy, tags: tuple[str, ...], what: str) -> Served:
        copy.calm()
        try:
            copy.start()
            pushing = copy.begin_push(*tags)
            said = copy.finished(pushing, PUSH_S)
            if pushing.returncode != 0:
                raise SelftestImpossible(f"{what}: {reasons(said)}.{hint(said)}")
            served = copy.serves()
            if copy.stop() != 0:
                raise SelftestImpossible(f"{what}: the host did not stop cleanly: {copy.said()[-1000:]}")
        except Broken as error:
            raise SelftestImpossible(f"{what}: {error}") from error
        finally:
            copy.close()
        return served

    def played(self, scenario: Scenario[Copy], like: Path, keep: Path | None = None) -> Case:
        """The scenario with its points, its tags and what serves then, from a run in which nothing dies.

        `keep`: where its deployment goes, stopped cleanly, for others to begin from. Raises Broken.
        """
        with self.copy(like) as copy:
            tags, images = set(copy.tags()), copy.images() if scenario.drive is None else {}
            end = run(copy, scenario, "")
            points = copy.trace()
            if end != ("ended with 0" if scenario.stops else "lived"):
                raise Broken(
                    f"{scenario.name} ends well when nothing dies", f"it {end}: {copy.said()[-1000:]}"
                )
            serves = copy.table_of(copy.ledger()) if scenario.stops else copy.serves()
            if end == "lived":
                copy.remembers(images)
                copy.stop()
            if scenario.new not in ({}, serves):
                raise Broken(
                    f"{scenario.name} brings {shown(scenario.new)} when nothing dies",
                    f"{shown(serves)}. {reasons(copy.answered)}",
                )
            if not scenario.new and serves == scenario.old:
                raise Broken(f"{scenario.name} changes what serves", reasons(copy.answered))
            came = tuple(sorted(set(copy.tags()) - tags))
        if keep is not None:
            copy.folder.rename(keep)
        else:
            self.forget(copy)
        return Case(replace(scenario, new=serves, tags=came), like, tuple(points))

    def forget(self, copy: Copy) -> None:
        """Remove a copy that nobody needs to look at."""
        shutil.rmtree(copy.folder, ignore_errors=True)


def deploy_of(bench: Bench, old: Served) -> Scenario[Copy]:
    """The next release of all packages at once; what it brings is learned when it is played."""
    further = bench.layout.tags[0].further
    return Scenario[Copy](
        DEPLOY, lambda copy: copy.begin_push(*bench.layout.next), old, {}, further=further, before=old
    )


def rollback_of(deploy: Scenario[Copy]) -> Scenario[Copy]:
    return replace(
        deploy,
        name=ROLLBACK,
        drive=lambda copy: copy.begin_command("rollback", "--reason", "selftest"),
        old=deploy.new,
        new=deploy.old,
        tags=(),
    )


def restart_of(deploy: Scenario[Copy]) -> Scenario[Copy]:
    return replace(deploy, name=START, drive=None, new=deploy.old, tags=(), before=None)


def stop_of(deploy: Scenario[Copy]) -> Scenario[Copy]:
    return replace(deploy, name=STOP, drive=_stop, new=deploy.old, tags=(), before=None, stops=True)


def recoveries_of(deploy: Case) -> Iterator[Scenario[Copy]]:
    """The starts after a death in the deploy, on either side of the decision, which are killed once more."""
    old, new = deploy.scenario.old, deploy.scenario.new
    committed = f"journal.sync:after {_committed(deploy.points)} kill"
    for name, plan, side in (
        (RECOVERY_OLD, "switch.record:before 1 kill", old),
        (RECOVERY_NEW, committed, new),
    ):
        ready = _died(deploy.scenario, plan, side)
        yield replace(deploy.scenario, name=name, drive=None, old=side, new=side, tags=(), ready=ready)


def _committed(points: tuple[Point, ...]) -> int:
    """The how manieth sync of the journal has COMMITTED on disk: the first after the switch."""
    switch = points.index(("switch.record:before", 1))
    return next(number for point, number in points[switch:] if point == "journal.sync:after")


class _died:  # noqa: N801  # reads as a phrase: ready=_died(...)
    """Makes a copy ready: it dies in the deploy, on this side of the decision, and nothing asks for the new unless it has it."""

    def __init__(self, deploy: Scenario[Copy], plan: str, side: Served) -> None:
        self._deploy, self._plan, self._side = deploy, plan, side

    def __call__(self, copy: Copy) -> None:
        if run(copy, self._deploy, self._plan) != "died" or copy.table_of(copy.ledger()) != self._side:
            raise NotReached(f"the deploy did not die at {self._plan} as it did before")
        present = [tag for tag in self._deploy.tags if tag in copy.tags()]
        if self._side == self._deploy.old and present:
            copy.git("tag", "-d", *present)


def _stop(copy: Copy) -> subprocess.Popen[str]:
    if copy.host is not None:
        copy.host.send_signal(signal.SIGTERM)
    wait_until(lambda: copy.dead, "the host stops or dies")
    return copy.begin(["true"])


def reasons(said: str) -> str:
    """Why a push was refused, each reason once; what the host advises there is for a deployment that stays."""
    rejected = dict.fromkeys(_REJECTED.findall(said))
    lines = [line.strip().removeprefix("remote: ") for line in said.splitlines()]
    return "; ".join(rejected) or " ".join(line for line in lines if line).strip() or "it said nothing"


def hint(said: str) -> str:
    """What to do about a refusal that is due to the place, not to the release; empty if nothing is known."""
    if _HELD.search(said):
        return (
            " Something on this machine holds that address, perhaps the running host. Give the modules another one with "
            "--config FILE, an app.toml with another port, or stop the host for the time of the selftest."
        )
    if "environment variable" in said:
        return " The scratch host has the environment of this command: set it here, or give --config FILE."
    return ""
