"""Deployments to be copied, made once; and the figures of the programme, added up over all workers."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.control.wire import reachable
from tests.crash.aftermath import left_by
from tests.crash.scenarios import MODULES, make_base
from tests.crash.victim import Scenario, Victim, run

FIGURE = "crash figure: "


class Bases:
    """The deployments that the scenarios begin from, and what each scenario does when nothing dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = make_base(path / "base")
        left = left_by(self._base)
        asked = {name: {"asked": 1, "notes": []} for name in MODULES}
        assert left.owed == asked | {"hen": {"asked": 1, "notes": [1, 2, 3]}}, (
            "its stop has saved all there was"
        )
        assert left.letters == 1
        self._ready: dict[str, Victim] = {}
        self._golden: dict[str, list[tuple[str, int]]] = {}
        self._copies = 0

    @contextmanager
    def victim(self, scenario: Scenario) -> Iterator[Victim]:
        """A fresh copy for one run of the scenario; nothing of it outlives the block."""
        self._copies += 1
        like = self._made_ready(scenario)
        victim = Victim(self._path / f"v{self._copies}", like)
        if like.place.socket.exists():
            _leave_socket(victim)
        _stay(victim)
        try:
            yield victim
        finally:
            victim.close()

    def _made_ready(self, scenario: Scenario) -> Victim:
        if scenario.name not in self._ready:
            made = Victim(self._path / f"ready{len(self._ready)}", self._base)
            try:
                scenario.ready(made)
            finally:
                made.close()
            self._ready[scenario.name] = made
        return self._ready[scenario.name]

    def golden(self, scenario: Scenario) -> list[tuple[str, int]]:
        """The points that the scenario reaches when nothing dies, in order: name, and the how manieth time."""
        if scenario.name not in self._golden:
            with self.victim(scenario) as victim:
                end = run(victim, scenario, "")
                assert end == ("ended with 0" if scenario.stops else "lived"), victim.said()
                self._golden[scenario.name] = victim.trace()
            assert self._golden[scenario.name], "void: no failpoint was reached"
        return self._golden[scenario.name]


def _stay(victim: Victim) -> None:
    """Have its host believe that it died here: a deployment that was copied holds no death against anybody."""
    box = victim.place.black_box
    if box.exists():
        found = json.loads(box.read_bytes())
        box.write_text(json.dumps({**found, "place": os.path.realpath(box)}))


def _leave_socket(victim: Victim) -> None:
    """As a killed host does; that of the copied deployment cannot be copied."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left, reachable(victim.place.socket) as address:
        left.bind(address)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("crash"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the tests have recorded as properties: `FIGURE` + what → counts by outcome, or a text."""
    sums: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, ends in getattr(report, "user_properties", ()):
                    if name.startswith(FIGURE):
                        sums.setdefault(name.removeprefix(FIGURE), Counter()).update(ends)
    if sums:
        terminalreporter.section("crash programme")
        for name, ends in sums.items():
            told = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
            terminalreporter.line(f"{name}: {sum(ends.values())} runs: {told}")
