"""A durable module: what it was given is on disk, with its count, before the next is handled."""

from typing import TypedDict
from zlib import crc32

from livetag import Module, handles


class State(TypedDict):
    expected: dict[str, int]
    odd: int


class Till(Module[State]):
    def initial_state(self) -> State:
        return {"expected": {}, "odd": 0}

    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        expected = self.state["expected"].get(sender, 1)
        self.state["odd"] += n != expected or checksum != crc32(f"{sender} {n}".encode())
        self.state["expected"][sender] = n + 1

    def take_over(self, resources: dict) -> None:
        raise RuntimeError("the drawer is stuck")
