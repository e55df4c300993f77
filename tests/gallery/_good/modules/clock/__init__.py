"""A sender in the host itself: gives the counter numbered notes, some at a time."""

from typing import TypedDict
from zlib import crc32

from livetag import Module, every, handles

AT_A_TIME = 3


class State(TypedDict):
    sent: int
    open: bool


class Clock(Module[State]):
    def initial_state(self) -> State:
        return {"sent": 0, "open": True}

    @every(seconds=0.01)
    def strike(self) -> None:
        for _ in range(AT_A_TIME * self.state["open"]):
            self.state["sent"] += 1
            n = self.state["sent"]
            self.send(
                "counter", "note", {"sender": "clock", "n": n, "checksum": crc32(f"clock {n}".encode())}
            )

    @handles
    def close(self) -> int:
        self.state["open"] = False
        return self.state["sent"]
