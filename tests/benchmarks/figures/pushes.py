"""Figures 12 and 17: from `git push` to the first answer of the new version, and what the event loop notices of a large one."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns, sleep

from orchestrator.control.client import ControlError
from orchestrator.upgrade.trial_keepers import REST_S
from tests.benchmarks.harness import Bench, Row, Values
from tests.benchmarks.peers.answer import Measured
from tests.git_fixtures import bare_store, clean_environment
from tests.stories.deployment import Deployment, deployed

FILES = 50
LARGE = 200
POLL_S = 0.001
AT_REST_S = (
    1.5 * REST_S
)  # who pushes does not do so each second: the host has got ready for the next push by then
NEVER_S = 30.0

COUNTER = """
    from livetag import Module, handles

    from . import part0

    NUMBER = {number}

    class Counter(Module):
        def initial_state(self):
            return {{"total": 0}}

        @handles
        def tick(self) -> int:
            self.state["total"] += 1
            return self.state["total"]

        @handles("number")
        def on_number(self) -> int:
            return NUMBER
"""
PART = """
    from typing import NamedTuple

    class Row{part}(NamedTuple):
        name: str
        count: int = {number}

    def work{part}(rows: list[Row{part}]) -> dict[str, int]:
        found: dict[str, int] = {{}}
        for row in rows:
            found[row.name] = found.get(row.name, 0) + row.count
        return found
"""
METER = """
    import asyncio
    from time import perf_counter_ns

    from livetag import Module, handles

    class Meter(Module):
        def initial_state(self):
            return {}

        @handles
        async def watch(self, seconds: float) -> list[int]:
            \"\"\"The longest times that the loop was late for a beat of a millisecond, in ns.\"\"\"
            end = perf_counter_ns() + int(seconds * 1e9)
            late = []
            last = perf_counter_ns()
            while last < end:
                await asyncio.sleep(0.001)
                now = perf_counter_ns()
                late.append(now - last - 1_000_000)
                last = now
            return sorted(late)[-1:]
