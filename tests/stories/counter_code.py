"""A counter, and its third state version with all steps: code of releases that several stories push."""

from __future__ import annotations

COUNTER = """
    from typing import TypedDict

    from livetag import Module, handles

    class State(TypedDict):
        total: int

    class Counter(Module[State]):
        def initial_state(self) -> State:
            return {"total": 0}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            return self.state["total"]
"""
VERSION_3 = """
    from typing import TypedDict

    from livetag import Module, handles

    class State(TypedDict):
        total: int
        by_key: dict[str, int]

    class Counter(Module[State]):
        state_version = 3

        def initial_state(self) -> State:
            return {"total": 0, "by_key": {}}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            return self.state["total"]

    @Counter.migrates(1, 2)
    def up_sum(old: dict) -> dict:
        return {"sum": old["total"]}

    @Counter.migrates(2, 3)
    def up(old: dict) -> State:
        return {"total": old["sum"], "by_key": {}}

    @Counter.migrates(3, 2)
    def down(new: State) -> dict:
        return {"sum": new["total"]}

    @Counter.migrates(2, 1)
    def down_sum(new: dict) -> dict:
        return {"total": new["sum"]}
"""
