"""Measures, in circles."""

from livetag import Module


class Meter(Module):
    def initial_state(self) -> dict:
        state = {"total": 0}
        state["self"] = state
        return state
