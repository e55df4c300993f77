"""The demo: it holds, each of its checks can fail, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import livetag
from orchestrator.control.demo import checks, run, run_demo
from orchestrator.control.demo.facts import Facts, Mailbox, Seen, Step
from orchestrator.control.demo.playground import DemoFailed, Playground
from orchestrator.control.demo.reference import read_straight
from sample_app import feed

ROOT = Path(livetag.__file__).parent
FEED_2016 = ROOT.parent / "shared" / "data" / "bgp" / "mrt" / "ris_updates_20160811_1600.gz"

SEEN = Seen(100, {"announced": 7}, [{"prefix": "203.0.113.0/24"}])
GOOD = Step(
    "good", "rib/v1.1.0", "rib", "1.1.0", good=True, before="1.0.0", after="1.1.0", pause_us=50.0,
    handled_before=10, handled_after=20, outcome="committed",
)  # fmt: skip
BROKEN = replace(
    GOOD, tag="rib/v1.2.0", expected="1.2.0", good=False, before="1.1.0", exit_code=1, tag_stays=False
)
HELD = Facts(
    steps=(GOOD, BROKEN),
    mailboxes={"rib": Mailbox(30, 30, 0, 0)},
    expected=SEEN,
    seen=SEEN,
    availability=0.9999,
    log=("one", "two"),
    decided=2,
    host_exit_code=0,
    seconds=9.0,
)


def with_step(index: int, **changes: Any) -> Facts:
    steps = [*HELD.steps]
    steps[index] = replace(steps[index], **changes)
    return replace(HELD, steps=tuple(steps))


def with_mailbox(*numbers: int) -> Facts:
    return replace(HELD, mailboxes={"rib": Mailbox(*numbers)})


BREAKS: list[tuple[checks.Check, Facts]] = [
    (checks.good_pushes_went_live, with_step(0, exit_code=1)),
    (checks.good_pushes_went_live, with_step(0, after="1.0.0")),
    (checks.good_pushes_went_live, with_step(0, tag_stays=False)),
    (checks.good_pushes_went_live, replace(HELD, steps=(BROKEN,))),
    (checks.broken_push_was_refused, with_step(1, exit_code=0)),
    (checks.broken_push_was_refused, with_step(1, tag_stays=True)),
    (checks.broken_push_was_refused, with_step(1, after="1.2.0")),
    (checks.broken_push_was_refused, replace(HELD, steps=(GOOD,))),
    (checks.messages_flowed_meanwhile, with_step(0, handled_after=10)),
    (checks.messages_flowed_meanwhile, with_step(1, feed_ended=True)),
    (checks.nothing_was_lost, with_mailbox(30, 29, 0, 0)),
    (checks.nothing_was_lost, with_mailbox(30, 29, 0, 1)),
    (checks.nothing_was_lost, with_mailbox(30, 29, 1, 0)),
    (checks.nothing_was_lost, replace(HELD, mailboxes={})),
    (checks.every_record_went_through_once, replace(HELD, seen=replace(SEEN, records=99))),
    (checks.every_record_went_through_once, replace(HELD, seen=replace(SEEN, records=101))),
    (checks.counts_are_those_of_the_feed, replace(HELD, seen=replace(SEEN, counts={"announced": 8}))),
    (checks.alerts_are_those_of_a_run_without_upgrades, replace(HELD, seen=replace(SEEN, alerts=[]))),
    (checks.pauses_were_short, with_step(0, pause_us=50_001.0)),
    (checks.service_was_available, replace(HELD, availability=0.98)),
    (checks.git_log_tells_every_deployment, replace(HELD, log=("one",))),
    (checks.git_log_tells_every_deployment, replace(HELD, log=(), decided=0)),
    (checks.host_stopped_cleanly, replace(HELD, host_exit_code=1)),
    (checks.host_stopped_cleanly, replace(HELD, host_exit_code=None)),
    (checks.it_took_at_most_a_minute, replace(HELD, seconds=60.1)),
]


def playing(facts: Facts) -> Callable[[Path | None], Facts]:
    return lambda _feed: facts


def test_a_demo_that_holds_exits_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_play", playing(HELD))
    assert run_demo(None, json_output=False) == 0
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize(("broken", "facts"), BREAKS)
def test_each_check_that_does_not_hold_makes_exit_1(
    broken: checks.Check,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "_play", playing(facts))
    assert run_demo(None, json_output=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    failed = [one["what"] for one in document["checks"] if not one["ok"]]
    assert failed == [broken.__name__.replace("_", " ")]
    assert run_demo(None, json_output=False) == 1
    assert capsys.readouterr().out.count("FAILED") == 1


def test_every_check_is_broken_by_a_test() -> None:
    assert {one for one, _ in BREAKS} == set(checks.CHECKS)


def demo(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demo as a user does, with its temporary files where we see them."""
    return subprocess.Popen(
        [sys.executable, "-m", "livetag", "demo", *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that name a place in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if str(folder) in line:
                found.append(line)
    return found


def test_the_demo_holds_and_nothing_of_it_stays(tmp_path: Path) -> None:
    with demo(tmp_path, "--json") as child:
        out, said = child.communicate(timeout=100)
    document = json.loads(out)
    assert (child.returncode, [one for one in document["checks"] if not one["ok"]]) == (0, []), said
    assert document["messages"]["lost"] == 0
    counts = feed.build(run.OWN_FEED_RECORDS)[1]
    assert document["feed"] == {name: getattr(counts, name) for name in document["feed"]}
    assert set(document["feed"]) == {"announced", "withdrawn", "states", "corrupt", "unsupported"}
    assert document["seconds"] < 60
    assert "a reconstruction" in said
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


@pytest.mark.skipif(not FEED_2016.exists(), reason=f"the real feed is not there: {FEED_2016}")
def test_the_demo_replays_a_file_of_the_users_and_finds_its_golden_counts(tmp_path: Path) -> None:
    with demo(tmp_path, "--json", "--feed", str(FEED_2016)) as child:
        out, said = child.communicate(timeout=100)
    document = json.loads(out)
    assert (child.returncode, [one for one in document["checks"] if not one["ok"]]) == (0, []), said
    assert document["feed"] == {
        "announced": 39_256,
        "withdrawn": 1_956,
        "states": 22,
        "corrupt": 0,
        "unsupported": 0,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "git push live decoder" in line:  # the host runs, and this push is under way
                break
        child.send_signal(number)
        child.communicate(timeout=30)
    assert child.returncode != 0
    assert list(tmp_path.iterdir()) == []
    end = time.monotonic() + 10  # hooks of a push that was cut end by themselves
    while processes_in(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_in(tmp_path) == []


def test_a_feed_without_a_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.mrt").touch()
    assert run_demo(tmp_path / "empty.mrt", json_output=False) == 1
    assert "holds no record. Everything that it had started was ended" in capsys.readouterr().err


def test_a_host_that_cannot_start_says_why() -> None:
    with Playground(time.monotonic() + 30) as ground:
        ground.deployment.config_file.write_text("[host]\nnonsense = 1\n")
        with pytest.raises(DemoFailed, match="nonsense"):
            ground.start_host()


def test_the_straight_reading_finds_the_event(tmp_path: Path) -> None:
    data, counts = feed.build()
    (tmp_path / "feed.mrt").write_bytes(data)
    seen = read_straight(tmp_path / "feed.mrt")
    assert seen.counts["announced"] == counts.announced
    event = [(one["kind"], one["origin"]) for one in seen.alerts if one["prefix"] == "208.65.153.0/24"]
    assert event == [("more specific", 17_557), ("origin change", 36_561)]
