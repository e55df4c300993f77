"""Sees when a prefix, or a part of one, is announced by an origin that did not announce it before.

New in 1.1.0: it also remembers when each origin was seen (`livetag state detector origins`), so its state has another
shape. Alerts are the same.
"""

# ruff: noqa: N999 - in a repository this folder is called `detector`

from __future__ import annotations

from typing import Any, TypedDict

from livetag import Module, handles

from .cover import covering


class Seen(TypedDict):
    first: float | None  # None: before this version looked
    last: float | None
    times: int  # how often a peer came to see this origin


class State(TypedDict):
    origins: dict[str, dict[int, Seen]]  # prefix → AS number → when, the first one first


class Detector(Module[State]):
    state_version = 2

    def initial_state(self) -> State:
        return {"origins": {}}

    async def self_test(self) -> None:
        if "208.65.152.0/22" not in covering("208.65.153.0/24"):
            raise RuntimeError("208.65.153.0/24 is not seen as a part of 208.65.152.0/22")

    @handles
    def announced(self, time: float, peer: str, path: str, origin: int, prefixes: list[str]) -> None:
        said = {"time": time, "peer": peer, "path": path, "origin": origin}
        for prefix in prefixes:
            known = self.state["origins"].get(prefix)
            if known is None:
                self._look_above(prefix, said)
                known = self.state["origins"][prefix] = {}
            elif origin not in known:
                self._alert({"kind": "origin change", "prefix": prefix, "before": [*known], **said})
            seen = known.setdefault(origin, {"first": time, "last": time, "times": 0})
            seen["last"] = time
            seen["times"] += 1

    @handles
    def origins(self, prefix: str) -> list[int]:
        return [*self.state["origins"].get(prefix, {})]

    def _look_above(self, prefix: str, said: dict[str, Any]) -> None:
        """Tell if a new prefix is a part of a known one that other origins announce: longest match takes its traffic."""
        for wider in covering(prefix):
            known = self.state["origins"].get(wider)
            if known is not None:
                if said["origin"] not in known:
                    why = {"kind": "more specific", "prefix": prefix, "part_of": wider, "before": [*known]}
                    self._alert({**why, **said})
                return

    def _alert(self, alert: dict[str, Any]) -> None:
        self.send("alerts", "alert", alert)


@Detector.migrates(1, 2)
def up(old: dict[str, Any]) -> State:
    return {
        "origins": {
            prefix: {origin: {"first": None, "last": None, "times": 1} for origin in known}
            for prefix, known in old["origins"].items()
        }
    }


@Detector.migrates(2, 1)
def down(new: State) -> dict[str, Any]:
    return {"origins": {prefix: [*known] for prefix, known in new["origins"].items()}}
