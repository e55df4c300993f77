"""A kill at the N-th system call that may reach the disk, of any process: all old or all new, and a store that works.

No failpoint is on: `killer.c` follows the host, the push, Git, the hooks and the command, and counts their calls that
change the deployment. Killed is the process that makes the call (a host, or one Git of a push), or all of them, as in a
power cut, except that what the kernel was given is not lost: no kill can show a missing sync.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.control.client import ControlError
from orchestrator.control.doctor.examine import examine
from orchestrator.control.doctor.place import running_host
from repo_store.locks import locks
from tests.crash import killer
from tests.crash.aftermath import check
from tests.crash.conftest import FIGURE, Bases
from tests.crash.scenarios import MODULES, START, all_in, prepare_release
from tests.crash.victim import Scenario, Victim
from tests.stories.deployment import wait_until

GOLDEN = Path(__file__).with_name("golden.py")


def _run_of(modules: tuple[str, ...]) -> Scenario:
    """A golden run that deploys these modules and rolls them back."""
    back = tuple(f"{name}/v1.1.1" for name in modules)
    asked = tuple(f"{name}/v1.1.0" for name in modules)
    new = all_in("1.0.0") | dict.fromkeys(modules, "1.1.0 calm")
    return Scenario(
        f"golden run of {len(modules)}",
        None,
        all_in("1.0.0"),
        new,
        (*asked, *back),
        back,
        before=all_in("1.0.0"),  # where the rollback has recorded its quarantine
    )


OF_TWO = _run_of(("egg", "hen"))
OF_FIVE = _run_of(MODULES)
CALLS_OF_TWO = 400  # about: a kill that is meant for later than the end is a run in which nobody dies
EVERY = 4  # in the long programme: each fourth call of the golden run, once for each of
WHOM = ("one", "all")
PARTS = 4
QUICK_KILLS = 8


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killer.build(tmp_path_factory.mktemp("killer"))


class Runs:
    """Golden runs that are killed, each on a fresh copy of the base."""

    def __init__(self, program: Path, bases: Bases, folder: Path, scenario: Scenario) -> None:
        self._scenario = scenario
        self._modules = tuple(tag.partition("/")[0] for tag in scenario.beyond)
        self._program = program
        self._bases = bases
        self._log = folder / "calls"
        self._total: int | None = None
        self.ends: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many calls the whole golden run makes."""
        if self._total is None:
            with self._run(0, "one") as (victim, code):
                assert code == 0
                assert check(victim, self._scenario) == "old", "it ends rolled back"
                self._total = len(killer.calls(self._log))
            assert self._total > 200, f"void: only {self._total} calls were counted"
        return self._total

    def kill(self, when: int, whom: str) -> None:
        """Kill at that call, and see that all is right then."""
        with self._run(when, whom) as (victim, _):
            at = " ".join(killer.calls(self._log)[-1])
            try:
                left = mend_locks(victim)
                side = check(victim, self._scenario)
            except (AssertionError, ControlError) as error:
                raise AssertionError(
                    f"after a kill of {whom} at call {when} ({at}): {error}\n{victim.said()[-3000:]}"
                ) from error
            self.ends[f"{side}{' after a lock was removed' if left else ''}"] += 1

    @contextmanager
    def _run(self, when: int, whom: str) -> Iterator[tuple[Victim, int]]:
        with self._bases.victim(START) as victim:
            victim.calm()
            tags = prepare_release(victim, "1.1.0", self._modules)
            paths = map(str, (GOLDEN, victim.path, victim.work.path, victim.log))
            command = [sys.executable, *paths, "main", *tags]
            code = killer.run_under(self._program, victim.path, when, whom, self._log, command, victim._env())
            wait_until(lambda: running_host(victim.place) is None, "all processes are gone")
            yield victim, code


def mend_locks(victim: Victim) -> bool:
    """As an operator does a minute later: the doctor says which locks a killed Git has left, and removes them."""
    found = locks(victim.place.store)
    for lock in found:
        os.utime(lock, (0, 0))
    for finding in examine(victim.place).findings:
        if finding.check == "locks" and found:
            assert not finding.ok
            assert finding.repair is not None
            finding.repair()
    assert locks(victim.place.store) == []
    return bool(found)


@pytest.fixture
def killing(program: Path, bases: Bases, tmp_path: Path) -> Callable[[Scenario], Runs]:
    return lambda scenario: Runs(program, bases, tmp_path, scenario)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whom", WHOM)
def test_a_kill_at_any_system_call_leaves_all_old_or_all_new(
    killing: Callable[[Scenario], Runs], whom: str
) -> None:
    """Calls chosen by a seed that is printed."""
    runs = killing(OF_TWO)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chosen = random.Random(seed).sample(range(1, CALLS_OF_TWO), QUICK_KILLS // len(WHOM))  # noqa: S311  # to be repeated
    for when in chosen:
        runs.kill(when, whom)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("whom", WHOM)
def test_a_kill_at_every_nth_system_call_leaves_all_old_or_all_new(
    killing: Callable[[Scenario], Runs], whom: str, part: int, record_property: Callable[[str, object], None]
) -> None:
    runs = killing(OF_FIVE)
    first = 1 + WHOM.index(whom) * EVERY // len(WHOM)
    wrong = []
    for when in list(range(first, runs.total + 1, EVERY))[part::PARTS]:
        try:
            runs.kill(when, whom)
        except AssertionError as error:
            wrong.append(str(error))
    ends = {**runs.ends, **({"WRONG": len(wrong)} if wrong else {})}
    record_property(f"{FIGURE}SIGKILL of {whom} at every {EVERY}th of {runs.total} system calls", ends)
    assert wrong == []
