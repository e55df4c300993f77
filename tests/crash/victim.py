"""A real host that is made to die, fail or wait at a named point, and the restart that has to put it right."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.control.client import ControlError
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.ledger import Ledger, fold
from repo_store import failpoints
from tests.git_fixtures import clean_environment
from tests.stories.deployment import Deployment, wait_until

Served = dict[str, str]
"""Module → what its code says about itself: version and config."""

SCENARIO_S = 40.0
SETTLE_S = 0.3  # a start of a victim has lasted after this


class Victim(Deployment):
    """A deployment whose host and hooks have their failpoints on."""

    def __init__(self, path: Path, like: Deployment | None = None) -> None:
        super().__init__(path, like)
        self.plan_file = self.path / failpoints.PLAN_NAME
        self.trace_file = self.path / failpoints.LOG_NAME
        self.aim("")
        self.env = {failpoints.VARIABLE: "1"}
        self.place.config_file.write_text(f"[host]\nsettle_s = {SETTLE_S}\n")

    def aim(self, plan: str) -> None:
        """Write the plan of the failpoints, and forget what was reached so far."""
        self.plan_file.write_text(plan)
        self.trace_file.write_text("")

    def trace(self) -> list[tuple[str, int]]:
        """Every point that was reached since `aim`, in order: its name, and the how manieth time."""
        counts: Counter[str] = Counter()
        found = []
        for line in self.trace_file.read_text().splitlines():
            point = line.split()[0]
            counts[point] += 1
            found.append((point, counts[point]))
        return found

    def calm(self) -> None:
        """From the next start on, nothing dies on purpose any more."""
        self.env = {}

    def begin(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a push or a command beside the test."""
        return subprocess.Popen(
            command,
            cwd=self.work.path,
            env={**clean_environment(), **self.env, "LIVETAG_DIR": str(self.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begin_push(self, *refs: str) -> subprocess.Popen[str]:
        return self.begin(["git", "push", "live", *refs])

    def begin_command(self, *arguments: str) -> subprocess.Popen[str]:
        return self.begin([sys.executable, "-m", "livetag", *arguments])

    @property
    def dead(self) -> bool:
        return self.host is None or self.host.poll() is not None

    def buried(self) -> None:
        """Let go of the host that has died."""
        if self.host is not None:
            self.host.wait(20)
            self.host = None

    def ledger(self) -> Ledger:
        """What the journal of the dead host says."""
        journal = Journal.open(self.place.journal, time.time)
        try:
            return fold(journal.records())
        finally:
            journal.close()

    def serves(self) -> Served:
        """What the code in service says, module by module."""
        return {name: self.ask(name, "loaded") for name in self.status()["modules"]}


def table_of(ledger: Ledger) -> Served:
    """The release table in the words of `Victim.serves`."""
    return {name: f"{entry.version} {entry.config.get('mood', '-')}" for name, entry in ledger.table.items()}


@dataclass(frozen=True)
class Scenario:
    """Something that changes a deployment on disk.

    `drive` begins it and returns the process that carries it; None: the start of the host is the scenario. `old` and
    `new` are what may serve afterwards, `tags` the tags that ask for the new (deleted where the journal says old, so
    that the old is seen to serve).
    """

    name: str
    drive: Callable[[Victim], subprocess.Popen[str]] | None
    old: Served
    new: Served
    tags: tuple[str, ...] = ()
    further: str = "hen/v1.9.0"
    ready: Callable[[Victim], None] = field(default=lambda _victim: None)
    stops: bool = False  # the scenario ends with the host's end
    before: Served | None = (
        None  # what the host goes back to once a second death has quarantined the release in service
    )


def run(victim: Victim, scenario: Scenario, plan: str) -> str:
    """Carry the scenario out under the plan; returns "died", or "lived" if the host and the scenario came to their end."""
    scenario.ready(victim)
    if scenario.drive is None:
        victim.aim(plan)
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead or victim.answers(), "the host answers or dies", SCENARIO_S)
        process = None
    else:
        victim.aim("")
        victim.start()
        wait_until(lambda: _has_settled(victim) and _at_rest(victim), "the host is at rest")
        victim.aim(plan)
        process = scenario.drive(victim)
        wait_until(lambda: process.poll() is not None, "the push or command ends", SCENARIO_S)
        process.communicate()
    if not victim.dead:
        wait_until(lambda: victim.dead or _at_rest(victim), "the host dies or comes to rest", SCENARIO_S)
    if scenario.drive is None:
        wait_until(lambda: victim.dead or _has_settled(victim), "the host dies or settles", SCENARIO_S)
    if scenario.stops:
        wait_until(lambda: victim.dead, "the host ends", SCENARIO_S)
    if victim.dead:
        assert victim.host is not None
        code = victim.host.wait()
        victim.buried()
        return "died" if code < 0 else f"ended with {code}"
    return "lived"


def _has_settled(victim: Victim) -> bool:
    return any(point == "recovery.settled:after" for point, _ in victim.trace())


def _at_rest(victim: Victim) -> bool:
    """Whether the history has caught up with the journal and nothing is under way, or nothing more will be recorded."""
    try:
        status, history = victim.status(), victim.history()
    except ControlError:  # it is dying, which the caller looks for
        return victim.dead
    problem = status["problem"] or ""
    if "restart the host" in problem or "a bug in livetag" in problem:
        return True  # nothing more is recorded, or nothing more is done until somebody asks
    ended = status["transaction"] is None and status["problem"] is None
    return ended and len(victim.deployments()) == len(history)


def check(victim: Victim, scenario: Scenario) -> str:
    """All that must hold after a death: returns "old" or "new"."""
    victim.calm()
    ledger = victim.ledger()
    table = table_of(ledger)
    assert table in (scenario.old, scenario.new), f"mixed on disk: {table}"
    side = "new" if table == scenario.new else "old"
    if side == "old":
        present = [tag for tag in scenario.tags if tag in victim.tags()]
        if present:
            victim.git("tag", "-d", *present)  # nothing asks for the new any more: the old is seen to serve
    for start in (1, 2):
        victim.start()
        if scenario.before is not None and victim.status()["quarantine"]:
            table = scenario.before
            wait_until(lambda: victim.serves() == scenario.before, "it goes back to what served before")
        assert victim.serves() == table, f"start {start}: {victim.said()[-2000:]}"
        wait_until(lambda: derived_equals_journal(victim), f"start {start}: Git says what the journal says")
        assert victim.status()["transaction"] is None
        if start == 1:
            victim.kill()
    further = f"{scenario.further.partition('/')[0]}"
    victim.write(further, voice("further"))
    victim.release(scenario.further, message="further")
    pushed = victim.push("main", scenario.further, force=True)
    assert pushed.returncode == 0, pushed.stderr
    assert victim.ask(further, "loaded").startswith("further")
    victim.stop()
    return side


def derived_equals_journal(victim: Victim) -> bool:
    """Whether `git log deployments` and refs/live/* are what the journal says."""
    told = [
        (row["id"], row["outcome"].replace("reverted", "committed")) for row in reversed(victim.history())
    ]
    shown = [row["Outcome"][0] for row in victim.deployments()]
    if [outcome for _, outcome in told] != shown:
        return False
    rows = victim.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/live").splitlines()
    live = dict(row.split(" ", 1) for row in rows)
    modules: Mapping[str, Mapping[str, str]] = victim.status()["modules"]
    return live == {name: row["commit"] for name, row in modules.items()}


def voice(version: str) -> str:
    """A module that says which code and which config of it is loaded, and counts."""
    return f"""
        from livetag import Module, handles

        class Voice(Module):
            def initial_state(self):
                return {{"asked": 0}}

            @handles
            def loaded(self) -> str:
                self.state["asked"] += 1
                return {version!r} + " " + self.config.get("mood", "-")
    """
