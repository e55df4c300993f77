"""Knows the routes as the peers tell them now: prefix and peer → route."""

from __future__ import annotations

from typing import TypedDict

from livetag import Module, handles

ESTABLISHED = 6  # the state of a BGP session that carries routes (RFC 4271 §8)


class Update(TypedDict):
    """One UPDATE of one peer. A prefix is `10.0.0.0/8`, or `10.0.0.0/8#7` when it came with path id 7."""

    time: float
    peer: str
    announced: list[str]
    withdrawn: list[str]
    path: str
    origin: int | None


class Route(TypedDict):
    path: str
    origin: int | None
    since: float


class State(TypedDict):
    routes: dict[
        str, dict[str, Route]
    ]  # prefix → peer (`192.0.2.1`, or `192.0.2.1#7` with path id 7) → route


class Rib(Module[State]):
    def initial_state(self) -> State:
        return {"routes": {}}

    @handles
    def update(self, update: Update) -> None:
        """Take in one UPDATE; the detector hears of the prefixes that this peer now sees from another origin."""
        for named in update["withdrawn"]:
            prefix, mark, path_id = named.partition("#")
            self._drop(prefix, update["peer"] + mark + path_id)
        moved = self._announce(update)
        if moved and update["origin"] is not None:
            body = {"time": update["time"], "peer": update["peer"], "path": update["path"]}
            self.send("detector", "announced", {**body, "origin": update["origin"], "prefixes": moved})

    @handles
    def session(self, time: float, peer: str, before: int, after: int) -> None:  # noqa: ARG002 - the body's fields
        """Forget the routes of a peer whose session went down."""
        if before == ESTABLISHED and after != ESTABLISHED:
            for prefix, peers in list(self.state["routes"].items()):
                for key in [key for key in peers if key.partition("#")[0] == peer]:
                    self._drop(prefix, key)

    @handles
    def routes(self, prefix: str) -> dict[str, Route]:
        """Answer which peers have a route to this prefix, and what it is."""
        return dict(self.state["routes"].get(prefix, {}))

    @handles
    def size(self) -> dict[str, int]:
        routes = self.state["routes"]
        return {"prefixes": len(routes), "routes": sum(len(peers) for peers in routes.values())}

    def _announce(self, update: Update) -> list[str]:
        """Store the announced routes; returns the prefixes whose origin is new at this peer."""
        origin = update["origin"]
        route: Route = {"path": update["path"], "origin": origin, "since": update["time"]}
        moved = []
        for named in update["announced"]:
            prefix, mark, path_id = named.partition("#")
            key = update["peer"] + mark + path_id
            peers = self.state["routes"].setdefault(prefix, {})
            before = peers.get(key)
            if before is None or before["origin"] != origin:
                moved.append(prefix)
            peers[key] = route
        return moved

    def _drop(self, prefix: str, key: str) -> None:
        peers = self.state["routes"].get(prefix, {})
        peers.pop(key, None)
        if not peers:
            self.state["routes"].pop(prefix, None)
