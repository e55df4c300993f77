"""The reconfiguration commands on a real host: each verb, its drift, what ends it, and what a restart keeps."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.client import HostRefused
from tests.stories.deployment import Deployment, Facts, deployed, prepared, wait_until

WHY = "--reason", "spring cleaning"


def counter(step: int) -> str:
    """Write a module that counts by a step, and remembers what it was told."""
    return f"""
        from livetag import Module, handles, subscribes

        class Counter(Module):
            def initial_state(self):
                return {{"total": 0, "notes": [], "told": []}}

            @handles
            def tick(self) -> int:
                self.state["total"] += {step}
                return self.state["total"]

            @handles
            def note(self, n: int) -> None:
                self.state["notes"].append(n)

            @subscribes("livetag.modules.*")
            def on_change(self, event: dict) -> None:
                self.state["told"].append([event["module"], event["change"]])

            @subscribes("bell")
            def on_bell(self, event: dict) -> None:
                self.state["notes"].append("bell")
    """


def do(deployment: Deployment, *args: str) -> str:
    """Run a command that must succeed; its text."""
    done = deployment.livetag(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(deployment: Deployment, *args: str) -> str:
    """Run a command that must be refused; its reason."""
    done = deployment.livetag(*args)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip()


def row(deployment: Deployment, module: str = "counter") -> Facts:
    return dict(deployment.status()["modules"][module])


@pytest.fixture(scope="module")
def with_counter(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Counter 1.0.0 has gone live; to be copied."""
    return prepared(
        tmp_path_factory.mktemp("one"), lambda made: made.deploy("counter/v1.0.0", counter=counter(1))
    )


@pytest.fixture
def deployment(with_counter: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """Counter 1.0.0 serves."""
    with deployed(tmp_path, like=with_counter) as made:
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Deployment]:
    """Nothing serves."""
    with deployed(tmp_path) as made:
        yield made


def two_versions(deployment: Deployment) -> None:
    deployment.deploy("counter/v1.1.0", counter=counter(10))


def test_a_disabled_module_waits_with_its_messages_and_tells_its_senders_why(deployment: Deployment) -> None:
    assert deployment.ask("counter", "tick") == 1

    said = do(deployment, "disable", "counter", *WHY)

    assert "counter 1.0.0 disabled" in said
    assert "holds until the tags give another release" in said
    assert row(deployment)["state"] == "disabled"
    drift = row(deployment)["drift"]
    assert (drift["what"], drift["why"]) == ("disabled", "spring cleaning")
    assert drift["who"] in do(deployment, "status")
    with pytest.raises(
        HostRefused, match=r"counter is disabled by .*: spring cleaning; livetag enable counter"
    ):
        deployment.ask("counter", "tick")
    assert deployment.call("publish", topic="bell", body={}) == {"subscribers": 0}
    assert do(deployment, "disable", "counter", *WHY) == "counter is already disabled; nothing was changed."

    deployment.stop()
    deployment.start()
    assert (row(deployment)["state"], row(deployment)["drift"]) == ("disabled", drift)
    with pytest.raises(HostRefused, match="livetag enable counter"):
        deployment.send("counter", "note", n=1)

    said = do(deployment, "enable", "counter", *WHY)
    assert "counter 1.0.0 enabled" in said
    assert (row(deployment)["state"], row(deployment)["drift"]) == ("in service", None)
    assert deployment.ask("counter", "tick") == 2
    assert [h["modules"][0]["text"] for h in deployment.history()] == [
        "counter 1.0.0 enabled",
        "counter 1.0.0 disabled",
        "counter 1.0.0 added",
    ]
    assert deployment.history()[1]["reason"] == "spring cleaning"
    assert deployment.history()[1]["by"] == "livetag disable counter"


