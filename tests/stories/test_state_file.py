"""A module's state as a file: exported, looked at, imported between two units, by the module's own steps."""

from __future__ import annotations

import hashlib
import json
import stat

import msgspec

from tests.stories.deployment import Deployment

FIRST = """
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
SECOND = """
    from typing import TypedDict
    from livetag import Module, handles

    class State(TypedDict):
        total: int
        by_key: dict[int, bytes]

    class Counter(Module[State]):
        state_version = 2

        def initial_state(self) -> State:
            return {"total": 0, "by_key": {}}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            self.state["by_key"][by] = b"x" * by
            return self.state["total"]

    @Counter.migrates(1, 2)
    def up(old: dict) -> State:
        return {"total": old["total"] // old.get("parts", 1), "by_key": {}}

    @Counter.migrates(2, 1)
    def down(new: State) -> dict:
        return {"total": new["total"]}
"""


def digest(state: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(state)).hexdigest()


def test_a_state_goes_out_and_comes_back_through_the_steps_of_the_version_in_service(
    deployment: Deployment,
) -> None:
    deployment.deploy("counter/v1.0.0", counter=FIRST)
    deployment.ask("counter", "tick", by=7)
    file = deployment.path.parent / "counter.json"
    assert deployment.livetag("state", "counter", "--export", str(file)).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    held = json.loads(file.read_text())
    assert (held["package"], held["version"], held["state_version"], held["state"]) == (
        "counter",
        "1.0.0",
        1,
        {"total": 7},
    )
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".counter")] == []

    deployment.deploy("counter/v1.1.0", counter=SECOND)
    deployment.ask("counter", "tick", by=3)
    done = deployment.livetag(
        "state", "counter", "--import", str(file), "--reason", "a mistyped tick", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert deployment.call("state", name="counter") == {"total": 7, "by_key": {}}
    assert json.loads(done.stdout)["after"] == digest({"total": 7, "by_key": {}})
    newest = deployment.history()[0]
    assert (newest["outcome"], newest["reason"]) == ("state imported", "a mistyped tick")
    assert newest["state"] == {
        "before": digest({"total": 10, "by_key": {3: b"xxx"}}),
        "after": digest({"total": 7, "by_key": {}}),
    }
    assert newest["who"]
    shown = deployment.livetag("history", "counter").stdout
    assert "state imported" in shown
    assert "a mistyped tick" in shown

    deployment.stop()
    deployment.start()
    assert deployment.history()[0]["outcome"] == "state imported", "the journal has it"
    assert deployment.ask("counter", "tick", by=2) == 9

    # What JSON cannot hold as it is comes back all the same, and down again by the version's own step.
    assert deployment.livetag("state", "counter", "--export", str(file)).returncode == 0
    assert "data" in json.loads(file.read_text())
    deployment.ask("counter", "tick", by=1)
    assert deployment.livetag("state", "counter", "--import", str(file), "--reason", "again").returncode == 0
    assert deployment.ask("counter", "tick", by=1) == 10


def test_what_does_not_fit_is_refused_and_changes_nothing(deployment: Deployment) -> None:
    deployment.deploy("counter/v1.0.0", "other/v1.0.0", counter=SECOND, other=FIRST)
    deployment.ask("counter", "tick", by=5)
    before = deployment.call("state", name="counter")
    file = deployment.path.parent / "file.json"
    good = json.loads(deployment.livetag("state", "other", "--export", "-").stdout)

    def importing(name: str = "counter", *more: str, **changes: object) -> str:
        file.write_text(json.dumps({**good, "package": "counter", **changes}))
        done = deployment.livetag("state", name, "--import", str(file), *(more or ("--reason", "test")))
        return "" if done.returncode == 0 else done.stderr

    assert "a state of the package other, and counter is made from counter" in importing(package="other")
    assert "cannot take the file's state: No migration leads from state version 9 to 2" in importing(
        state_version=9
    )
    assert "cannot take the file's state: The state does not fit its type" in importing(state_version=2)
    assert "a step of counter 1.0.0 raised ZeroDivisionError" in importing(state={"total": 1, "parts": 0})
    assert "(counter/__init__.py line" in importing(state={"total": 1, "parts": 0})
    assert "needs --reason TEXT" in importing("counter", "--force")
    assert "nobody is not loaded" in importing("nobody")
    assert "is of format 2" in importing(livetag=2)
    assert deployment.call("state", name="counter") == before
    assert not [row for row in deployment.history() if row["outcome"] == "state imported"]
    file.write_text("{")
    unread = deployment.livetag("state", "counter", "--import", str(file), "--reason", "test")
    assert (unread.returncode, "cannot be read as a state file" in unread.stderr) == (2, True)

    assert importing("counter", "--force", "--reason", "test", package="other") == ""
    assert deployment.call("state", name="counter")["total"] == 0
