"""Numbered messages flow without a break through upgrades and rollbacks whose state changes shape, by real tags."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.stories.deployment import Deployment, wait_until
from tests.stories.load_modules import APP, LANES, lane, sink

HELD_SHARE_MIN = 0.9  # a run in which fewer switches had messages waiting shows nothing
SEED = 2002


@pytest.mark.parametrize(
    ("switch_count", "undone_count"),
    [
        pytest.param(50, 5, marks=pytest.mark.timeout(150)),
        pytest.param(400, 40, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_nothing_is_lost_doubled_or_reordered_through_many_switches(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], switch_count: int, undone_count: int
) -> None:
    choose = random.Random(SEED)  # noqa: S311  # no secret: the same switches in every run
    commits = releases(deployment)
    done = deployment.push("main", "app/v1.0.0", "sink/v1.0.0", "lane/v1.0.0")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: total(deployment.ask("sink", "report")) > 1000, "messages flow")

    undone = set(
        choose.sample(range(1, switch_count + 1), undone_count)
    )  # these fail in the middle of the switch
    shape = 1
    for number in range(1, switch_count + 1):
        if number in undone:
            trip(deployment, number, shape)
            continue
        shape = choose.choice([each for each in commits if each != shape])
        tags = [f"sink/v1.0.{number}", *([f"lane/v1.0.{number}"] if number % 5 == 0 else [])]
        for tag in tags:
            deployment.work.tag(tag, commits[shape])
        pushed = deployment.push(*tags)
        assert pushed.returncode == 0, pushed.stderr
        assert deployment.status()["modules"]["sink"]["state_version"] == shape

    report = drained(deployment)
    sent = {name: deployment.ask(name, "sent") for name in LANES}
    switches = [txn for txn in deployment.call("history", limit=5000) if txn["pause_us"] > 0][:-1]
    with capsys.disabled():
        print(f"\n{told(report, sent, switches)}")  # noqa: T201  # the figure of the run

    assert [txn["outcome"] for txn in switches].count("rolled_back") == undone_count
    assert len(switches) == switch_count
    assert report["missing"] == {name: [] for name in LANES}, "lost"
    assert report["twice"] == 0
    assert report["reordered"] == 0
    assert {name: handled for name, (_, handled) in report["lanes"].items()} == sent
    assert {name: following for name, (following, _) in report["lanes"].items()} == sent
    assert deployment.call("dead_letters", action="list") == []
    held = sum(txn["held_messages"] > 0 for txn in switches)
    assert held >= HELD_SHARE_MIN * len(switches), "void: too few switches had messages waiting"


def releases(deployment: Deployment) -> dict[int, str]:
    """Commit the three shapes, each with a producer of its own variant; return shape → commit id."""
    deployment.work.write("app.toml", APP)
    commits = {}
    for shape in (3, 2, 1):
        deployment.write("sink", sink(shape))
        deployment.write("lane", lane(variant=shape % 2))
        commits[shape] = deployment.release(message=f"shape {shape}")
    for tag in ("app/v1.0.0", "sink/v1.0.0", "lane/v1.0.0"):
        deployment.work.tag(tag, commits[1])
    return commits


def trip(deployment: Deployment, number: int, shape: int) -> None:
    """Push a version whose switch fails half-way; the one in service goes on with its state."""
    deployment.write("sink", sink(shape, trips=number))
    tag = f"sink/v1.0.{number}"
    deployment.release(tag)
    pushed = deployment.push("main", tag)
    assert pushed.returncode == 1, pushed.stderr
    assert "tripped in the switch" in pushed.stderr
    assert deployment.ask("sink", "report")["shape"] == shape


def drained(deployment: Deployment) -> Mapping[str, Any]:
    """Close the taps, and return the sink's report once it stands still at what was sent."""
    for name in LANES:
        deployment.ask(name, "close")
    reports: list[Mapping[str, Any]] = []

    def stands_still() -> bool:
        modules = deployment.status()["modules"]
        reports.append(deployment.ask("sink", "report"))
        return (
            all(modules[name]["mailbox"]["length"] == 0 for name in ("sink", *LANES))
            and reports[-2:-1] == reports[-1:]
        )

    wait_until(stands_still, "all mailboxes are empty", 20)
    return reports[-1]


def total(report: Mapping[str, Any]) -> int:
    return sum(handled for _, handled in report["lanes"].values())


def told(report: Mapping[str, Any], sent: Mapping[str, int], switches: list[Mapping[str, Any]]) -> str:
    """Say the run's figures on one line."""
    pauses = sorted(txn["pause_us"] for txn in switches)
    held = sorted(txn["held_messages"] for txn in switches)
    some = sum(count > 0 for count in held)
    undone = [txn["outcome"] for txn in switches].count("rolled_back")
    lost = sum(map(len, report["missing"].values()))
    return (
        f"{len(switches)} switches ({undone} undone), {sum(sent.values())} messages: lost {lost}, twice {report['twice']}, "
        f"reordered {report['reordered']}; messages waited at {some} of {len(switches)} switches "
        f"(median {held[len(held) // 2]}); pause median {pauses[len(pauses) // 2]:.0f} µs, worst {pauses[-1]:.0f} µs"
    )
