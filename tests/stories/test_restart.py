"""The host dies, stops, restarts: what was in service comes back, and what was kept is given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.control.client import HostRefused
from repo_store import failpoints
from tests.stories.deployment import STOP_S, Deployment, deployed, wait_until

V1, V2 = "counter/v1.0.0", "counter/v1.1.0"


def counter(step: int) -> str:
    return f"""
        from livetag import Module, handles

        class Counter(Module):
            def initial_state(self):
                return {{"total": 0, "seen": []}}

            @handles
            def tick(self) -> int:
                self.state["total"] += {step}
                return self.state["total"]
    """


# Its units last until a file appears, so that messages wait in its mailbox for as long as the test likes.
SLOW = """
    import asyncio
    from pathlib import Path

    from livetag import Module, handles

    class Slow(Module):
        def initial_state(self):
            return {{"seen": []}}

        @handles
        async def note(self, number: int) -> None:
            while not Path({gate!r}).exists():
                await asyncio.sleep(0.01)
            self.state["seen"].append(number)

        @handles
        def seen(self) -> list[int]:
            return self.state["seen"]
"""


def test_a_killed_host_comes_back_with_the_release_and_a_new_state(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=counter(1))
    deployment.deploy(V2, counter=counter(10))
    assert deployment.ask("counter", "tick") == 10
    before, log = deployment.history(), deployment.git("rev-parse", "deployments")

    deployment.kill()
    deployment.start()

    assert deployment.version() == "1.1.0"
    assert deployment.ask("counter", "tick") == 10, "state in memory dies with its process"
    assert deployment.history() == before
    assert deployment.git("rev-parse", "deployments") == log


def test_a_stopped_host_gives_back_state_and_exits_0(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=counter(1))
    assert deployment.ask("counter", "tick") == 1

    assert deployment.stop() == 0
    deployment.start()

    assert deployment.ask("counter", "tick") == 2
    deployment.kill()
    deployment.start()
    assert deployment.ask("counter", "tick") == 1, "an image serves once: what it held is not handled twice"


def test_a_start_that_fails_loses_nothing_of_what_was_saved(deployment: Deployment) -> None:
    """An image serves once: what had come back before the start failed must be saved again."""
    deployment.deploy(V1, counter=counter(1))
    assert deployment.ask("counter", "tick") == 1
    assert deployment.stop() == 0

    def fails(why: str) -> None:
        assert deployment.spawn().wait(STOP_S) == 1, deployment.said()
        assert why in deployment.said()

    config = deployment.place.config_file.read_text()
    deployment.place.config_file.write_text(config.replace("[control]", '[control]\ngroup = "no-such-group"'))
    fails("there is no group 'no-such-group'")
    deployment.place.config_file.write_text(config)
    plan = deployment.path / failpoints.PLAN_NAME
    plan.write_text("socket.bind:before 1 eio\n")
    deployment.env = {failpoints.VARIABLE: "1"}
    fails("Input/output error")
    deployment.env = {}

    deployment.start()
    assert deployment.ask("counter", "tick") == 2
    assert "the host before this one died" not in deployment.said()


def test_a_stopped_host_gives_back_the_messages_that_waited(deployment: Deployment, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    deployment.deploy("slow/v1.0.0", slow=SLOW.format(gate=str(gate)))
    for number in range(20):
        deployment.send("slow", "note", number=number)
    assert deployment.status()["modules"]["slow"]["mailbox"]["length"] == 19

    assert deployment.host is not None
    deployment.host.terminate()
    wait_until(lambda: "stopping" in deployment.said(), "the host drains")
    gate.touch()
    assert deployment.host.wait(20) == 0
    deployment.host = None
    assert "without a clean boundary" not in deployment.said(), "nothing was cut"
    deployment.start()

    wait_until(lambda: len(deployment.ask("slow", "seen")) == 20, "all were handled")
    assert deployment.ask("slow", "seen") == list(range(20))
    assert deployment.call("dead_letters", action="list") == []


def test_a_unit_that_outlasts_the_drain_is_cut_and_told(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment:
        config = deployment.place.config_file
        config.write_text(config.read_text().replace("# drain_s = 10.0", "drain_s = 0.2"))
        deployment.start()
        gate = tmp_path / "gate"
        deployment.deploy("slow/v1.0.0", slow=SLOW.format(gate=str(gate)))
        for number in range(3):
            deployment.send("slow", "note", number=number)

        assert deployment.stop() == 0
        gate.touch()
        deployment.start()

        wait_until(lambda: deployment.ask("slow", "seen") == [1, 2], "those that waited are handled")
        [letter] = deployment.call("dead_letters", action="list")
        assert (letter["module"], letter["body"]) == ("slow", {"number": 0})


def test_a_state_that_cannot_be_saved_is_said_and_takes_no_message_with_it(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment:
        config = deployment.place.config_file
        config.write_text(config.read_text().replace("# drain_s = 10.0", "drain_s = 0.2"))
        deployment.start()
        gate = tmp_path / "gate"
        too_large = SLOW.format(gate=str(gate)).replace("(number)", "(2**70 + number)")
        deployment.deploy("slow/v1.0.0", slow=too_large)
        gate.touch()
        deployment.send("slow", "note", number=0)
        wait_until(lambda: deployment.ask("slow", "seen") == [2**70], "the state is too large")

        deployment.write("slow", too_large.replace("2**70", "2**71"))
        deployment.release("slow/v1.1.0")
        pushed = deployment.push("slow/v1.1.0")
        assert "the state of slow 1.0.0 in service cannot be copied for the trial" in pushed.stderr

        refused = deployment.livetag("restart")
        assert refused.returncode == 1
        assert "A restart would lose state that cannot be saved. slow: The state is not" in refused.stderr
        gate.unlink()
        for number in range(1, 4):
            deployment.send("slow", "note", number=number)
        assert deployment.stop() == 0
        assert "state and mailboxes of 0 of 1 modules are saved" in deployment.said()

        deployment.start()
        letters = deployment.call("dead_letters", action="list")
        assert [letter["body"] for letter in letters] == [{"number": 1}, {"number": 2}, {"number": 3}]
        assert "slow could not be kept: The state is not plain data" in letters[1]["reason"]


def test_a_start_sweeps_what_is_staged_and_no_longer_needed_and_nothing_else(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=counter(1))
    deployment.deploy("counter/v1.1.0", counter=counter(10))
    stage = deployment.place.stage
    served = {path.name for path in stage.iterdir()}
    deployment.kill()
    (stage / ("0" * 40)).mkdir()
    (stage / ("0" * 40) / "left.py").write_text("")

    deployment.start()

    assert {path.name for path in stage.iterdir()} == served  # the version before serves a way back
    assert deployment.version() == "1.1.0"


def test_restart_keeps_state_and_process_supervision(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=counter(1))
    pid = deployment.call("ping")["pid"]
    deployment.ask("counter", "tick")

    done = deployment.livetag("restart")

    assert done.returncode == 0, done.stderr
    assert deployment.call("ping")["pid"] == pid, "a supervisor still knows its child"
    assert deployment.ask("counter", "tick") == 2


def test_a_second_host_is_refused_and_the_first_serves_on(deployment: Deployment) -> None:
    pid = deployment.call("ping")["pid"]

    second = deployment.livetag("run")

    assert second.returncode == 1
    assert f"pid {pid}" in second.stderr
    assert deployment.call("ping")["pid"] == pid


def test_tags_that_came_while_the_host_was_down_go_live_at_its_start(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment:
        deployment.write("counter", counter(1))
        deployment.release(V1)
        pushed = deployment.push("main", V1)
        assert pushed.returncode == 0, pushed.stderr
        assert "recorded" in pushed.stderr
        assert "no host is running" in pushed.stderr

        deployment.start()
        wait_until(lambda: deployment.version() == "1.0.0", "the tag is live")
        assert deployment.ask("counter", "tick") == 1

        assert deployment.stop() == 0
        deployment.write("counter", counter(10))
        deployment.release(V2)
        assert deployment.push("main", V2).returncode == 0
        deployment.start()
        wait_until(lambda: deployment.version() == "1.1.0", "the next tag is live")
        assert deployment.ask("counter", "tick") == 11, "by an upgrade, with its state"
        wait_until(
            lambda: [e["To"] for e in deployment.deployments()] == [["1.0.0"], ["1.1.0"]],
            "git log tells both",
        )


def test_the_last_tag_of_a_storm_while_the_host_was_down_is_the_only_one_tried(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment:
        for minor in range(5):
            deployment.write("counter", counter(minor))
            deployment.release(f"counter/v1.{minor}.0")
        assert deployment.push("main", "--tags").returncode == 0
        deployment.start()
        wait_until(lambda: deployment.version() == "1.4.0", "the last one is live")
        assert len(deployment.history()) == 1


def test_a_release_that_kills_the_host_twice_is_quarantined(deployment: Deployment) -> None:
    """The trial cannot know that it is the host that dies; the count of deaths does."""
    deployment.deploy(V1, counter=counter(1))
    deadly = (
        counter(10)
        + """
            def take_over(self, resources):
                import os
                os.kill(os.getpid(), 9)
    """
    )
    deployment.write("counter", deadly)
    deployment.release(V2)
    deployment.push("main", V2)
    for _ in range(2):
        assert deployment.host is not None
        assert deployment.host.wait(20) == -9
        deployment.host = deployment.spawn()
        wait_until(
            lambda: (
                deployment.host is not None and (deployment.host.poll() is not None or deployment.answers())
            ),
            "the host answers or dies",
        )
        if deployment.host.poll() is None and deployment.status()["quarantine"]:
            break

    wait_until(lambda: deployment.version() == "1.0.0", "the old version serves")
    [quarantined] = deployment.status()["quarantine"]
    assert "died 2 times" in quarantined["reason"]
    assert deployment.ask("counter", "tick") == 1


def test_a_module_that_cannot_come_back_is_said_and_the_others_serve(
    deployment: Deployment, tmp_path: Path
) -> None:
    needs = tmp_path / "needed"
    needs.touch()
    picky = f"""
        from pathlib import Path

        from livetag import Module, handles

        class Picky(Module):
            async def prepare(self):
                Path({str(needs)!r}).read_text()

            @handles
            def well(self) -> bool:
                return True
    """
    deployment.deploy("picky/v1.0.0", V1, picky=picky, counter=counter(1))
    deployment.stop()
    needs.unlink()
    deployment.start()

    rows = deployment.status()["modules"]
    assert (rows["picky"]["state"], rows["counter"]["state"]) == ("failed", "in service")
    assert "FileNotFoundError" in rows["picky"]["problem"]
    assert deployment.ask("counter", "tick") == 1
    with pytest.raises(HostRefused, match="picky"):
        deployment.ask("picky", "well")
    needs.touch()
    deployment.stop()
    deployment.start()
    assert deployment.ask("picky", "well") is True


# More calls than the event loop has threads, and none returns while the test runs.
HOGGING = """
    import asyncio
    import time

    from livetag import Module, handles

    class Hog(Module):
        def initial_state(self):
            return {"hogged": 0}

        @handles
        def hog(self) -> int:
            for _ in range(100):
                asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
            self.state["hogged"] += 1
            return self.state["hogged"]
"""


def test_threads_that_modules_have_taken_hold_up_neither_an_upgrade_nor_the_end(tmp_path: Path) -> None:
    with deployed(tmp_path) as deployment:
        deployment.deploy("hog/v1.0.0", hog=HOGGING)
        deployment.deploy(V1, counter=counter(1))
        assert deployment.ask("hog", "hog") == 1
        deployment.deploy(V2, counter=counter(2))
        assert deployment.ask("counter", "tick") == 2
        assert deployment.stop() == 0
        assert "the host ends without these threads of its modules" in deployment.said()
        deployment.start()
        assert (deployment.ask("hog", "hog"), deployment.ask("counter", "tick")) == (2, 4)
