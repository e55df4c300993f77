"""One selftest from start to end. Whatever happens, no process of it stays, and no file but what was asked for or failed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.control.client import ControlError
from orchestrator.control.clone import CloneFailed
from orchestrator.control.selftest import cases
from orchestrator.control.selftest.cases import Bench, Case, NotReached
from orchestrator.control.selftest.checks import check
from orchestrator.control.selftest.copy import Copy
from orchestrator.control.selftest.errors import Broken, SelftestImpossible
from orchestrator.control.selftest.layout import environment, lay_out
from orchestrator.control.selftest.machine import machine
from orchestrator.control.selftest.matrix import Failure, Kill, Outcome, in_order_of_worth, kills, may_match
from orchestrator.control.selftest.origin import Origin, texts
from orchestrator.control.selftest.report import NOT_REACHED, Report
from orchestrator.control.selftest.scenario import Scenario, run
from orchestrator.upgrade.errors import UpgradeError
from repo_store import failpoints

PREFIX = "livetag-selftest-"
QUICK = (cases.ROLLBACK, cases.START)  # beside the deploy, where time is short


class Watcher(Protocol):
    """Who is told how far it is."""

    def say(self, text: str) -> None: ...

    def begin(self, total: int) -> None: ...

    def done(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What to do: `seconds` after which no further kill begins (None: all are made), which points, where, what stays."""

    scratch: Path | None = None
    seconds: float | None = 60.0
    points: str = ""
    keep: bool = False
    command: str = "livetag selftest"


def selftest(make: Callable[[Path], Origin], options: Options, watcher: Watcher) -> Report:
    """Bring what `make` finds into service in a scratch deployment, kill it there, and say what came of it.

    Raises SelftestImpossible where it cannot be done, and what `make` raises. Ctrl-C ends it with a report of how far it
    came. Side effects: processes and files in a folder of its own; both are gone in the end, but for the deployment in
    which something failed, and the folder with `keep`.
    """
    if failpoints.armed():
        raise SelftestImpossible("the failpoints of this process are on; it would die itself")
    began = time.monotonic()
    report = Report()
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=options.scratch))
    report.machine = machine(root)
    keep = options.keep
    try:
        _all(make(root), root, options, watcher, report)
    except KeyboardInterrupt:
        report.interrupted = True
    except Broken as error:  # in a scenario in which nothing was killed
        report.failure = Failure("no kill at all", error.expected, error.found, str(root), options.command)
        keep = True
    finally:
        report.seconds = time.monotonic() - began
        if report.failure is None and not keep:
            shutil.rmtree(root, ignore_errors=True)
    if options.keep:
        report.remarks.append(f"Everything is kept in {root}; remove it when you have seen it.")
    return report


def _all(origin: Origin, root: Path, options: Options, watcher: Watcher, report: Report) -> None:
    report.what = origin.what
    watcher.say(f"{origin.what}: {', '.join(texts(origin.packages))}")
    began = time.monotonic()
    bench, deploy = _deployed(origin, root, report)
    found = [deploy, *_other_cases(bench, deploy, options, report)]
    for name in sorted(deploy.scenario.old.keys() | deploy.scenario.new.keys()):
        report.modules[name] = f"{deploy.scenario.old.get(name, '-')} → {deploy.scenario.new.get(name, '-')}"
    for remark in report.remarks:
        watcher.say(remark)
    chosen = in_order_of_worth(kills(found, options.points))
    if not chosen:
        names = "\n".join(kill.name for kill in kills(found, ""))
        raise SelftestImpossible(
            f"No point matches {options.points}; nothing was killed. There are:\n{names}"
        )
    report.planned = len(chosen)
    watcher.begin(len(chosen))
    for kill in chosen:
        if report.outcomes and options.seconds is not None and time.monotonic() - began > options.seconds:
            break
        outcome = _kill(kill, bench, options, report)
        report.states_compared = bench.states_compared
        if outcome is None:
            return
        report.outcomes.append(outcome)
        watcher.done(outcome)


