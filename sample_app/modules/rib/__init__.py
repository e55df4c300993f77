"""Knows the routes as the peers tell them now: prefix and peer → route."""

from __future__ import annotations

from typing import TypedDict

from livetag import Module, Table, handles

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
    peers: dict[str, int]  # peer (`192.0.2.1`, or `192.0.2.1#7` with path id 7) → how many routes it has


class Rib(Module[State]):
    routes: Table[tuple[str, str], Route] = Table(version=1)  # prefix and peer → route

    def initial_state(self) -> State:
        return {"peers": {}}

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
            for prefix, key in list(self.routes):
                if key.partition("#")[0] == peer:
                    self._drop(prefix, key)

    @handles("routes")
    def of_prefix(self, prefix: str) -> dict[str, Route]:
        """Answer which peers have a route to this prefix, and what it is."""
        found = ((peer, self.routes.get((prefix, peer))) for peer in self.state["peers"])
        return {peer: route for peer, route in found if route is not None}

    @handles
    def size(self) -> dict[str, int]:
        return {"prefixes": len({prefix for prefix, _ in self.routes}), "routes": len(self.routes)}

    def _announce(self, update: Update) -> list[str]:
        """Store the announced routes; returns the prefixes whose origin is new at this peer."""
        origin = update["origin"]
        route: Route = {"path": update["path"], "origin": origin, "since": update["time"]}
        peers = self.state["peers"]
        moved = []
        for named in update["announced"]:
            prefix, mark, path_id = named.partition("#")
            key = update["peer"] + mark + path_id
            before = self.routes.get((prefix, key))
            if before is None:
                peers[key] = peers.get(key, 0) + 1
            if before is None or before["origin"] != origin:
                moved.append(prefix)
            self.routes[prefix, key] = route
        return moved

    def _drop(self, prefix: str, key: str) -> None:
        if self.routes.pop((prefix, key), None) is None:
            return
        peers = self.state["peers"]
        peers[key] -= 1
        if not peers[key]:
            del peers[key]
