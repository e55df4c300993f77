"""The parts of the selftest that run nothing: which kills, in which order, what is written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli

from orchestrator.control.selftest import cases
from orchestrator.control.selftest.cases import Case, deploy_of, hint, reasons, recoveries_of
from orchestrator.control.selftest.composition import app_toml
from orchestrator.control.selftest.layout import Layout, Tags, environment
from orchestrator.control.selftest.machine import file_system
from orchestrator.control.selftest.matrix import Failure, Kill, Outcome, in_order_of_worth, kills, may_match
from orchestrator.control.selftest.report import Report, document, duration, markdown, verdict
from repo_store import failpoints
from repo_store.manifest import AppManifest, AppSection, ModuleSpec, parse_app

NOWHERE = Path("nowhere")
POINTS = (
    ("refs.push:before", 1),
    ("journal.sync:before", 1),
    ("journal.sync:after", 1),
    ("stage.sync:before", 1),
    ("journal.sync:before", 2),
    ("journal.sync:after", 2),
    ("switch.record:before", 1),
    ("switch.record:after", 1),
    ("journal.sync:before", 3),
    ("journal.sync:after", 3),
    ("refs.deployments:before", 1),
)


def bench() -> cases.Bench:
    from orchestrator.control.config import Deployment

    tags = (Tags("hen/v1.0.0", "hen/v1.0.1", "hen/v1.0.10"),)
    return cases.Bench(NOWHERE, Layout(Deployment(NOWHERE / "d"), NOWHERE / "work", tags), {})


def deploy() -> Case:
    return Case(deploy_of(bench(), {"hen": "1.0.0"}), NOWHERE, POINTS)


def outcome(side: str, point: str = "journal.sync:after", number: int = 1) -> Outcome:
    return Outcome("deploy", point, number, side, 1.5)


def test_the_first_two_kills_are_on_both_sides_of_the_decision() -> None:
    found = in_order_of_worth(kills([deploy()], ""))
    assert [kill.name for kill in found[:2]] == [
        "deploy/journal.sync:after/3",
        "deploy/switch.record:before/1",
    ]
    assert sorted((kill.point, kill.number) for kill in found) == sorted(POINTS)


def test_each_part_of_a_run_has_all_scenarios_and_steps_that_were_not_seen_yet_first() -> None:
    other = Case(cases.rollback_of(deploy().scenario), NOWHERE, POINTS[:4])
    found = in_order_of_worth(kills([deploy(), other], ""))
    assert {kill.case.name for kill in found[:2]} == {"deploy", "rollback"}
    rest = [kill.point for kill in found if kill.case.name == "deploy"][4:]
    assert len(set(rest[:5])) == 5, "no step twice before each was there once"


def test_points_are_chosen_by_name_or_with_their_scenario() -> None:
    assert len(kills([deploy()], "journal.sync:after")) == 3
    assert [k.number for k in kills([deploy()], "deploy/journal.sync:after/2")] == [2]
    assert kills([deploy()], "rollback/*") == []
    assert may_match("rollback", "journal.*")
    assert may_match("rollback", "r*/journal.*")
    assert not may_match("rollback", "deploy/journal.*")


def test_the_recovery_after_the_decision_dies_at_the_sync_that_makes_it() -> None:
    before, after = recoveries_of(deploy())
    assert (before.name, before.new) == ("recovery-before-commit", {"hen": "1.0.0"})
    assert after.name == "recovery-after-commit"
    assert "journal.sync:after 3 kill" in vars(after.ready).values()


def test_a_composition_is_read_back_as_it_was() -> None:
    config = {
        "port": 179,
        "rate": 0.5,
        "on": True,
        "text": 'a "b"\\ \n\t\x7f é 😀',
        "list": [1, "two", {"three": 3}],
        "token": {"env": "TOKEN"},
        "odd key.": "x",
    }
    modules = {
        "rib": ModuleSpec(package="rib", also=("routes",), config=config),
        "off": ModuleSpec(package="rib", enabled=False),
    }
    manifest = AppManifest(app=AppSection(name="n"), modules=modules)
    assert parse_app(app_toml(manifest).encode(), "app.toml") == manifest
    assert tomli.loads(app_toml(AppManifest())) == {"app": {"name": "app"}}


def test_the_verdict_counts_what_was_seen() -> None:
    report = Report(planned=4, seconds=192.0, states_compared=2)
    report.outcomes = [
        outcome("old"),
        outcome("new", number=2),
        outcome("same", "stop.image:before"),
        outcome("old"),
    ]
    assert report.ok
    assert verdict(report) == (
        "crash-safe here: 4 kills at 2 points, 2 all old, 1 all new, 1 as before, 0 mixed, state compared 2 times, "
        "0 lost in 3 min 12 s"
    )
    report.planned = 40
    assert verdict(report).startswith("crash-safe as far as it was tried: 4 kills at 2 points")
    assert verdict(report).endswith("; 36 of 40 kills were left out for time, --full makes them all")
    assert duration(59.4) == "59 s"


def test_nothing_is_called_safe_that_was_not_tried() -> None:
    report = Report(planned=2, outcomes=[outcome("not reached")])
    assert not report.ok
    assert verdict(report).startswith("no verdict")
    report = Report(planned=2, outcomes=[outcome("old")], interrupted=True)
    assert not report.ok
    assert verdict(report).startswith("interrupted: 1 kill at 1 point")
    assert "state not compared" in verdict(report)


def test_a_failure_says_what_was_expected_and_found_where_it_lies_and_how_to_see_it_again() -> None:
    failure = Failure(
        "deploy/x:before/1", "all old", "a | b\nmixed", "/tmp/kept", "livetag selftest --points x"
    )
    report = Report(planned=2, outcomes=[outcome("old")], failure=failure)
    assert not report.ok
    line = verdict(report)
    assert line.startswith("NOT crash-safe here: after deploy/x:before/1, expected: all old; found: a | b")
    text = markdown(report)
    for part in ("deploy/x:before/1", "all old", r"a \| b mixed", "/tmp/kept", "livetag selftest --points x"):
        assert part in text
    told = json.loads(json.dumps(document(report)))
    assert told["ok"] is False
    assert told["failure"]["found"] == "a | b\nmixed"
    assert told["kills"] == [{"name": "deploy/journal.sync:after/1", "outcome": "old", "seconds": 1.5}]


def test_the_processes_of_a_selftest_get_no_failpoints_and_no_deployment_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "1")
    monkeypatch.setenv("LIVETAG_DIR", "/somewhere")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("TOKEN", "secret")
    found = environment()
    assert found["TOKEN"] == "secret", "the modules get what their config asks for"
    assert not {failpoints.VARIABLE, "LIVETAG_DIR", "GIT_DIR"} & found.keys()


def test_the_file_system_of_a_folder_is_named() -> None:
    assert file_system(Path("/proc")).startswith("proc on /proc")
    assert " on /" in file_system(Path("/"))


def test_a_kill_is_named_as_points_takes_it() -> None:
    case = deploy()
    kill = Kill(case, "journal.sync:after", 2)
    assert kills([case], kill.name) == [kill]


def test_of_a_refused_push_the_reason_is_told_once_and_what_to_do_about_the_place() -> None:
    why = "gateway failed its trial: OSError: [Errno 98] Address already in use (line 33)"
    said = "remote: gateway/v1.0.0: refused. livetag retry gateway/v1.0.0\n" + "".join(
        f" ! [remote rejected] {tag} -> {tag} ({why})\n" for tag in ("app/v1.0.0", "gateway/v1.0.0")
    )
    assert reasons(said) == why
    assert "--config FILE" in hint(said)
    assert "set it here" in hint(
        "config token comes from the environment variable TOKEN, which this host does not have"
    )
    assert hint("counter failed its trial") == ""
    assert reasons("") == "it said nothing"
    assert reasons("remote: a\nfatal: b\n") == "a fatal: b"
