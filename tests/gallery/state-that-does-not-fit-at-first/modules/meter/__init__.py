"""Measures, once it starts."""

from typing import TypedDict

from livetag import Module


class State(TypedDict):
    total: int


class Meter(Module[State]):
    def initial_state(self) -> State:
        return {"total": "none yet"}
