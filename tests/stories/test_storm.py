"""Tags that move faster than anything can be deployed: the last word counts, and the host takes it calmly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from tests.stories.deployment import Deployment, wait_until
from tests.stories.footprint import Footprint

STORM = 1000
STORM_S = 4.0  # what takes longer than that for its moves is no storm
TRIES = 5
TRANSACTIONS_MAX = 3  # for a second of storm: on a busy machine it lasts longer
GROWTH_BYTES_MAX = 20_000_000
RECORDS_A_TAG_MAX = 3  # of the journal, for each tag that was touched, whatever the number of its moves
SLOWER_MAX = 4.0  # a release after a storm, against one before
TAG = "counter/v1.0.0"


def counter(name: str, prepare_s: float = 0.0) -> str:
    return f"""
        import asyncio

        from livetag import Module, handles

        class Counter(Module):
            def initial_state(self):
                return {{"total": 0}}

            async def prepare(self):
                await asyncio.sleep({prepare_s})

            @handles
            def tick(self) -> list:
                self.state["total"] += 1
                return [{name!r}, self.state["total"]]
    """


@dataclass(frozen=True)
class Weather:
    """What a storm cost."""

    seconds: float  # of the storm itself
    calm_s: float  # from its end until the last word was live and nothing was under way
    transactions: int
    grown_bytes: int  # of the host's resident memory
    journal_bytes: int
    records: int

    def __str__(self) -> str:
        return (
            f"{STORM} in {self.seconds:.2f} s, calm {self.calm_s:.2f} s later: {self.transactions} transactions, "
            f"{self.grown_bytes / 1e6:+.1f} MB of the host, {self.records} records, {self.journal_bytes / 1e3:.0f} kB of journal"
        )


class Storms:
    """Makes storms on the store of a deployment, as a person on that machine could, and measures them."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.commits: dict[str, str] = {}
        self.said: list[str] = []
        for name in ("red", "green", "blue"):
            deployment.write("counter", counter(name))
            self.commits[name] = deployment.release(message=name)
        deployment.work.tag(TAG)
        assert deployment.push("main", TAG).returncode == 0
        self.at_rest()

    def tell(self, updates: Iterable[str], *, at_once: bool = False) -> float:
        """Run these commands of `git update-ref`, each as a change of its own unless `at_once`; returns the seconds."""
        lines = [f"{update}\n" for update in updates]
        parts = ["".join(lines)] if at_once else lines
        began = time.monotonic()
        self.deployment.work.git(
            f"--git-dir={self.deployment.place.store}",
            "update-ref",
            "--stdin",
            stdin="".join(f"start\n{part}commit\n" for part in parts),
        )
        return time.monotonic() - began

    def move(self, names: Iterable[str], tag: str = TAG) -> float:
        return self.tell(f"update refs/tags/{tag} {self.commits[name]}" for name in names)

    def storm(self, what: str, storm: Callable[[], float], last: str) -> None:
        """Raise it again while the machine is too busy to let it be one; each of them has to cost little, slow or not."""
        found = [self.weather(what, storm, last)]
        while found[-1].seconds > STORM_S and len(found) < TRIES:
            found.append(self.weather(f"{what}, again", storm, last))
        assert found[-1].seconds <= STORM_S, f"void: {TRIES} times it took longer than {STORM_S:g} s: {found}"

    def weather(self, what: str, storm: Callable[[], float], last: str, tags: int = 1) -> Weather:
        """Raise a storm that ends with this commit; see that it is live, and that it cost little for the time it took."""
        self.at_rest()  # else what went before is counted as the storm's
        before, records = Footprint.of(self.deployment), self._records()
        count = len(self.deployment.call("history", limit=5000))
        ticks = self.deployment.ask("counter", "tick")[1]
        seconds = storm()
        began = time.monotonic()
        wait_until(lambda: self._live() == self.commits[last], f"{what}: {last} is live", 30)
        self.at_rest()
        after = Footprint.of(self.deployment)
        found = Weather(
            seconds,
            time.monotonic() - began,
            len(self.deployment.call("history", limit=5000)) - count,
            after.resident_bytes - before.resident_bytes,
            after.journal_bytes - before.journal_bytes,
            self._records() - records,
        )
        self.said.append(f"{what}: {found}")
        assert self.deployment.ask("counter", "tick") == [last, ticks + 1], "with the state of all that time"
        assert found.transactions <= TRANSACTIONS_MAX * math.ceil(seconds), found
        assert found.grown_bytes <= GROWTH_BYTES_MAX, found
        # Beside its tags, a transaction has a handful.
        assert found.records <= RECORDS_A_TAG_MAX * tags + 6 * found.transactions, found
        return found

    def latency(self, name: str) -> float:
        """Seconds from a move of the tag to its commit in service."""
        began = time.monotonic()
        self.move([name])
        wait_until(lambda: self._live() == self.commits[name], f"{name} is live", 30)
        return time.monotonic() - began

    def at_rest(self) -> None:
        """Return once the host has done, and written down, all that the tags ask for."""
        self.deployment.call("push", changes=[{"ref": f"refs/tags/{TAG}"}], options=[], who="")
        wait_until(lambda: self.deployment.status()["transaction"] is None, "nothing is under way")
        live = self._live()
        wait_until(lambda: self.deployment.git("rev-parse", "refs/live/counter") == live, "git log has it")

    def _live(self) -> str:
        return str(self.deployment.status()["modules"]["counter"]["commit"])

    def _records(self) -> int:
        newest = self.deployment.git(
            "log", "-1", "--format=%(trailers:key=Journal-Seq,valueonly)", "deployments"
        )
        return int(newest)


