"""An application of eight modules changes shape five times under load, and the ledger of its messages is at zero."""

from __future__ import annotations

from typing import Any

from tests.stories.deployment import Deployment, Facts, wait_until

LANES = ("north", "east", "south", "west")
NAMES = "abc"

# Six numbers every few milliseconds, each to one of three names; nothing in it knows which module has a name.
LANE = """
    import asyncio

    from livetag import Module, handles, intake


    class Lane(Module):
        def initial_state(self):
            return {"n": 0, "sum": 0, "squares": 0, "told": 0, "open": True}

        @intake
        async def turn(self):
            await asyncio.sleep(0.004)
            return {}

        @handles("turn")
        def forward(self) -> None:
            if not self.state["open"]:
                return
            for n in range(self.state["n"], self.state["n"] + 6):
                self.send("abc"[n % 3], "note", {"lane": self.name, "name": "abc"[n % 3], "n": n})
                self.state["sum"] += n
                self.state["squares"] += n * n
            self.state["n"] += 6
            self.state["told"] += 1
            self.publish("turn.of." + self.name, {"n": self.state["n"]})

        @handles
        def close(self) -> None:
            self.state["open"] = False
"""
SINK = """
    import asyncio

    from livetag import Module, handles


    class Sink(Module):
        def initial_state(self):
            return {"notes": 0, "sum": 0, "squares": 0, "last": {}, "disorder": []}

        @handles
        async def note(self, lane: str, name: str, n: int) -> None:
            if n % 50 == 0:
                await asyncio.sleep(0.002)  # so that messages wait, and a switch has to wait for a unit
            key = f"{lane}.{name}"
            if n <= self.state["last"].get(key, -1):
                self.state["disorder"].append([key, n])
            self.state["last"][key] = n
            self.state["notes"] += 1
            self.state["sum"] += n
            self.state["squares"] += n * n
"""
EAR = """
    from livetag import Module, subscribes


    class Ear(Module):
        def initial_state(self):
            return {"heard": 0}

        @subscribes("turn.of.*")
        def on_turn(self, event: dict) -> None:
            self.state["heard"] += 1
"""


def app(**modules: str) -> str:
    """Write an app.toml: the four lanes, and each of these modules as `package` or `package: names`."""
    text = '[app]\nname = "shapes"\n' + "".join(f'[modules.{lane}]\npackage = "lane"\n' for lane in LANES)
    for module, spec in modules.items():
        package, _, names = spec.partition(":")
        text += f'[modules.{module}]\npackage = "{package}"\nalso = [{", ".join(map(repr, names.split()))}]\n'
    return text


SHAPES = {
    "eight modules": app(left="sink:a b", right="sink:c", audit="ear", spare="ear"),
    "one is added": app(left="sink:a b", right="sink:c", audit="ear", spare="ear", extra="sink"),
    "one is removed": app(left="sink:a b", right="sink:c", audit="ear", extra="sink"),
    "one is split into two": app(left="sink:a", half="sink:b", right="sink:c", audit="ear", extra="sink"),
    "the two are merged back": app(left="sink:a b", right="sink:c", audit="ear", extra="sink"),
    "two names are exchanged": app(left="sink:c b", right="sink:a", audit="ear", extra="sink"),
}


def test_eight_modules_change_shape_five_times_under_load_and_no_message_is_lost(
    deployment: Deployment,
) -> None:
    for package, code in (("lane", LANE), ("sink", SINK), ("ear", EAR)):
        deployment.write(package, code)
    for number, (what, composition) in enumerate(SHAPES.items()):
        deployment.work.write("app.toml", composition)
        packages = ["lane/v1.0.0", "sink/v1.0.0", "ear/v1.0.0"] if number == 0 else []
        deployment.deploy(f"app/v1.{number}.0", *packages)
        assert len(deployment.history()) == number + 1, f"{what}: one transaction"
        keep_flowing(deployment)

    changed = [[m["text"] for m in entry["modules"]] for entry in reversed(deployment.history()[:5])]
    assert changed == [
        ["extra (sink) 1.0.0 added"],
        ["spare (ear) 1.0.0 removed"],
        ["half (sink) 1.0.0 added", "left (sink) 1.0.0 no longer bound to b"],
        ["left (sink) 1.0.0 bound to b", "half (sink) 1.0.0 removed"],
        [
            "left (sink) 1.0.0 bound to c and no longer bound to a",
            "right (sink) 1.0.0 bound to a and no longer bound to c",
        ],
    ]
    assert len(deployment.status()["modules"]) == 8
    check_the_ledger(deployment)


def keep_flowing(deployment: Deployment) -> None:
    """Return once each name has taken some more from every lane."""
    before = {lane: deployment.call("state", name=lane, path="n") for lane in LANES}
    wait_until(
        lambda: all(deployment.call("state", name=lane, path="n") > before[lane] + 60 for lane in LANES),
        "the lanes send on",
    )


def check_the_ledger(deployment: Deployment) -> None:
    """Stop the lanes; what they sent is handled once, or in the dead letters with the reason."""
    for lane in LANES:
        deployment.send(lane, "close")
    wait_until(lambda: not any(deployment.call("state", name=lane, path="open") for lane in LANES), "closed")
    wait_until(lambda: not any(waiting(deployment)), "nothing waits any more")
    letters = deployment.call("dead_letters", action="list")
    lost = [letter for letter in letters if letter["type"] == "note"]
    assert {letter["module"] for letter in letters} <= {"half", "spare"}, letters[:3]
    assert all("removed" in letter["reason"] for letter in letters)
    lanes = [deployment.call("state", name=lane) for lane in LANES]
    sinks = [deployment.call("state", name=sink) for sink in ("left", "right")] + [away(deployment, "half")]
    for key, power in (("sum", 1), ("squares", 2)):
        dead = sum(letter["body"]["n"] ** power for letter in lost)
        assert total(lanes, key) == total(sinks, key) + dead, key
    assert total(lanes, "n") == total(sinks, "notes") + len(lost)
    assert [sink["disorder"] for sink in sinks] == [[], [], []]
    told, audit = total(lanes, "told"), deployment.call("state", name="audit", path="heard")
    assert audit == told, "a subscriber that stayed heard every event once"
    for name, row in deployment.status()["modules"].items():
        box = row["mailbox"]
        assert box["accepted"] == box["handled"] + box["dead"] + box["length"], name


def waiting(deployment: Deployment) -> list[int]:
    return [
        row["mailbox"]["length"]
        for name, row in deployment.status()["modules"].items()
        if name not in LANES  # their intakes go on, and are not counted
    ]


def total(states: list[Facts], key: str) -> int:
    return sum(state[key] for state in states)


def away(deployment: Deployment, module: str) -> Any:
    """The state of a module that left: it is kept, so it is loaded again to be looked at."""
    done = deployment.livetag("load", module, "--package", "sink", "--reason", "to look at its state")
    assert done.returncode == 0, done.stderr
    return deployment.call("state", name=module)
