"""A release that is shadowed before it goes live: a real push, while the counter counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from orchestrator.control.client import ControlError
from tests.stories.deployment import Deployment, wait_until

CODE = """
    from typing import TypedDict

    from livetag import Module, handles

    class State(TypedDict):
        total: int

    class Counter(Module[State]):
        def initial_state(self) -> State:
            return {"total": 0}

        @handles
        def tick(self, by: int = 1) -> dict:
            self.state["total"] += by
            return {"total": self.state["total"], "by": by}

        @handles
        def total(self) -> int:
            return self.state["total"]
"""
#: Wrong from the hundredth on, which no trial on a copy of the state would see.
WRONG = CODE.replace(
    '"total": self.state["total"],', '"total": self.state["total"] // 100 * 101 or self.state["total"],'
)
FASTER = CODE.replace("total: int\n", "total: int  # the same, said otherwise\n", 1)
MANIFEST = """
    pure = true
    [shadow]
    messages = {messages}
    seconds = {seconds}
"""


class Load:
    """One who ticks, one after the other, and knows what was counted."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="load", daemon=True)
        self.replies: list[int] = []
        self.failed = ""
        self._thread.start()

    def _tick(self) -> None:
        try:
            while not self._ended.is_set():
                self.replies.append(self._deployment.ask("counter", "tick")["total"])
        except ControlError as error:
            self.failed = str(error)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(10.0)


@contextmanager
def loaded(deployment: Deployment) -> Iterator[Load]:
    load = Load(deployment)
    try:
        wait_until(lambda: load.replies, "it counts")
        yield load
    finally:
        load.end()


def files(code: str, messages: int, seconds: float = 60.0) -> Mapping[str, str]:
    return {"__init__.py": code, "module.toml": MANIFEST.format(messages=messages, seconds=seconds)}


def release(deployment: Deployment, tag: str, code: str, messages: int) -> None:
    deployment.write("counter", files(code, messages))
    deployment.release(tag, message=tag)


def test_a_wrong_release_is_refused_with_the_diff_and_a_right_one_goes_live_under_load(
    deployment: Deployment,
) -> None:
    release(deployment, "counter/v1.0.0", CODE, 300)
    first = deployment.push("main", "counter/v1.0.0")
    assert first.returncode == 0, first.stderr
    assert "not shadowed: nothing of it is in service yet" in first.stderr
    with loaded(deployment) as load:
        release(deployment, "counter/v1.1.0", WRONG, 300)
        wrong = deployment.push("main", "counter/v1.1.0")
        assert wrong.returncode == 1
        assert "counter/v1.1.0: planned: counter: shadowing 300 live messages, for up to 60 s" in wrong.stderr
        assert "counter 1.1.0: it differs from 1.0.0 on" in wrong.stderr
        assert "tick {}, reply['total']: " in wrong.stderr
        assert "remote: + reply['total']: " in wrong.stderr
        assert deployment.version() == "1.0.0"

        release(deployment, "counter/v1.2.0", FASTER, 300)
        planned = deployment.work.run("push", "-o", "plan", "live", "counter/v1.2.0", check=False).stderr
        assert (
            "counter: shadow: first handles 300 live messages beside 1.0.0, unheard; none may differ."
            in planned
        )
        right = deployment.push("main", "counter/v1.2.0")
        assert right.returncode == 0, right.stderr
        assert "counter: shadowed 300 messages, 0 differ; 1.2.0 takes" in right.stderr
        assert deployment.version() == "1.2.0"
    assert not load.failed
    assert load.replies == list(range(1, len(load.replies) + 1))  # none lost, none twice, in order
    assert deployment.ask("counter", "total") == len(load.replies)
    history = json.loads(deployment.livetag("history", "--json").stdout)
    refused = next(each for each in history if each["outcome"] == "rolled_back")
    assert refused["mismatches"][0].startswith("counter: message ")
    assert "\n- reply['total']: " in refused["mismatches"][0]
    assert all("mismatches" not in each for each in history if each is not refused)
    assert not deployment.status()["leftovers"]


def test_a_newer_tag_ends_a_shadow_and_a_way_back_has_none(deployment: Deployment) -> None:
    release(deployment, "counter/v1.0.0", CODE, 5)
    deployment.push("main", "counter/v1.0.0")
    with loaded(deployment) as load:
        release(deployment, "counter/v1.1.0", WRONG, 0)  # nobody has asked for a shadow
        assert deployment.push("main", "counter/v1.1.0").returncode == 0
        release(deployment, "counter/v1.2.0", f"{WRONG}\n    # a comment\n", 100_000)
        deployment.work.git("push", "-o", "no-wait", "live", "main", "counter/v1.2.0")
        wait_until(lambda: "shadowing: " in str(deployment.status()["transaction"]), "it is shadowed")
        assert " of 100000 messages, 0 differ" in deployment.livetag("status").stdout

        deployment.work.git("tag", "counter/v1.3.0", "counter/v1.0.0^{commit}")
        back = deployment.push("counter/v1.3.0")
        assert back.returncode == 0, back.stderr
        assert "counter: not shadowed: it has been in service before" in back.stderr
        assert "live: counter 1.1.0 → 1.0.0" in back.stderr
        ended = next(each for each in deployment.history() if each["outcome"] == "rolled_back")
        assert "its shadow was ended: tags of counter have moved meanwhile" in ended["reason"]

        release(deployment, "counter/v1.4.0", f"{CODE}\n    # another\n", 100_000)
        deployment.work.git("push", "-o", "no-wait", "live", "main", "counter/v1.4.0")
        wait_until(lambda: "shadowing: " in str(deployment.status()["transaction"]), "it is shadowed")
    assert not load.failed
    assert deployment.ask("counter", "total") == len(load.replies)
    began = time.monotonic()
    assert deployment.stop() == 0
    assert time.monotonic() - began < 30  # the shadow alone would have been waited for for a minute
