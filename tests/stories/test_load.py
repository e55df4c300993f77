"""Numbered messages of six producers flow through upgrades of all kinds, at random moments, with trouble beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.stories.deployment import Deployment, wait_until
from tests.stories.footprint import Footprint
from tests.stories.load_ledger import handled, settle, told
from tests.stories.load_releases import Releases
from tests.stories.nemesis import Nemesis
from tests.stories.outside import Asker, Feed, Pulse, West

BEFORE_AN_UPGRADE_MIN = 200  # messages since the last: a run with fewer shows nothing
HELD_SHARE_MIN = 0.8  # of the switches that had messages waiting
BYTES_AN_UPGRADE_MAX = 200_000  # of three modules with what they are staged from; a leak of one is more
COME_AND_GO_MAX = 12  # descriptors and threads: callers, Git, executors
STALL_S = 1.0  # longer than the host is ever stopped


class Run(NamedTuple):
    """How long a run is, and its dice."""

    upgrades: int
    messages: int
    restarts: int
    seed: int


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[str]:
    """The socket of the feed that one of the modules reads."""
    made = Feed(tmp_path / "feed")
    yield str(tmp_path / "feed")
    made.close()


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(Run(20, 20_000, 0, 2002), id="short", marks=pytest.mark.timeout(600)),
        pytest.param(
            Run(200, 2_000_000, 4, 1), id="long", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
        ),
    ],
)
def test_no_message_is_lost_doubled_reordered_or_sees_two_releases_whatever_happens_beside_upgrades(
    feed: str,
    deployment: Deployment,
    capsys: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    choose = Random(run.seed)  # noqa: S311  # no secret: the same dice in every run
    deployment.stop()
    deployment.place.config_file.write_text(f"[host]\nstall_s = {STALL_S}\n")
    deployment.start()
    releases = Releases(deployment, choose, feed)
    releases.first()
    callers = (West(deployment), Pulse(deployment), Asker(deployment))
    for caller in callers:
        caller.start()
    nemesis = Nemesis(deployment, choose, callers[0])
    began = time.monotonic()
    schedule = Schedule(releases, nemesis, choose, run.upgrades)
    load = Load(deployment)
    restart_at = {run.upgrades * number // (run.restarts + 1) for number in range(1, run.restarts + 1)}
    for number in range(1, run.upgrades + 1):
        if number in restart_at:
            restarted(deployment)
            load.begin()
        threading.Event().wait(choose.uniform(0, 0.05))
        load.enough_before(number)
        schedule.upgrade(number)
        if number == run.upgrades // 2:
            halfway = Footprint.of(deployment)
    wait_until(lambda: load.total() >= run.messages, f"{run.messages} messages were handled", 1200)

    history = deployment.call("history", limit=5000)
    footprints = (halfway, Footprint.of(deployment))
    outcome = settle(deployment, callers, nemesis.toils)
    with capsys.disabled():
        print(f"\n{told(outcome, history, schedule.done, run.seed, time.monotonic() - began)}")  # noqa: T201  # its figures
        print("  host: {}; when half was done: {}".format(*reversed(footprints)))  # noqa: T201
    bad = (outcome.lost, outcome.doubled, outcome.reordered, outcome.mixed, outcome.corrupt)
    assert bad == (0, 0, 0, 0, 0)
    assert outcome.unexplained == []
    grown = footprints[1].resident_bytes - footprints[0].resident_bytes
    assert grown < BYTES_AN_UPGRADE_MAX * run.upgrades / 2, f"the host grew by {grown} bytes"
    assert footprints[1].descriptors <= footprints[0].descriptors + COME_AND_GO_MAX, footprints
    assert footprints[1].threads <= footprints[0].threads + COME_AND_GO_MAX, footprints
    switches = [txn for txn in history if txn["pause_us"] and txn["modules"][0]["module"] != "spare"]
    held = sum(txn["held_messages"] > 0 for txn in switches)
    assert held >= HELD_SHARE_MIN * len(switches), "void: too few switches had messages waiting"


class Schedule:
    """Deals kinds of upgrades and of trouble in a shuffled order in which each comes equally often."""

    def __init__(self, releases: Releases, nemesis: Nemesis, choose: Random, upgrades: int) -> None:
        self._releases, self._nemesis = releases, nemesis
        kinds = {**releases.kinds, **{n: self._broken(k) for n, k in releases.failing.items()}}
        self._kinds = kinds
        self._upgrades = _dealt(list(kinds), upgrades, choose)
        self._troubles = _dealt(list(nemesis.kinds), upgrades, choose)
        self.done = nemesis.done

    def upgrade(self, number: int) -> None:
        kind, trouble = self._upgrades[number - 1], self._troubles[number - 1]
        try:
            self._nemesis.beside(trouble, self._kinds[kind])
        except AssertionError as error:
            raise AssertionError(f"upgrade {number}: {kind}, beside it {trouble}: {error}") from error
        self.done[kind] += 1

    def _broken(self, kind: str) -> Callable[[], None]:
        return lambda: self._releases.broken(kind)


def _dealt(kinds: list[str], count: int, choose: Random) -> list[str]:
    """So many of these kinds, in rounds of all of them in another order each."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += choose.sample(kinds, len(kinds))
    return dealt[:count]


class Load:
    """Counts what the sink has handled, over starts of the host, too."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._earlier = 0
        self._now = self._last = 0
        wait_until(lambda: handled(deployment) > BEFORE_AN_UPGRADE_MIN, "messages flow")

    def begin(self) -> None:
        """A new host counts from 0."""
        self._earlier += self._now
        self._last = 0
        wait_until(lambda: handled(self._deployment) > BEFORE_AN_UPGRADE_MIN, "messages flow again", 20)

    def total(self) -> int:
        self._now = handled(self._deployment)
        return self._earlier + self._now

    def enough_before(self, number: int) -> None:
        self.total()
        since, self._last = self._now - self._last, self._now
        if since < BEFORE_AN_UPGRADE_MIN:
            pytest.fail(f"void: only {since} messages before upgrade {number}")


def restarted(deployment: Deployment) -> None:
    """A clean restart: state and mailboxes are kept."""
    since = deployment.status()["host"]["since"]
    done = deployment.livetag("restart")
    assert done.returncode == 0, done.stderr
    assert deployment.status()["host"]["since"] != since
