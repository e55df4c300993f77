"""Which points are killed at and in which order, and what came of it. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from orchestrator.control.selftest.cases import Case, Point


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill to be tried: in this scenario, at this point, the `number`-th time that it is reached."""

    case: Case
    point: str
    number: int

    @property
    def name(self) -> str:
        """As `--points` takes it."""
        return f"{self.case.name}/{self.point}/{self.number}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one kill. `side`: "old", "new", or "not reached" where this run took another way."""

    scenario: str
    point: str
    number: int
    side: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.scenario}/{self.point}/{self.number}"


@dataclass(frozen=True, slots=True)
class Failure:
    """The first kill after which something claimed did not hold."""

    name: str
    expected: str
    found: str
    kept: str = ""
    replay: str = ""


def kills(cases: Iterable[Case], glob: str) -> list[Kill]:
    """All kills whose name or point matches `glob`, each scenario's in their order; empty `glob`: all."""
    found = [Kill(case, *point) for case in cases for point in case.points]
    return [
        kill for kill in found if not glob or fnmatchcase(kill.name, glob) or fnmatchcase(kill.point, glob)
    ]


def may_match(scenario: str, glob: str) -> bool:
    """Whether a kill of this scenario can match `glob`, whatever its point is."""
    named, slash, _ = glob.partition("/")
    return not slash or fnmatchcase(scenario, named)


def in_order_of_worth(found: Sequence[Kill]) -> list[Kill]:
    """The same kills, so that any first part of them is spread well over scenarios and steps.

    The scenarios take turns. In each the points around the decision come first, then those of steps not seen yet, then
    the rest: a run that is cut short has killed on both sides of the commit record.
    """
    rows: dict[str, list[Kill]] = {}
    for kill in found:
        rows.setdefault(kill.case.name, []).append(kill)
    for name, row in rows.items():
        rows[name] = _by_worth(row)
    turns = max(map(len, rows.values()), default=0)
    return [row[turn] for turn in range(turns) for row in rows.values() if turn < len(row)]


def _by_worth(row: list[Kill]) -> list[Kill]:
    around = _around_the_decision(row[0].case.points)
    first = [kill for kill in row if (kill.point, kill.number) in around]
    first = [*first[-1:], *first[:-1]]  # one on each side of the decision before all others
    rest = [kill for kill in row if kill not in first]
    seen: set[str] = set()
    fresh: list[Kill] = []
    again: list[Kill] = []
    for kill in _spread(rest):
        (again if kill.point in seen else fresh).append(kill)
        seen.add(kill.point)
    return [*first, *fresh, *again]


def _around_the_decision(points: Sequence[Point]) -> list[Point]:
    """From the record of the switch to the sync that makes it the decision."""
    if ("switch.record:before", 1) not in points:
        return []
    begin = points.index(("switch.record:before", 1))
    syncs = [
        index for index, (point, _) in enumerate(points) if point == "journal.sync:after" and index > begin
    ]
    return list(points[begin : syncs[0] + 1]) if syncs else []


def _spread(row: Sequence[Kill]) -> list[Kill]:
    """The middle, then the middles of both halves, and so on."""
    found: list[Kill] = []
    parts = [(0, len(row))]
    while parts:
        begin, end = parts.pop(0)
        if begin < end:
            middle = (begin + end) // 2
            found.append(row[middle])
            parts += [(begin, middle), (middle + 1, end)]
    return found
