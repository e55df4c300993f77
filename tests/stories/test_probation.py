"""A release that passes every gate and goes bad in service goes back by itself: nothing is lost, what was learned is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.deployment import Deployment, deployed, wait_until

COUNTER = """
    from typing import TypedDict

    from livetag import Module, handles

    class State(TypedDict):
        total: int

    class Counter(Module[State]):
        def initial_state(self) -> State:
            return {"total": 0}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            return self.state["total"]
"""
BY_KEY = """
    from typing import TypedDict

    from livetag import Module, handles

    class State(TypedDict):
        total: int
        by_key: dict[str, int]

    class Counter(Module[State]):
        state_version = 2

        def initial_state(self) -> State:
            return {"total": 0, "by_key": {}}

        @handles(again=True)  # it raises before it writes
        def tick(self, by: int = 1, key: str = "") -> int:
            if self.state["total"] >= LIMIT:
                raise OverflowError("a total of more than LIMIT")
            self.state["by_key"][key] = self.state["by_key"].get(key, 0) + by
            self.state["total"] += by
            return self.state["total"]

    @Counter.migrates(1, 2)
    def up(old: dict) -> State:
        return {"total": old["total"], "by_key": {}}

    @Counter.migrates(2, 1)
    def down(new: State) -> dict:
        return {"total": new["total"]}
"""
FEEDER = """
    from livetag import Module, handles, subscribes

    class Feeder(Module):
        def initial_state(self):
            return {"told": []}

        @subscribes("livetag.modules.sum")
        def on_change(self, event: dict) -> None:
            self.state["told"].append([event["change"], event["from"], event["to"]])

        @handles
        def feed(self, name: str, count: int) -> None:
            for _ in range(count):
                self.send(name, "tick")
"""
TERMS = "[probation]\nseconds = 120.0\nmin_messages = 100\n"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One host for all of them; each test has a module of its own."""
    with deployed(tmp_path_factory.mktemp("place")) as place:
        place.write("feeder", FEEDER)
        place.release("feeder/v1.0.0")
        assert place.push("main", "feeder/v1.0.0").returncode == 0
        yield place


def push(
    place: Deployment, tag: str, code: str, toml: str = TERMS, *options: str
) -> subprocess.CompletedProcess[str]:
    """Push another version of a module."""
    place.write(tag.partition("/")[0], {"__init__.py": code, "module.toml": toml})
    place.release(tag)
    flags = [flag for option in options for flag in ("-o", option)]
    return place.work.run("push", *flags, "live", "main", tag, check=False)


def begun(place: Deployment, module: str, code: str = COUNTER) -> None:
    """Its first version, which has no probation."""
    done = push(place, f"{module}/v1.0.0", code)
    assert done.returncode == 0, done.stderr
    assert "in probation" not in done.stderr


def feed(place: Deployment, module: str, count: int) -> None:
    place.send("feeder", "feed", name=module, count=count)


def probation(place: Deployment, module: str) -> dict[str, object]:
    row = place.status()["modules"][module]["probation"]
    return dict(row) if row is not None else {}