def test_a_new_release_ends_what_was_done_by_hand(deployment: Deployment) -> None:
    do(deployment, "disable", "counter", *WHY)
    plan = json.loads(do(deployment, "plan", "--json"))
    assert [(d["module"], d["what"], d["ends"]) for d in plan["drift"]] == [("counter", "disabled", None)]

    deployment.write("counter", counter(10))
    deployment.release("counter/v1.1.0")
    pushed = deployment.push("main", "counter/v1.1.0")

    assert pushed.returncode == 0, pushed.stderr
    assert "counter was disabled by" in pushed.stderr
    assert "spring cleaning; that is over: the tags give counter/v1.1.0 now" in pushed.stderr
    assert (row(deployment)["state"], row(deployment)["drift"]) == ("in service", None)
    assert deployment.ask("counter", "tick") == 10


def test_a_push_that_ends_a_binding_says_so_in_its_plan_its_outcome_and_the_history(
    deployment: Deployment,
) -> None:
    do(deployment, "bind", "total", "counter", *WHY)
    deployment.write("counter", counter(10))
    deployment.release("counter/v1.1.0")

    planned = deployment.push("-o", "plan", "counter/v1.1.0").stderr
    assert "counter 1.0.0 → 1.1.0 (no longer bound to total)" in planned
    assert "spring cleaning. It ends with this plan: the tags give counter/v1.1.0 now" in planned
    assert deployment.version() == "1.0.0"

    pushed = deployment.push("main", "counter/v1.1.0")
    assert "live: counter 1.0.0 → 1.1.0 (no longer bound to total)" in pushed.stderr
    wait_until(lambda: len(deployment.deployments()) == 3, "the history is written")
    subjects = deployment.git("log", "--format=%s", "deployments").splitlines()
    assert subjects[:2] == [
        "counter 1.0.0 → 1.1.0 (no longer bound to total): committed",
        "counter 1.0.0 bound to total: committed",
    ]
    assert "counter 1.0.0 bound to total" in do(deployment, "history")
    back = json.loads(do(deployment, "rollback", "--dry-run", "--json"))
    assert back["stays"] == ["total is not bound again; livetag bind total counter"]


def test_a_deleted_tag_changes_nothing_that_was_swapped_in_by_hand_and_tells_what_it_does_change(
    deployment: Deployment,
) -> None:
    two_versions(deployment)
    do(deployment, "swap", "counter", "1.0.0", *WHY)
    deployment.push(":counter/v1.0.0")
    assert (deployment.version(), row(deployment)["tag"]) == ("1.0.0", "counter/v1.0.0")
    assert row(deployment)["drift"]["what"] == "swapped to 1.0.0"
    deployment.stop()
    deployment.start()
    assert deployment.ask("counter", "tick") == 1
    do(deployment, "swap", "counter", "1.1.0", *WHY)

    deployment.deploy("counter/v1.2.0", counter=counter(100))
    deleted = deployment.push(":counter/v1.2.0")
    assert "planned: counter 1.2.0 → 1.1.0" in deleted.stderr
    assert deployment.version() == "1.1.0"


def test_another_version_is_swapped_in_for_one_module_and_a_failing_one_changes_nothing(
    deployment: Deployment,
) -> None:
    two_versions(deployment)
    assert deployment.ask("counter", "tick") == 10
    said = do(deployment, "swap", "counter", "1.0.0", *WHY)
    assert "counter 1.1.0 → 1.0.0" in said
    assert deployment.ask("counter", "tick") == 11
    assert row(deployment)["drift"]["what"] == "swapped to 1.0.0"
    assert "counter is swapped to 1.0.0 by" in deployment.livetag("deploy", "counter/v1.1.0").stderr

    assert "There is no release counter/v9.0.0" in refused(deployment, "swap", "counter", "9.0.0", *WHY)
    assert "There is no module nobody" in refused(deployment, "swap", "nobody", "1.0.0", *WHY)
    assert "already counter/v1.0.0" in do(deployment, "swap", "counter", "v1.0.0", *WHY)

    deployment.stop()
    deployment.start()
    assert (deployment.version(), deployment.ask("counter", "tick")) == ("1.0.0", 12)
    do(deployment, "swap", "counter", "1.1.0", *WHY)
    assert (deployment.version(), row(deployment)["drift"]) == ("1.1.0", None)


