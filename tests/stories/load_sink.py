"""The modules of the load story: a producer, and a sink whose state comes in three shapes."""

from __future__ import annotations

LANES = ("north", "east", "south", "west")

APP = '[app]\nname = "load"\n[modules.sink]\n' + "".join(
    f'[modules.{name}]\npackage = "lane"\n' for name in LANES
)

# It counts as fast as it is let, eight numbers a unit: the sink's mailbox is full, and back-pressure paces the lanes.
# The count is a live resource, so that it also shows that nothing is lost or read twice between two of its versions.
LANE = """
import asyncio
from itertools import count

from livetag import Module, handles, intake


class Lane(Module):
    variant = VARIANT

    def initial_state(self):
        return {"sent": 0}

    def hand_over(self):
        return {"tap": self.tap}

    def take_over(self, resources):
        self.tap = resources.get("tap") or {"eights": count(), "open": True}

    @intake
    async def number(self):
        await asyncio.sleep(0)
        if not self.tap["open"]:
            await asyncio.sleep(0.01)
            return None
        return {"first": 8 * next(self.tap["eights"])}

    @handles("number")
    def forward(self, first: int) -> None:
        for n in range(first, first + 8):
            self.state["sent"] += 1
            self.send("sink", "note", {"lane": self.name, "n": n})

    @handles
    def close(self) -> None:
        self.tap["open"] = False

    @handles
    def sent(self) -> int:
        return self.state["sent"]
"""

MANIFEST = "[limits]\nmailbox_messages = 200\n"

# What every shape of the sink does; `lane` and `put` of a shape hide how it keeps them.
BASE = """
import asyncio
from typing import Any

from livetag import Module, handles


class Base(Module[dict[str, Any]]):
    @handles
    async def note(self, lane: str, n: int) -> None:
        if n % 50 == 0:
            await asyncio.sleep(0)  # a unit that spans turns of the loop: a switch has to wait for it
        following, handled = self.lane(lane)
        missing = self.state["missing"].setdefault(lane, [])
        if n >= following:
            missing.extend(range(following, n))
        elif n in missing:
            missing.remove(n)
            self.state["reordered"] += 1
        else:
            self.state["twice"] += 1
        self.put(lane, max(n + 1, following), handled + 1)

    @handles
    def report(self) -> dict[str, Any]:
        faults = {key: self.state[key] for key in ("missing", "twice", "reordered")}
        return {"lanes": self.lanes(), "shape": self.state_version, **faults}
"""

ONE = """
from .base import Base


class Sink(Base):
    state_version = 1

    def initial_state(self):
        return {"next": {}, "handled": {}, "missing": {}, "twice": 0, "reordered": 0}

    def lane(self, lane):
        return self.state["next"].get(lane, 0), self.state["handled"].get(lane, 0)

    def put(self, lane, following, handled):
        self.state["next"][lane], self.state["handled"][lane] = following, handled

    def lanes(self):
        return {lane: self.lane(lane) for lane in self.state["next"]}
"""

STEPS_1_2 = """

@Sink.migrates(1, 2)
def up(old):
    handled = old.pop("handled")
    old["lanes"] = {lane: {"next": n, "handled": handled[lane]} for lane, n in old.pop("next").items()}
    return old


@Sink.migrates(2, 1)
def down(new):
    lanes = new.pop("lanes")
    new["next"] = {lane: row["next"] for lane, row in lanes.items()}
    new["handled"] = {lane: row["handled"] for lane, row in lanes.items()}
    return new
"""

TWO = (
    """
from .base import Base


class Sink(Base):
    state_version = 2

    def initial_state(self):
        return {"lanes": {}, "missing": {}, "twice": 0, "reordered": 0}

    def lane(self, lane):
        row = self.state["lanes"].get(lane, {})
        return row.get("next", 0), row.get("handled", 0)

    def put(self, lane, following, handled):
        self.state["lanes"][lane] = {"next": following, "handled": handled}

    def lanes(self):
        return {lane: self.lane(lane) for lane in self.state["lanes"]}
"""
    + STEPS_1_2
)

THREE = (
    """
from .base import Base


class Sink(Base):
    state_version = 3

    def initial_state(self):
        return {"rows": [], "missing": {}, "twice": 0, "reordered": 0}

    def lane(self, lane):
        return next(((n, handled) for name, n, handled in self.state["rows"] if name == lane), (0, 0))

    def put(self, lane, following, handled):
        rest = [row for row in self.state["rows"] if row[0] != lane]
        self.state["rows"] = [*rest, [lane, following, handled]]

    def lanes(self):
        return {lane: (n, handled) for lane, n, handled in self.state["rows"]}
"""
    + STEPS_1_2
    + """

@Sink.migrates(2, 3)
def up_again(old):
    lanes = old.pop("lanes")
    old["rows"] = [[lane, row["next"], row["handled"]] for lane, row in lanes.items()]
    return old


@Sink.migrates(3, 2)
def down_again(new):
    new["lanes"] = {lane: {"next": n, "handled": handled} for lane, n, handled in new.pop("rows")}
    return new
"""
)

SHAPES = {1: ONE, 2: TWO, 3: THREE}

# Its switch fails half-way, when the old version has handed over and the state is migrated already.
TRIPS = """

def trip(self, resources):
    raise RuntimeError("tripped in the switch NUMBER")


Sink.take_over = trip
"""


def lane(variant: int) -> str:
    """Give the producer's code; two variants differ, so that a swap of them is one."""
    return LANE.replace("VARIANT", str(variant))


def sink(shape: int, trips: int | None = None) -> dict[str, str]:
    """Give the files of the sink's package; `trips`: one that fails in the switch, different for each number."""
    code = SHAPES[shape] + ("" if trips is None else TRIPS.replace("NUMBER", str(trips)))
    return {"__init__.py": code, "base.py": BASE, "module.toml": MANIFEST}
