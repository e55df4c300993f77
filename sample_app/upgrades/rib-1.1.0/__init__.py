"""Knows the routes as the peers tell them now: prefix and peer → route.

New in 1.1.0: a record is a tuple, which takes half the room; so the records of its Table have another version, and steps up
and down.
"""

# ruff: noqa: N999 - in a repository this folder is called `rib`

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


Short = tuple[str, int | None, float]  # path, origin, since


class State(TypedDict):
    peers: dict[str, int]  # peer (`192.0.2.1`, or `192.0.2.1#7` with path id 7) → how many routes it has


class Rib(Module[State]):
    routes: Table[tuple[str, str], Short] = Table(version=2)  # prefix and peer → route

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
        return {peer: written_out(route) for peer, route in found if route is not None}

    @handles
    def size(self) -> dict[str, int]:
        return {"prefixes": len({prefix for prefix, _ in self.routes}), "routes": len(self.routes)}

    def _announce(self, update: Update) -> list[str]:
        """Store the announced routes; returns the prefixes whose origin is new at this peer."""
        origin = update["origin"]
        route = (update["path"], origin, update["time"])
        peers = self.state["peers"]
        moved = []
        for named in update["announced"]:
            prefix, mark, path_id = named.partition("#")
            key = update["peer"] + mark + path_id
            before = self.routes.get((prefix, key))
            if before is None:
                peers[key] = peers.get(key, 0) + 1
            if before is None or before[1] != origin:
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


def written_out(short: Short) -> Route:
    path, origin, since = short
    return {"path": path, "origin": origin, "since": since}


@Rib.migrates("routes", 1, 2)
def up(key: tuple[str, str], old: Route) -> Short:  # noqa: ARG001 - a step is given the key too
    return (old["path"], old["origin"], old["since"])


@Rib.migrates("routes", 2, 1)
def down(key: tuple[str, str], new: Short) -> Route:  # noqa: ARG001
    return written_out(new)
