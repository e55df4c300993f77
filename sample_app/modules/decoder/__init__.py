"""Turns MRT records into routes and session changes, counts them, and labels what it cannot read."""

from __future__ import annotations

from typing import TypedDict

from livetag import Module, handles

from .mrt import Decoded, decode


class State(TypedDict):
    announced: int
    withdrawn: int
    states: int
    others: int
    corrupt: int
    unsupported: int


class Decoder(Module[State]):
    def initial_state(self) -> State:
        return {"announced": 0, "withdrawn": 0, "states": 0, "others": 0, "corrupt": 0, "unsupported": 0}

    @handles
    def record(self, at: int, record: bytes) -> None:
        """Decode the MRT record that starts at byte `at` of the feed."""
        decoded = decode(record)
        kind = decoded["kind"]
        if kind == "update":
            self._update(at, decoded)
        elif kind == "state":
            self.state["states"] += 1
            self.send("rib", "session", {name: decoded[name] for name in ("time", "peer", "before", "after")})
        elif kind == "other":
            self.state["others"] += 1
        else:
            self._damaged(at, kind, decoded["why"])

    @handles
    def counts(self) -> State:
        return self.state.copy()

    def _update(self, at: int, update: Decoded) -> None:
        self.state["announced"] += len(update["announced"])
        self.state["withdrawn"] += len(update["withdrawn"])
        if update["why"]:
            self._damaged(at, "corrupt", update["why"])
        fields = ("time", "peer", "announced", "withdrawn", "path", "origin")
        self.send("rib", "update", {name: update[name] for name in fields})

    def _damaged(self, at: int, kind: str, why: str) -> None:
        if kind == "corrupt":
            self.state["corrupt"] += 1
        else:
            self.state["unsupported"] += 1
        self.publish(f"bgp.{kind}", {"at": at, "why": why})