def test_a_release_that_goes_bad_after_a_thousand_messages_is_put_back_and_nothing_is_lost(
    deployment: Deployment,
) -> None:
    begun(deployment, "sum")
    feed(deployment, "sum", 100)
    assert "in probation for 120 s" in push(deployment, "sum/v1.1.0", BY_KEY.replace("LIMIT", "1100")).stderr
    assert probation(deployment, "sum")["verdict"] == "watching"
    feed(deployment, "sum", 1200)
    wait_until(lambda: deployment.version("sum") == "1.0.0", "it goes back", 20.0)
    feed(deployment, "sum", 10)
    # 100 before, 1,000 that the one which failed has learned, 200 that it failed on, and 10 since.
    wait_until(lambda: deployment.ask("sum", "tick", by=0) == 1310, "nothing is lost")
    status = deployment.status()
    assert status["dead_letters"] == 0
    assert status["modules"]["sum"]["probation"] is None
    (held,) = status["quarantine"]
    assert held["tag"] == "sum/v1.1.0"
    assert "max_error_rate = 0.01" in held["reason"]
    way_back, reverted, *_ = deployment.history()
    assert (reverted["outcome"], way_back["outcome"]) == ("reverted", "committed")
    assert "messages failed" in reverted["reason"]
    assert way_back["who"] == "livetag, in probation"
    log = ("log", "-1", "--format=%s%n%(trailers:key=Reason,valueonly)", "deployments")
    wait_until(lambda: deployment.git(*log).startswith("sum 1.1.0 → 1.0.0: reverted"), "Git tells it")
    assert "breached its probation" in deployment.git(*log)
    told = deployment.call("state", name="feeder")["told"]
    assert told == [["loaded", None, "1.0.0"], ["swapped", "1.0.0", "1.1.0"], ["swapped", "1.1.0", "1.0.0"]]
    shown = deployment.livetag("history", "sum").stdout
    assert "reverted" in shown
    assert deployment.git("rev-parse", "refs/live/sum") == deployment.git("rev-parse", "sum/v1.0.0^{commit}")


TICKING = """
    from livetag import Module, every

    class Ticking(Module):
        @every(seconds=0.01)
        def beat(self) -> None:
            WHAT
"""
SHORT = "[probation]\nseconds = 1.0\nmin_messages = 10\n"


def test_a_push_that_waits_for_it_to_be_confirmed_hears_the_verdict_with_its_figures(
    deployment: Deployment,
) -> None:
    begun(deployment, "pulse", TICKING.replace("WHAT", "pass"))
    code = TICKING.replace("WHAT", "return None")
    done = push(deployment, "pulse/v1.1.0", code, SHORT, "wait=confirmed")
    assert done.returncode == 0, done.stderr
    assert "pulse/v1.1.0: confirmed: passed: pulse: " in done.stderr
    assert "none failed, p99 " in done.stderr
    assert probation(deployment, "pulse") == {}


def test_a_push_that_waits_for_it_to_be_confirmed_fails_with_a_breach_and_its_tag_is_taken_back(
    deployment: Deployment,
) -> None:
    begun(deployment, "pace", TICKING.replace("WHAT", "pass"))
    code = TICKING.replace("WHAT", "raise ValueError('out of step')")
    done = push(deployment, "pace/v1.1.0", code, SHORT, "wait=confirmed")
    assert done.returncode == 1, done.stderr
    assert "pace/v1.1.0: refused, tag taken back: pace: " in done.stderr
    assert "messages failed, over probation.max_error_rate" in done.stderr
    assert "pace 1.0.0 serves on, with all state and messages." in done.stderr
    assert not deployment.git("tag", "--list", "pace/v1.1.0")
    assert deployment.version("pace") == "1.0.0"
    again = deployment.push("pace/v1.1.0")
    assert again.returncode == 1
    assert "refused" in again.stderr


def test_what_nobody_sends_to_is_inconclusive_until_a_person_confirms_it(deployment: Deployment) -> None:
    begun(deployment, "quiet")
    code = COUNTER.replace("by: int = 1", "by: int = 2")
    done = push(deployment, "quiet/v1.1.0", code, SHORT, "wait=confirmed")
    assert done.returncode == 0, done.stderr
    assert "Its probation is inconclusive: quiet: no message, and probation.min_messages = 10" in done.stderr
    assert "livetag confirm quiet" in done.stderr
    assert deployment.git("tag", "--list", "quiet/v1.1.0")
    assert "in probation, inconclusive: " in deployment.livetag("status").stdout
    confirmed = deployment.livetag("confirm", "quiet", "--reason", "it is quiet at night")
    assert confirmed.returncode == 0, confirmed.stderr
    assert "quiet is confirmed" in confirmed.stdout
    assert probation(deployment, "quiet") == {}
    again = deployment.livetag("confirm", "quiet")
    assert again.returncode == 1
    assert "is in no probation" in again.stderr


