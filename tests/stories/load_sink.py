"""The sink of the load story: its state comes in three shapes, and it knows what was lost, doubled, reordered, mixed.

A `lane` here is a producer and the way its messages took. A mark tells how many times all modules changed together:
along a message's way it never falls, and what one unit asks for, while it lasts, is all of one mark.
"""

from __future__ import annotations

from tests.stories.load_modules import MANIFEST, mark

# What every shape of the sink does; `lane` and `put` of a shape hide how it keeps them.
BASE = """
import asyncio
from typing import Any

from livetag import Module, handles

from .mark import Marked, checksum


class Base(Marked, Module[dict[str, Any]]):
    @handles
    async def note(self, lane: str, n: int, sum: int, marks: list[list[int]], do: str = "") -> None:
        if do:
            await self.suffer(do)  # before anything is written: a unit that fails must leave no trace
        if n % 50 == 0:
            await asyncio.sleep(0)  # a unit that spans turns of the loop: a switch has to wait for it
        if n % 400 == 0 and lane == "north.left":  # seldom: what it waits for is let in over the mailbox's limit
            marks = [*marks, *await self.seen(), self.mark]
        self.state["odd"] += sum != checksum(lane, n)
        self.state["mixed"] += marks[0] > marks[1] or marks[1] > self.mark or len({*map(tuple, marks[2:])}) > 1
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

    async def seen(self) -> list[list[int]]:
        # While this unit lasts no transaction can switch: all that it asks are of the same one.
        return [await self.ask(name, "mark_now", {}, returns=list[int], timeout_s=20.0) for name in ("left", "right")]

    async def suffer(self, do: str) -> None:
        if do == "raise":
            raise ValueError("as it was told")
        if do == "slow":
            await asyncio.sleep(0.15)
        while do == "spin":
            pass

    @handles
    def seen_of(self, lane: str) -> int:
        return self.lane(lane)[0]

    @handles
    def report(self) -> dict[str, Any]:
        faults = {key: self.state[key] for key in ("missing", "twice", "reordered", "odd", "mixed")}
        return {"lanes": self.lanes(), "shape": self.state_version, **faults}
"""

ONE = """
from .base import Base


class Sink(Base):
    state_version = 1

    def initial_state(self):
        return {"next": {}, "handled": {}, "missing": {}, "twice": 0, "reordered": 0, "odd": 0, "mixed": 0}

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
        return {"lanes": {}, "missing": {}, "twice": 0, "reordered": 0, "odd": 0, "mixed": 0}

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
        return {"rows": [], "missing": {}, "twice": 0, "reordered": 0, "odd": 0, "mixed": 0}

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

# What is wrong with a broken release, and where it fails.
BROKEN = {
    "an import": "import a_library_that_nobody_has",
    "prepare": """
async def prepare(self):
    raise RuntimeError("not prepared NUMBER")


Sink.prepare = prepare
""",
    "a migration": """
Sink.state_version = 9


@Sink.migrates(SHAPE, 9)
def on(old):
    if in_the_host():
        raise RuntimeError("not migrated NUMBER")
    return old


@Sink.migrates(9, SHAPE)
def back(new):
    return new
""",
    "take_over": """
def trip(self, resources):
    raise RuntimeError("tripped in the switch NUMBER")


Sink.take_over = trip
""",
    "the pause": """
def dawdle(self, resources):
    time.sleep(0.3)


Sink.take_over = dawdle  # NUMBER
""",
}


def sink(shape: int, era: int, broken: str = "", number: int = 0) -> dict[str, str]:
    """Give the files of the sink's package; `broken`: one of BROKEN, different for each number."""
    wrong = BROKEN[broken].replace("NUMBER", str(number)).replace("SHAPE", "3") if broken else ""
    shape = 3 if broken else shape  # which knows the way from all of them
    code = SHAPES[shape] + (
        f"\n\nimport time\n\nfrom .mark import in_the_host\n\n{wrong}\n" if broken else ""
    )
    return {"__init__.py": code, "base.py": BASE, "mark.py": mark(era), "module.toml": MANIFEST}
