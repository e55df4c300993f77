"""Names, topics and what a version leaves behind, as the commands show them."""

from __future__ import annotations

import json

from tests.stories.deployment import Deployment, wait_until

SPEAKER = """
    from livetag import Module, every, handles

    class Speaker(Module[dict]):
        @every(seconds=0.01)
        def tick(self) -> None:
            self.publish("clock.second", {"n": 1})

        @handles
        def early(self) -> None:
            self.send("newcomer", "hear", {}, wait_s=30.0)
"""
EAR = """
    import asyncio
    from livetag import Module, handles, subscribes

    class Ear(Module[dict]):
        @subscribes("clock.*", drop_oldest=True)
        async def on(self, event: dict) -> None:
            await asyncio.sleep(3600 if self.config.get("deaf", True) else 0)

        @handles
        def hear(self) -> str:
            return "heard"
"""
NEWCOMER = """
    from livetag import Module, handles

    class Newcomer(Module[dict]):
        def initial_state(self) -> dict:
            return {"heard": 0}

        @handles
        def hear(self) -> None:
            self.state["heard"] += 1
"""
LEAKY = """
    import threading
    from livetag import Module

    DOOR = threading.Event()

    class Leaky(Module[dict]):
        async def prepare(self) -> None:
            threading.Thread(target=self.poll, name="poller", daemon=True).start()

        def poll(self) -> None:
            DOOR.wait(600)
"""


def test_names_and_topics_are_shown_with_what_became_of_the_events(deployment: Deployment) -> None:
    deployment.write("ear", {"module.toml": "[limits]\nmailbox_messages = 2\n"})
    deployment.deploy("speaker/v1.0.0", "ear/v1.0.0", speaker=SPEAKER, ear=EAR)

    def dropped() -> int:
        return int(deployment.call("topics")["subscriptions"][0]["dropped"])

    wait_until(lambda: dropped() > 2, "the ear drops events")
    shown = json.loads(deployment.livetag("topics", "--json").stdout)
    (subscription,) = shown["subscriptions"]
    assert (subscription["pattern"], subscription["module"], subscription["drop_oldest"]) == (
        "clock.*",
        "ear",
        True,
    )
    (published,) = shown["published"]
    assert (published["topic"], published["to"]) == ("clock.second", ["ear"])
    assert [by["module"] for by in published["by"]] == ["speaker"]
    text = deployment.livetag("topics", "clock.second").stdout
    assert "drops the oldest" in text
    assert "clock.second" in text
    assert deployment.livetag("topics", "nothing.here").returncode == 1
    assert deployment.status()["modules"]["ear"]["mailbox"]["dropped"] > 2
    assert "events dropped as it wishes" in deployment.livetag("status").stdout

    assert json.loads(deployment.livetag("names", "--json").stdout) == [
        {"name": "ear", "module": "ear", "kind": "own"},
        {"name": "speaker", "module": "speaker", "kind": "own"},
    ]
    unknown = deployment.livetag("names", "nobody")
    assert unknown.returncode == 1
    assert "Names in service: ear, speaker" in unknown.stderr


def test_a_message_may_be_sent_to_a_module_that_is_only_coming(deployment: Deployment) -> None:
    deployment.deploy("speaker/v1.0.0", speaker=SPEAKER)
    deployment.ask("speaker", "early")
    refused = deployment.livetag("send", "newcomer", "hear", "--wait", "0.05")
    assert refused.returncode == 1
    assert "No module is bound to 'newcomer'" in refused.stderr
    deployment.deploy("newcomer/v1.0.0", newcomer=NEWCOMER)
    wait_until(lambda: deployment.call("state", name="newcomer") == {"heard": 1}, "what waited has come")


def test_a_version_that_leaves_a_thread_is_named_in_status_and_log(deployment: Deployment) -> None:
    deployment.deploy("leaky/v1.0.0", leaky=LEAKY)
    deployment.deploy("leaky/v1.1.0", leaky=NEWCOMER)
    wait_until(lambda: deployment.status()["leftovers"], "the leftover is found", 20)
    (left,) = deployment.status()["leftovers"]
    assert (left["module"], left["version"]) == ("leaky", "1.0.0")
    assert left["held_by"] == ["thread 'poller' at leaky/__init__.py line 11"]
    assert (
        "leaky 1.0.0 left service and is still loaded: thread 'poller' at leaky/__init__.py line 11"
        in deployment.said()
    )
    assert "not gone: leaky 1.0.0, which left service" in " ".join(
        deployment.livetag("status").stdout.split()
    )