def test_what_can_not_go_back_serves_on_degraded_until_a_new_version_mends_it(deployment: Deployment) -> None:
    """The way back is barred by the old version itself: it will not prepare a second time."""
    once = """
        async def prepare(self) -> None:
            import os, sys
            if "orchestrator.control.host" in sys.modules:
                os.mkdir("MARK")
    """.replace("MARK", str(deployment.path.parent / "mark"))
    begun(deployment, "stuck", COUNTER.rstrip() + "\n" + once)
    bad = COUNTER.replace('self.state["total"] += by', 'raise ValueError("stuck")')
    push(deployment, "stuck/v1.1.0", bad)
    feed(deployment, "stuck", 3)
    wait_until(lambda: probation(deployment, "stuck").get("verdict") == "degraded", "it is degraded")
    assert deployment.version("stuck") == "1.1.0"
    reason = str(probation(deployment, "stuck")["reason"])
    assert "it was to go back, and could not" in reason
    assert "FileExistsError" in reason
    shown = deployment.livetag("status").stdout
    assert "degraded: " in shown
    deploy = deployment.livetag("deploy", "stuck/v1.1.0")
    assert deploy.returncode == 1
    assert "a person has to decide" in deploy.stderr
    assert deployment.history()[0]["outcome"] == "rolled_back"
    deployment.stop()
    deployment.start()
    assert (
        probation(deployment, "stuck")["verdict"] == "degraded"
    )  # a start does not forget it, nor try it again
    assert deployment.version("stuck") == "1.1.0"
    mended = push(
        deployment, "stuck/v1.2.0", COUNTER.replace("+= by", "+= by + 0"), "[probation]\nseconds = 0\n"
    )
    assert mended.returncode == 0, mended.stderr
    assert probation(deployment, "stuck") == {}


def test_the_second_death_of_the_host_in_a_probation_puts_it_back(tmp_path: Path) -> None:
    with deployed(tmp_path) as place:
        place.place.config_file.write_text("[host]\nsettle_s = 0.1\n")
        begun(place, "frail")
        push(place, "frail/v1.1.0", COUNTER.replace("by: int = 1", "by: int = 2"))
        for version in ("1.1.0", "1.0.0"):
            place.kill()
            place.start()
            assert place.version("frail") == version
        assert place.status()["modules"]["frail"]["probation"] is None


COMPOSED = '[modules.hen]\n[modules.egg]\npackage = "hen"\n'


def test_all_modules_of_a_transaction_go_back_together_and_their_composition_with_them(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path) as place:
        place.write("feeder", FEEDER)
        place.write("hen", COUNTER)
        place.work.write("app.toml", "[modules.feeder]\n[modules.hen]\n")
        place.release("app/v1.0.0", "hen/v1.0.0", "feeder/v1.0.0")
        assert place.push("main", "app/v1.0.0", "hen/v1.0.0", "feeder/v1.0.0").returncode == 0
        place.ask("hen", "tick", by=7)
        place.write("hen", {"__init__.py": BY_KEY.replace("LIMIT", "10"), "module.toml": TERMS})
        place.work.write("app.toml", "[modules.feeder]\n" + COMPOSED + "[modules.cock]\npackage = 'hen'\n")
        place.release("app/v2.0.0", "hen/v1.1.0")
        assert place.push("main", "app/v2.0.0", "hen/v1.1.0").returncode == 0
        assert set(place.status()["modules"]) == {"feeder", "hen", "egg", "cock"}
        feed(place, "hen", 6)
        wait_until(lambda: set(place.status()["modules"]) == {"feeder", "hen"}, "all go back")
        wait_until(lambda: place.ask("hen", "tick", by=0) == 13, "nothing is lost")
        held = {(each["module"], each["tag"]) for each in place.status()["quarantine"]}
        assert held == {("hen", "hen/v1.1.0"), ("app", "app/v2.0.0")}
        wait_until(lambda: place.status()["transaction"] is None, "it rests")
        assert place.version("hen") == "1.0.0"
        row = place.status()["modules"]["hen"]
        assert (row["probation"], row["drift"]) == (None, None)