def _deployed(origin: Origin, root: Path, report: Report) -> tuple[Bench, Case]:
    """The scratch deployment with the base in service, and the deploy of what comes next, as it goes when nothing dies."""
    try:
        return _laid_out(origin, root / "deployments", report)
    except SelftestImpossible as error:
        if all(package.before is None for package in origin.packages):
            raise
        report.remarks.append(
            f"The releases that served before could not be used, so each package is followed by its own code, released "
            f"again: {error}"
        )
        return _laid_out(origin.without_before(), root / "once-more", report)


def _laid_out(origin: Origin, folder: Path, report: Report) -> tuple[Bench, Case]:
    env = environment()
    folder.mkdir()
    bench = Bench(folder, lay_out(origin, folder / "base", env), env)
    old = bench.bring_up()
    try:
        deploy = bench.played(cases.deploy_of(bench, old), bench.base, keep=bench.upgraded)
    except Broken as error:
        raise SelftestImpossible(
            f"the next release did not go live in the scratch deployment: {error.found}{cases.hint(error.found)}"
        ) from error
    if deploy.scenario.new == old or not deploy.scenario.tags:
        raise SelftestImpossible(
            f"the next release did not go live; {', '.join(bench.layout.next)} changed nothing"
        )
    if ("switch.record:before", 2) in deploy.points:
        raise SelftestImpossible(
            f"the next releases went live one after the other, not as one transaction, of which it could be said that it is "
            f"all old or all new: {', '.join(bench.layout.next)}. `livetag plan` says what keeps them apart."
        )
    again = [each.name for each in origin.packages if each.before is None]
    if again:
        report.remarks.append(
            f"No release with other code is known from before for {', '.join(again)}: its own code is released again, "
            "with a comment behind it. No step of a state was taken for it."
        )
    return bench, deploy


def _other_cases(bench: Bench, deploy: Case, options: Options, report: Report) -> Iterator[Case]:
    """Those that are asked for; with little time, the ones that need the fewest starts."""
    scenario = deploy.scenario
    if _wanted(cases.ROLLBACK, options):
        try:
            yield bench.played(cases.rollback_of(scenario), bench.upgraded)
        except Broken as error:
            report.remarks.append(f"Rollback is not tested: {error.found}")
    if _wanted(cases.START, options):
        yield bench.played(cases.restart_of(scenario), bench.base)
    if _wanted(cases.STOP, options):
        yield bench.played(cases.stop_of(scenario), bench.base)
    for recovery in cases.recoveries_of(deploy):
        if _wanted(recovery.name, options):
            try:
                yield bench.played(recovery, bench.base)
            except NotReached as error:
                report.remarks.append(f"{recovery.name} is not tested: {error}")


def _wanted(scenario: str, options: Options) -> bool:
    """Whether a kill in this scenario can be asked for."""
    if options.points:
        return may_match(scenario, options.points)
    return options.seconds is None or scenario in QUICK


def _kill(kill: Kill, bench: Bench, options: Options, report: Report) -> Outcome | None:
    """Make one kill and all checks after it; None if one of them failed, which the report has then."""
    began = time.monotonic()
    scenario = kill.case.scenario
    with bench.copy(kill.case.like) as copy:
        try:
            side = _side(copy, kill, scenario)
        except (Broken, ControlError, CloneFailed, UpgradeError) as error:
            broken = (
                error if isinstance(error, Broken) else Broken("all of it can be asked and read", str(error))
            )
            replay = f"{options.command} --points '{kill.name}' --keep"
            report.failure = Failure(kill.name, broken.expected, broken.found, str(copy.folder), replay)
    if report.failure is not None:
        _only(bench.root, copy.folder)
        return None
    bench.forget(copy)
    return Outcome(kill.case.name, kill.point, kill.number, side, time.monotonic() - began)


def _side(copy: Copy, kill: Kill, scenario: Scenario[Copy]) -> str:
    try:
        end = run(copy, scenario, f"{kill.point} {kill.number} kill")
    except NotReached:
        return NOT_REACHED
    reached = (kill.point, kill.number) in copy.trace()
    if end == "lived":  # a hook died, or the order was another one this time
        copy.kill()
    side = check(copy, scenario)
    if not reached:
        return NOT_REACHED
    return "same" if scenario.old == scenario.new else side


def _only(root: Path, kept: Path) -> None:
    """Remove all copies but the one in which something failed."""
    for folder in root.iterdir():
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)