def test_a_command_that_fails_leaves_everything_as_it_was_and_quarantines_nothing(
    empty: Deployment,
) -> None:
    empty.deploy("counter/v0.8.0", counter=counter(5))
    empty.deploy("counter/v1.0.0", counter=counter(1))
    unfit = (
        counter(5)
        + "\n            async def prepare(self):\n                raise RuntimeError('out of tune')\n"
    )
    empty.write("counter", unfit)
    empty.release("counter/v0.9.0")
    assert empty.push("main", "counter/v0.9.0").returncode == 0, "a lower version is only recorded"
    do(empty, "disable", "counter", *WHY)
    do(empty, "swap", "counter", "0.8.0", *WHY)

    why = refused(empty, "swap", "counter", "0.9.0", *WHY)

    assert "livetag swap counter 0.9.0 was not done" in why
    assert "out of tune" in why
    assert "counter 0.8.0 serves on" in why
    assert (row(empty)["state"], empty.version()) == ("disabled", "0.8.0")
    assert sorted(row(empty)["drift"]["what"].split(", ")) == ["disabled", "swapped to 0.8.0"]
    assert empty.status()["quarantine"] == []
    assert empty.history()[0]["outcome"] == "rolled_back"
    do(empty, "enable", "counter", *WHY)
    assert empty.ask("counter", "tick") == 5


def test_a_module_is_unloaded_with_its_state_kept_and_loaded_again(deployment: Deployment) -> None:
    deployment.deploy("bell/v1.0.0", bell=counter(1))
    assert deployment.ask("counter", "tick") == 1

    assert "counter 1.0.0 removed" in do(deployment, "unload", "counter", *WHY)

    why = r"counter is unloaded by .*: spring cleaning; livetag load counter. Nothing was sent"
    with pytest.raises(HostRefused, match=why):
        deployment.ask("counter", "tick")
    status = deployment.status()
    assert set(status["modules"]) == {"bell"}
    assert [(u["module"], u["state"], u["drift"]["why"]) for u in status["unloaded"]] == [
        ("counter", "unloaded", "spring cleaning")
    ]
    assert "unloaded" in do(deployment, "status")
    assert "counter is already unloaded" in do(deployment, "unload", "counter", *WHY)
    assert "cannot be disabled: it is not loaded" in refused(deployment, "disable", "counter", *WHY)
    deployment.stop()
    deployment.start()
    assert set(deployment.status()["modules"]) == {"bell"}

    assert "counter 1.0.0 added" in do(deployment, "load", "counter", *WHY)
    assert deployment.ask("counter", "tick") == 2
    assert (row(deployment)["drift"], deployment.status()["unloaded"]) == (None, [])
    wait_until(lambda: ["counter", "loaded"] in deployment.call("state", name="bell", path="told"), "told")
    assert [t for t in deployment.call("state", name="bell", path="told") if t[0] == "counter"] == [
        ["counter", "removed"],
        ["counter", "loaded"],
    ]


def test_a_second_module_is_loaded_from_a_package_and_moves_with_it(deployment: Deployment) -> None:
    two_versions(deployment)
    assert "There is no release of nothing" in refused(deployment, "load", "nothing", *WHY)
    said = do(deployment, "load", "second", "--package", "counter", "--version", "1.0.0", "--disabled", *WHY)
    assert "second (counter) 1.0.0 added" in said
    assert (row(deployment, "second")["state"], row(deployment, "second")["version"]) == ("disabled", "1.0.0")
    do(deployment, "enable", "second", *WHY)
    assert deployment.ask("second", "tick") == 1

    deployment.deploy("counter/v1.2.0", counter=counter(100))  # ends the swap, not the loading

    assert [deployment.ask(name, "tick") for name in ("counter", "second")] == [100, 101]
    assert row(deployment, "second")["drift"]["what"] == "loaded from counter"
    deployment.stop()
    deployment.start()
    assert deployment.ask("second", "tick") == 201
    do(deployment, "unload", "second", *WHY)
    assert set(deployment.status()["modules"]) == {"counter"}
    assert "is loaded already" in refused(deployment, "load", "counter", "--version", "1.0.0", *WHY)


