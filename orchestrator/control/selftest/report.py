"""What a selftest found: as one line, as Markdown for people, as JSON for programs. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.control.selftest.matrix import Failure, Outcome

NOT_REACHED = "not reached"


@dataclass
class Report:
    """All facts of one selftest, filled in while it runs."""

    what: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(
        default_factory=dict
    )  # module → what serves before the deploy, and after it
    remarks: list[str] = field(default_factory=list)
    planned: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    failure: Failure | None = None
    interrupted: bool = False
    states_compared: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> list[Outcome]:
        """Those that were reached."""
        return [each for each in self.outcomes if each.side != NOT_REACHED]

    @property
    def ok(self) -> bool:
        return self.failure is None and not self.interrupted and bool(self.kills)


def verdict(report: Report) -> str:
    """One line: safe, or not and why, or how far it came."""
    if report.failure is not None:
        failure = report.failure
        return (
            f"NOT crash-safe here: after {failure.name}, expected: {failure.expected}; found: {failure.found} "
            f"({_count(len(report.kills), 'kill')} before it held)"
        )
    told = f"{_counts(report)} in {duration(report.seconds)}"
    if report.interrupted:
        return f"interrupted: {told}, of {report.planned} that were planned; nothing was broken so far"
    if not report.kills:
        return "no verdict: no point was reached a second time as it was the first time; run it again"
    left = report.planned - len(report.outcomes)
    if left:  # what was not tried is never a pass (DESIGN P6)
        return (
            f"crash-safe as far as it was tried: {told}; {left} of {report.planned} kills were left out for time, "
            "--full makes them all"
        )
    return f"crash-safe here: {told}"


def _counts(report: Report) -> str:
    sides = Counter(each.side for each in report.kills)
    points = len({each.point for each in report.kills})
    states = (
        f"state compared {_times(report.states_compared)}, 0 lost"
        if report.states_compared
        else "state not compared"
    )
    missed = len(report.outcomes) - len(report.kills)
    unreached = f", {missed} {NOT_REACHED}" if missed else ""
    return (
        f"{_count(len(report.kills), 'kill')} at {_count(points, 'point')}, {sides['old']} all old, {sides['new']} all new, "
        f"{sides['same']} as before, 0 mixed{unreached}, {states}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def duration(seconds: float) -> str:
    """`3 min 12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def document(report: Report) -> dict[str, Any]:
    """The report for `--json`."""
    failure = report.failure
    return {
        "ok": report.ok,
        "verdict": verdict(report),
        "interrupted": report.interrupted,
        "tested": report.what,
        "machine": report.machine,
        "modules": report.modules,
        "remarks": report.remarks,
        "planned": report.planned,
        "states_compared": report.states_compared,
        "seconds": round(report.seconds, 3),
        "kills": [
            {"name": each.name, "outcome": each.side, "seconds": round(each.seconds, 3)}
            for each in report.outcomes
        ],
        "failure": None
        if failure is None
        else {
            "name": failure.name,
            "expected": failure.expected,
            "found": failure.found,
            "kept": failure.kept,
            "replay": failure.replay,
        },
    }


def markdown(report: Report) -> str:
    """The report for people."""
    parts = ["# livetag selftest", "", f"**{_cell(verdict(report))}**", ""]
    if report.failure is not None:
        parts += _failed(report.failure)
    parts += ["## What was tested", "", f"The modules of {report.what}, in a scratch deployment.", ""]
    parts += _table("module", "served before the deploy, and after it", report.modules)
    parts += [f"- {_cell(remark)}" for remark in report.remarks]
    parts += ["", "## Where", ""]
    parts += _table("", "", report.machine)
    parts += [
        "## Kills",
        "",
        _HOW,
        "",
        "| scenario | point | reached for the | outcome | seconds |",
        "|---|---|---|---|---|",
    ]
    parts += [
        f"| {each.scenario} | `{each.point}` | {each.number}. time | {_SIDES[each.side]} | {each.seconds:.1f} |"
        for each in report.outcomes
    ]
    return "\n".join(parts) + "\n"


_SIDES = {"old": "all old", "new": "all new", "same": "as before", NOT_REACHED: NOT_REACHED}
_HOW = (
    "SIGKILL of the process that reaches the point, on a fresh copy; then two starts with a SIGKILL between them, each of which "
    "must serve what the journal says and show the same in Git, one more release, and a clean stop. A state is compared with "
    "that of the last clean stop where the death left it unused and the module has handled nothing since."
)


def _failed(failure: Failure) -> list[str]:
    return [
        f"- killed at: `{failure.name}`",
        f"- expected: {_cell(failure.expected)}",
        f"- found: {_cell(failure.found)}",
        f"- kept: `{failure.kept}`",
        f"- again: `{failure.replay}`",
        "",
    ]


def _table(left: str, right: str, rows: Mapping[str, str]) -> list[str]:
    return [
        f"| {left} | {right} |",
        "|---|---|",
        *(f"| {name} | {_cell(text)} |" for name, text in rows.items()),
        "",
    ]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
