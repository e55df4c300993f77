"""A durable module: what it was given is on disk, with its count, before the next is handled."""

from typing import TypedDict
from zlib import crc32

from livetag import Module, handles


class State(TypedDict):
    expected: dict[str, int]
    odd: int
    ledger: list[str]


class Till(Module[State]):
    state_version = 2

    def initial_state(self) -> State:
        return {"expected": {}, "odd": 0, "ledger": []}

    @handles
    def note(self, sender: str, n: int, checksum: int) -> None:
        expected = self.state["expected"].get(sender, 1)
        self.state["odd"] += n != expected or checksum != crc32(f"{sender} {n}".encode())
        self.state["expected"][sender] = n + 1


@Till.migrates(1, 2)
def up(old: dict) -> State:
    return {**old, "ledger": ["a line of the ledger"] * 4000}


@Till.migrates(2, 1)
def down(new: State) -> dict:
    return {"expected": new["expected"], "odd": new["odd"]}