"""
PHASES = (
    ("received and planned", re.compile(r": planned: (?!tried)")),
    ("tried out", re.compile(r": planned: tried out")),
    ("prepared", re.compile(r": prepared: ")),
    ("live", re.compile(r": live: ")),
)


class Release:
    """A deployment, and a plain bare repository beside it that gets the same pushes."""

    def __init__(self, deployment: Deployment, plain: Path, files: int) -> None:
        self._deployment = deployment
        self._files = files
        self._number = 0
        deployment.work.git("remote", "add", "plain", str(plain))
        self._commits: list[tuple[int, str]] = []
        for _ in range(3):
            self.new()

    def _write(self, number: int) -> str:
        files = {f"part{part}.py": PART.format(part=part, number=number) for part in range(self._files - 1)}
        self._deployment.write("counter", {"__init__.py": COUNTER.format(number=number), **files})
        return self._deployment.work.commit()

    def _tag(self, commit: str) -> str:
        self._number += 1
        name = f"counter/v1.0.{self._number}"
        self._deployment.work.tag(name, commit, annotate=f"release {self._number}")
        return f"refs/tags/{name}"

    def new(self, *options: str) -> Measured:
        """A new commit, all of whose files changed, under an annotated tag."""
        number = self._number + 1
        commit = self._write(number)
        self._commits.append((number, commit))
        return self._both(number, self._tag(commit), options)

    def staged(self, *options: str) -> Measured:
        """A tag on a commit before the last: its files lie staged and byte-compiled."""
        self._commits.append(self._commits.pop(-2))
        number, commit = self._commits[-1]
        return self._both(number, self._tag(commit), options)

    def _both(self, number: int, ref: str, options: Sequence[str]) -> Measured:
        plain = self._push("plain", ref)[0]
        began = perf_counter_ns()
        answered = FirstAnswer(self._deployment, number)
        pushed, phases = self._push("live", *options, ref)
        return {"plain": [plain], "push": [pushed], "answer": [answered.wait() - began], **phases}

    def _push(self, remote: str, *words: str) -> tuple[float, dict[str, list[float]]]:
        """How long the push took; when it printed which phase."""
        phases: dict[str, list[float]] = {}
        began = perf_counter_ns()
        command = ["git", "push", remote, *words]
        with subprocess.Popen(
            command,
            cwd=self._deployment.work.path,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as push:
            assert push.stderr is not None
            said = []
            for told in push.stderr:
                said.append(told)
                for name, pattern in PHASES:
                    if pattern.search(told):
                        phases.setdefault(name, []).append(float(perf_counter_ns() - began))
        assert push.returncode == 0, "".join(said)
        return float(perf_counter_ns() - began), phases


class FirstAnswer:
    """Asks until the version with a number answers."""

    def __init__(self, deployment: Deployment, number: int) -> None:
        self._deployment, self._number = deployment, number
        self._at = 0
        self._thread = threading.Thread(target=self._ask, name="first answer")
        self._thread.start()

    def _ask(self) -> None:
        while not self._at:
            try:
                if self._deployment.ask("counter", "number") == self._number:
                    self._at = perf_counter_ns()
            except ControlError:
                pass  # the first of all: nobody has that name yet
            sleep(POLL_S)

    def wait(self) -> float:
        self._thread.join(NEVER_S)
        assert self._at, f"number {self._number} never answered"
        return float(self._at)


def figure_12(bench: Bench) -> list[Row]:
    folder = bench.scratch("push")
    plain = folder / "plain.git"
    folder.mkdir(parents=True)
    with bare_store(plain), deployed(folder / "live") as deployment:
        release = Release(deployment, plain, bench.size(FILES, 5))
        at_rest_s = 0.0 if bench.quick else AT_REST_S
        found = bench.in_turn(
            bench.size(15, 1),
            {
                "new": lambda: _after(at_rest_s, release.new),
                "new, not awaited": lambda: _after(at_rest_s, lambda: release.new("-o", "no-wait")),
                "staged": lambda: _after(at_rest_s, release.staged),
                "staged, not awaited": lambda: _after(at_rest_s, lambda: release.staged("-o", "no-wait")),
            },
        )
    rows = []
    for name, said in (("new", "new"), ("staged", "staged before")):
        each = found[name]
        for phase, _ in PHASES:
            rows.append(
                Row(12, each.of(phase, f"{said}: push → {phase}"), each.of("plain", "plain push"), unit="ms")
            )
        answered = each.of("answer", f"{said}: push → first answer")
        rows.append(
            Row(12, answered, each.of("plain", "the same push to a plain repository"), aim=1.6, unit="ms")
        )
        rows.append(Row(12, answered, each.of("push", "the push itself, which waits for it"), unit="ms"))
        free = found[f"{name}, not awaited"]
        rows.append(
            Row(
                12,
                free.of("answer", f"{said}, -o no-wait: push → first answer"),
                free.of("push", "the push itself, which does not wait"),
                aim=1.6,
                unit="ms",
            )
        )
    return rows


def _after(seconds: float, push: Callable[[], Measured]) -> Measured:
    sleep(seconds)
    return push()


def figure_17(bench: Bench) -> list[Row]:
    """The event loop of a real host, while a large release is staged, tried and loaded, and while nothing is."""
    folder = bench.scratch("stall")
    plain = folder / "plain.git"
    folder.mkdir(parents=True)
    span_s = 0.5 if bench.quick else 2.0
    with bare_store(plain), deployed(folder / "live") as deployment:
        deployment.deploy("meter/v1.0.0", meter=METER)
        release = Release(deployment, plain, bench.size(LARGE, 5))

        def watched(work: threading.Thread | None) -> list[float]:
            if work is not None:
                work.start()
            late: list[float] = deployment.call(
                "ask", name="meter", type="watch", body={"seconds": span_s}, timeout_s=30.0
            )
            if work is not None:
                work.join()
            return late

        found = bench.in_turn(
            bench.size(8, 1),
            {
                "with": lambda: {"late": watched(threading.Thread(target=release.new))},
                "without": lambda: {"late": watched(None)},
            },
        )
    stalls = Values(f"worst stall of the loop, {LARGE} files pushed", found["with"].lists.get("late", ()))
    return [Row(17, stalls, found["without"].of("late", "worst without"), aim=3, unit="ms")]
