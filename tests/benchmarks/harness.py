"""Measures two sides in turn, and keeps what was found. A figure is a ratio of medians taken in one run; nothing
is asserted about time here, the rows say themselves whether a ratio was reached.

A side is a child process (see peers/answer.py). While one is measured the others wait on their input, so that each has the
machine to itself, and a change of the machine's pace meets both alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from tests.benchmarks.peers.answer import Measured

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
UNITS = {"ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9, "kB": 1e3, "": 1.0}  # times are measured in nanoseconds


class Peers(Protocol):
    """Where the peers are; raises Missing for one that is not there."""

    def command(self, name: str) -> list[str]: ...
    def script(self, name: str) -> Path: ...
    def versions(self) -> dict[str, str]: ...


class Missing(Exception):
    """A peer is not on this machine; the message says what is missing, and how to have it."""


class Failed(Exception):
    """A side could not measure what it was asked."""


@dataclass(frozen=True)
class Values:
    """What was measured of one thing on one side."""

    what: str
    values: Sequence[float] = ()
    missing: str = ""  # why there is nothing

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@dataclass(frozen=True)
class Row:
    """One figure: ours and theirs, and the ratio to reach. `unit` "" means plain numbers."""

    figure: int
    ours: Values
    theirs: Values | None  # None: it is a number of ours that is to be reached itself
    aim: float | None = None  # None: told for comparison
    at_least: bool = False
    unit: str = "µs"
    note: str = ""
    or_ours: float | None = None  # reached as well if ours is at most this, in ns

    @property
    def missing(self) -> str:
        return self.ours.missing or (self.theirs.missing if self.theirs is not None else "")

    @property
    def ratio(self) -> float | None:
        if self.missing:
            return None
        if self.theirs is None:
            return self.ours.p50
        return self.ours.p50 / self.theirs.p50 if self.theirs.p50 else None

    @property
    def reached(self) -> bool | None:
        if self.ratio is None or self.aim is None:
            return None
        if self.or_ours is not None and self.ours.p50 <= self.or_ours:
            return True
        return self.ratio >= self.aim if self.at_least else self.ratio <= self.aim


class Side:
    """A process that measures."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as told:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True
            )
        self._log = log

    def measure(self, what: str) -> Measured:
        """Have it measure, and return name → values. Raises Failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"it has ended; see {self._log}") from None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"it ended while it measured {what!r}; see {self._log}")
        try:
            found = json.loads(line)
        except ValueError:
            raise Failed(f"{what}: it said {line.strip()[:200]!r}; see {self._log}") from None
        if "error" in found:
            raise Failed(f"{what}: {found['error']}; see {self._log}")
        return {name: [float(value) for value in values] for name, values in found.items()}

    def close(self) -> None:
        """Let it end; it has nothing to lose."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass
class Bench:
    """One run: where it writes, how long it takes, and its sides, each started when it is first needed."""

    folder: Path  # for what the figures write
    peers: Peers
    quick: bool = False
    _sides: dict[str, Side] = field(default_factory=dict)
    _begun: dict[Side, str] = field(default_factory=dict)
    _shared: dict[str, dict[str, Found]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_sides()

    @property
    def loop(self) -> str:
        """What a host's event loop is here."""
        return "uvloop" if find_spec("uvloop") else "asyncio"

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def end_sides(self) -> None:
        """End all processes that were started: the next figure begins on a quiet machine."""
        while self._sides:
            self._sides.popitem()[1].close()
        self._begun.clear()

    def once(self, side: Side, what: str) -> Side:
        """Have a side do this unless it is the last that it was told here."""
        if self._begun.get(side) != what:
            side.measure(what)
            self._begun[side] = what
        return side

    def shared(self, name: str, measure: Callable[[Bench], dict[str, Found]]) -> dict[str, Found]:
        """What two figures need is measured once."""
        if name not in self._shared:
            self._shared[name] = measure(self)
        return self._shared[name]

    def scratch(self, name: str) -> Path:
        """A folder for a side; it is empty when the run begins."""
        return self.folder / "scratch" / name

    def ours(self, name: str, *words: str) -> Side:
        """A side of ours: the file ours/<name>.py."""
        command = [sys.executable, "-m", f"tests.benchmarks.ours.{name}", *words]
        return self._side(" ".join(command), lambda: command)

    def peer(self, name: str) -> Side:
        """A peer. Raises Missing."""
        return self._side(name, lambda: self.peers.command(name))

    def _side(self, name: str, command: Callable[[], list[str]]) -> Side:
        if name not in self._sides:
            log = self.folder / "sides.log"
            self._sides[name] = Side(command(), log)
        return self._sides[name]

    def in_turn(self, rounds: int, measures: Mapping[str, Callable[[], Measured]]) -> dict[str, Found]:
        """Measure all in turn, so many times; a peer that is missing, or fails, is named and left out."""
        found = {name: Found(name) for name in measures}
        for _ in range(rounds):
            for name, measure in measures.items():
                if not found[name].missing:
                    found[name].take(measure)
        return found


@dataclass
class Found:
    """What one side has measured over all rounds."""

    side: str
    lists: dict[str, list[float]] = field(default_factory=dict)
    missing: str = ""

    def take(self, measure: Callable[[], Measured]) -> None:
        try:
            for name, values in measure().items():
                self.lists.setdefault(name, []).extend(values)
        except (Missing, Failed) as error:
            self.missing = str(error)

    def of(self, name: str, what: str = "") -> Values:
        """What it found under a name, shown as `what`."""
        shown = what or self.side
        return Values(shown, self.lists.get(name, ()), self.missing)