def test_a_name_moves_between_modules_and_is_taken_away(empty: Deployment) -> None:
    empty.work.write("app.toml", '[modules.left]\nalso = ["front"]\n[modules.right]\n')
    empty.deploy("app/v1.0.0", left=counter(1), right=counter(1))
    assert empty.ask("front", "tick") == 1

    said = do(empty, "bind", "front", "right", *WHY)

    assert "right 1.0.0 bound to front" in said
    assert "left 1.0.0 no longer bound to front" in said
    assert [empty.ask("front", "tick"), empty.ask("right", "tick")] == [1, 2]
    assert "stays with it" in refused(empty, "bind", "left", "right", *WHY)
    assert "own name" in refused(empty, "unbind", "left", *WHY)
    empty.stop()
    empty.start()
    assert empty.ask("front", "tick") == 3
    do(empty, "unbind", "front", *WHY)
    with pytest.raises(HostRefused, match="No module is bound to 'front'"):
        empty.ask("front", "tick")
    do(empty, "bind", "front", "left", *WHY)
    assert empty.ask("front", "tick") == 2
    assert [row(empty, m)["drift"] for m in ("left", "right")] == [None, None], "as app.toml has it"


def test_nothing_goes_live_on_its_own_while_it_is_held(deployment: Deployment) -> None:
    assert "livetag unhold ends that" in do(deployment, "hold", "--reason", "release freeze")

    deployment.write("counter", counter(10))
    deployment.release("counter/v1.1.0")
    pushed = deployment.push("main", "counter/v1.1.0")

    assert pushed.returncode == 0, pushed.stderr
    assert "recorded" in pushed.stderr
    assert "release freeze; livetag unhold" in pushed.stderr
    assert "counter/v1.1.0" in deployment.tags()
    deployment.stop()
    deployment.start()
    plan = json.loads(do(deployment, "plan", "--json"))
    assert [(s["module"], s["is"]) for s in plan["steps"]] == [("counter", "held")]
    assert "release freeze" in plan["steps"][0]["why"]
    assert deployment.status()["holds"][0]["why"] == "release freeze"
    assert deployment.version() == "1.0.0"

    do(deployment, "deploy", "counter/v1.1.0")
    assert deployment.version() == "1.1.0"
    deployment.write("counter", counter(100))
    deployment.release("counter/v1.2.0")
    assert deployment.push("main", "counter/v1.2.0").returncode == 0
    do(deployment, "unhold")
    assert deployment.version() == "1.2.0"
    assert "Nothing is held" in do(deployment, "unhold")


def test_a_hold_of_one_module_keeps_no_other(deployment: Deployment) -> None:
    do(deployment, "hold", "counter", *WHY)
    deployment.deploy("bell/v1.0.0", bell=counter(1))
    deployment.write("counter", counter(10))
    deployment.release("counter/v1.1.0")
    assert "held by" in deployment.push("main", "counter/v1.1.0").stderr
    assert (deployment.version(), deployment.version("bell")) == ("1.0.0", "1.0.0")
    assert "no module typo to hold" in refused(deployment, "hold", "typo", *WHY)
    do(deployment, "unhold", "counter")
    assert deployment.version() == "1.1.0"


def test_where_nobody_can_be_asked_a_reason_is_required(deployment: Deployment) -> None:
    done = deployment.livetag("disable", "counter")
    assert done.returncode == 2
    assert "needs --reason" in done.stderr
    assert row(deployment)["state"] == "in service"


def test_what_was_done_by_hand_is_rolled_back_as_any_transaction(deployment: Deployment) -> None:
    two_versions(deployment)
    do(deployment, "disable", "counter", *WHY)
    assert do(deployment, "rollback", "--dry-run").splitlines()[-1] == "commands: livetag enable counter"
    said = do(deployment, "rollback", "--reason", "too early")
    assert "counter 1.1.0 enabled" in said
    newest, disabled = deployment.history()[:2]
    assert (newest["reason"], newest["who"], disabled["outcome"]) == (
        "too early",
        "livetag rollback",
        "reverted",
    )
    assert deployment.status()["modules"]["counter"]["drift"] is None
    do(deployment, "unload", "counter", *WHY)
    do(deployment, "rollback", "counter", "--reason", "it was needed")
    assert deployment.ask("counter", "tick") == 10
    do(deployment, "swap", "counter", "1.0.0", *WHY)
    do(deployment, "rollback", "--reason", "no")
    assert (deployment.version(), row(deployment)["drift"]) == ("1.1.0", None)