@pytest.fixture
def storms(deployment: Deployment) -> Storms:
    return Storms(deployment)


def test_a_thousand_moves_tags_and_deletions_end_with_the_last_word_live_in_few_transactions(
    storms: Storms, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = ("red", "green", "blue")
    before = min(storms.latency(name) for name in ("red", "green"))
    storms.storm("moves", lambda: storms.move(colours[n % 3] for n in range(STORM)), colours[(STORM - 1) % 3])
    storms.storm("back and forth", lambda: storms.move(("green", "red")[n % 2] for n in range(STORM)), "red")
    tags = [f"refs/tags/counter/v2.0.{n}" for n in range(STORM)]
    commits = storms.commits
    storms.weather(
        "new tags",
        lambda: storms.tell(
            (f"create {tag} {commits[colours[(n + 1) % 3]]}" for n, tag in enumerate(tags)), at_once=True
        ),
        colours[STORM % 3],
        tags=STORM,
    )
    storms.weather(
        "deletions", lambda: storms.tell((f"delete {tag}" for tag in tags), at_once=True), "red", tags=STORM
    )
    assert {txn["outcome"] for txn in storms.deployment.history()} <= {"committed", "unchanged"}
    assert storms.deployment.status()["quarantine"] == []
    after = min(storms.latency(name) for name in ("green", "blue"))
    with capsys.disabled():
        print("\n" + "\n".join(storms.said))  # noqa: T201  # the figures
        print(f"from a move to its release: {before:.2f} s before, {after:.2f} s after")  # noqa: T201
    assert after < SLOWER_MAX * before + 0.5


def test_a_storm_while_a_transaction_runs_lets_it_end_and_then_brings_the_last_word(storms: Storms) -> None:
    deployment = storms.deployment
    deployment.write("counter", counter("slow", prepare_s=1.0))
    slow = deployment.release("counter/v1.1.0")
    deployment.work.run("push", "-o", "no-wait", "live", "counter/v1.1.0")
    wait_until(lambda: deployment.status()["transaction"] is not None, "it is under way", 30)

    def storm() -> float:
        return storms.move((("red", "green")[n % 2] for n in range(STORM)), "counter/v1.1.0")

    # What takes longer than the transaction has begun in it, and must end as well.
    storms.weather("in a transaction", storm, "green")
    first = next(txn for txn in reversed(deployment.history()) if txn["modules"][0]["commit"] == slow)
    assert first["outcome"] == "committed", "the pinned commit finished"
