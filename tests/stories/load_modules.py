"""The modules of the load story: three producers of different kinds, and the two relays between them and the sink."""

from __future__ import annotations

from collections.abc import Mapping

LANES = {"north": "tap", "east": "clock", "south": "feed"}  # module → how it gets what it passes on
RELAYS = ("left", "right")

MANIFEST = "[limits]\nmailbox_messages = 200\npause_ms = 200.0\n"


def app(feed: str, *, spare: bool = False, weight: int = 1) -> str:
    """Write the app.toml; `feed` is the socket that one producer reads, `spare` and `weight` are what varies."""
    modules: dict[str, tuple[str, str]] = {"sink": ("sink", ""), "spare": ("spare", "")}
    modules.update({name: ("lane", f'kind = "{kind}", socket = "{feed}"') for name, kind in LANES.items()})
    modules.update(dict.fromkeys(RELAYS, ("relay", f"weight = {weight}")))
    if spare:
        modules["second"] = ("spare", "")
    return '[app]\nname = "load"\n' + "".join(
        f'[modules.{name}]\npackage = "{package}"\nconfig = {{{config}}}\n'
        for name, (package, config) in modules.items()
    )


MARK = """
import sys
import time
import zlib

ERA = NUMBER


def boot() -> int:
    return sys.__dict__.setdefault("_boot_of_the_load", time.time_ns())


def in_the_host() -> bool:
    return "_boot_of_the_load" in sys.__dict__


def checksum(lane: str, n: int) -> int:
    return zlib.crc32(f"{lane} {n}".encode())


class Marked:
    # It counts the transactions that brought all modules another era. All count the same, since they switch together.
    # What is handed over is let go of, so that a version that is not given it back can do nothing.
    def hand_over(self):
        mark, self.mark = self.mark, None
        return {"mark": [ERA, mark[1]]}

    def take_over(self, resources):
        era, count = resources.get("mark") or (ERA, 0)
        self.mark = [boot(), count + (era != ERA)]
"""

# Of one kind of three: a tap that counts (a live resource) as fast as it is let, so that the mailboxes are full and
# back-pressure paces it; a clock; a feed that a process outside gives. It keeps all its numbers in its state, and checks
# that what it reads comes without a gap while its source lives.
LANE = """
import asyncio
import time
from itertools import count

from livetag import Module, every, handles, intake, resource

from .mark import Marked, checksum


class Lane(Marked, Module):
    variant = VARIANT

    def initial_state(self):
        return {"n": 0, "open": True, "read": {}, "odd": 0}

    def hand_over(self):
        tap, self.tap = self.tap, None
        return {**super().hand_over(), "tap": tap}

    def take_over(self, resources):
        super().take_over(resources)
        self.tap = resources.get("tap") or {"id": str(time.time_ns()), "count": count()}

    @resource
    async def stream(self) -> object:
        if self.config["kind"] == "feed":
            return await asyncio.open_unix_connection(self.config["socket"])
        return None

    async def only(self, kind: str) -> None:
        if self.config["kind"] != kind:
            await asyncio.sleep(86400)
        await asyncio.sleep(0)

    @intake
    async def number(self):
        await self.only("tap")
        return {"source": self.tap["id"], "number": next(self.tap["count"])}

    @intake
    async def line(self):
        await self.only("feed")
        return {"text": (await self.stream[0].readuntil()).decode()}

    @every(seconds=0.01)
    def turn(self) -> None:
        if self.config["kind"] == "clock":
            self.give(4)

    @handles("number")
    def forward(self, source: str, number: int) -> None:
        self.follow(source, number)

    @handles("line")
    def read(self, text: str) -> None:
        source, number = text.split()
        self.follow(source, int(number))

    def follow(self, source: str, number: int) -> None:
        self.state["odd"] += number != self.state["read"].get(source, 0)
        self.state["read"] = {source: number + 1}
        self.give(8)

    def give(self, count: int) -> None:
        if not self.state["open"]:
            return
        first = self.state["n"]
        for n in range(first, first + count):
            for via in ("left", "right"):
                lane = f"{self.name}.{via}"
                self.send(via, "note", {"lane": lane, "n": n, "sum": checksum(lane, n), "mark": [*self.mark]})
        self.state["n"] = first + count

    @handles
    def close(self) -> None:
        self.state["open"] = False

    @handles
    def sent(self) -> list[int]:
        return [self.state["n"], self.state["odd"]]
"""

RELAY = """
import time

from livetag import Module, handles, subscribes

from .mark import Marked, checksum


class Relay(Marked, Module):
    variant = VARIANT

    def initial_state(self):
        return {"odd": 0, "passed": 0, "pulse": 0, "toil": 0}

    @handles
    def note(self, lane: str, n: int, sum: int, mark: list[int], do: str = "") -> None:
        self.state["odd"] += sum != checksum(lane, n)
        self.state["passed"] += 1
        self.send("sink", "note", {"lane": lane, "n": n, "sum": sum, "marks": [mark, [*self.mark]], "do": do})
        if do == "take back":
            raise ValueError("what it has sent must not leave")

    def pass_on(self, lane: str, n: int) -> None:
        lane = f"{lane}.{self.name}"
        self.note(lane, n, checksum(lane, n), [0, 0])

    @subscribes("pulse")
    def on_pulse(self, event: dict) -> None:
        self.pass_on("pulse", event["n"])

    @handles(thread=True)
    def toil(self, n: int) -> None:
        time.sleep(0.1)
        self.pass_on("toil", n)

    @handles
    def mark_now(self) -> list[int]:
        return [*self.mark]

    @handles
    def odd(self) -> int:
        return self.state["odd"]
"""

SPARE = """
from livetag import Module, handles


class Spare(Module):
    def initial_state(self):
        return {"n": 0, "odd": 0}

    @handles
    def note(self, n: int) -> int:
        self.state["odd"] += n != self.state["n"]
        self.state["n"] = n + 1
        return self.state["n"]

    @handles
    def seen(self) -> list[int]:
        return [self.state["n"], self.state["odd"]]
"""


def mark(era: int) -> str:
    """Give the part that all packages have, of one era."""
    return MARK.replace("NUMBER", str(era))


def package(name: str, variant: int, era: int) -> Mapping[str, str]:
    """Give the files of the producers or of the relays; two variants differ, so that a swap of them is one."""
    code = {"lane": LANE, "relay": RELAY}[name].replace("VARIANT", str(variant))
    return {"__init__.py": code, "mark.py": mark(era), "module.toml": MANIFEST}