def test_a_composition_is_rolled_back_whole_and_what_it_removed_returns_with_its_state(
    empty: Deployment,
) -> None:
    empty.work.write("app.toml", '[modules.left]\nalso = ["front"]\n[modules.right]\n')
    empty.deploy("app/v1.0.0", "left/v1.0.0", "right/v1.0.0", left=counter(1), right=counter(1))
    empty.deploy("extra/v1.0.0", extra=counter(100))
    assert [empty.ask(name, "tick") for name in ("left", "right")] == [1, 1]
    empty.work.write("app.toml", '[modules.right]\nalso = ["front"]\nconfig = { n = 1 }\n[modules.extra]\n')
    empty.deploy("app/v1.1.0")
    assert (set(empty.status()["modules"]), empty.ask("front", "tick")) == ({"right", "extra"}, 2)
    assert len(empty.history()) == 2, "all that the composition changed was one transaction"

    preview = do(empty, "rollback", "--dry-run")
    assert "left 1.0.0 added" in preview
    assert "extra 1.0.0 removed" in preview
    done = do(empty, "rollback", "--reason", "left is needed")

    assert "app/v1.1.1" in done
    assert set(empty.status()["modules"]) == {"left", "right"}
    assert [empty.ask(name, "tick") for name in ("front", "left", "right")] == [2, 3, 3]
    assert "app/v1.1.1" in empty.tags()
    assert empty.history()[1]["outcome"] == "reverted"
    assert empty.status()["quarantine"][0]["module"] == "app"
    empty.stop()
    empty.start()
    assert set(empty.status()["modules"]) == {"left", "right"}


def test_the_first_composition_says_how_to_be_rid_of_it(deployment: Deployment) -> None:
    deployment.work.write("app.toml", "[modules.counter]\nconfig = { n = 1 }\n")
    deployment.deploy("app/v1.0.0")
    assert "git push live :app/v1.0.0" in refused(deployment, "rollback", "--reason", "x")


def test_numbered_messages_flow_through_every_command_and_none_is_lost(deployment: Deployment) -> None:
    deployment.deploy("counter/v1.1.0", counter=counter(10))
    do(deployment, "bind", "front", "counter", *WHY)
    do(deployment, "load", "second", "--package", "counter", *WHY)
    stream = _Stream(deployment)
    try:
        for command in (
            ("disable", "counter"),
            ("enable", "counter"),
            ("swap", "counter", "1.0.0"),
            ("bind", "front", "second"),
            ("swap", "second", "1.0.0"),
            ("bind", "front", "counter"),
            ("unbind", "front"),
            ("bind", "front", "second"),
            ("unload", "counter"),
        ):
            do(deployment, *command, *WHY)
            enough = stream.accepted + 10
            if command[0] not in {"disable", "unbind"}:
                wait_until(lambda n=enough: stream.accepted >= n, "messages flow on")  # type: ignore[misc]
    finally:
        stream.close()
    do(deployment, "load", "counter", *WHY)
    wait_until(
        lambda: not any(r["mailbox"]["length"] for r in deployment.status()["modules"].values()), "idle"
    )
    letters = [x["body"]["n"] for x in deployment.call("dead_letters", action="list")]
    noted = [deployment.call("state", name=name, path="notes") for name in ("counter", "second")]
    assert all(notes == sorted(notes) for notes in noted), "in the sender's order"
    assert sorted([*noted[0], *noted[1], *letters]) == list(range(stream.accepted))
    assert stream.refused > 0, "who sends to a name that nobody has is told so, and may send again"


class _Stream:
    """Sends numbers to `front` from a thread; one that is refused was not accepted, and is sent again."""

    def __init__(self, deployment: Deployment) -> None:
        self.accepted = self.refused = 0
        self._deployment = deployment
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.003):
            try:
                self._deployment.send("front", "note", n=self.accepted)
            except HostRefused:
                self.refused += 1
            else:
                self.accepted += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join(10.0)
