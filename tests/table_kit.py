"""Three versions of one module whose Table changes its records each time: {"n"} → (n, note) → "n/note"."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypedDict

import livetag
from livetag import Module, Table, handles
from repo_store.manifest import Limits


class Plain(TypedDict):
    n: int


Noted = tuple[int, str]
Key = tuple[str, int]


class Keeper(Module[dict[str, Any]]):
    """What all versions do, whatever a record looks like."""

    things: Any

    def made(self, n: int) -> Any:
        raise NotImplementedError

    @handles
    def put(self, key: int, n: int) -> None:
        self.things["k", key] = self.made(n)

    @handles
    def take(self, key: int) -> None:
        self.things.pop(("k", key), None)

    @handles
    def look(self, key: int) -> Any:
        return self.things.get(("k", key))

    @handles
    def size(self) -> int:
        return len(self.things)

    @handles
    def put_and_fail(self, keys: list[int]) -> None:
        for key in keys:
            self.things["k", key] = self.made(-1)
            if key % 2:
                del self.things["k", key]
        raise RuntimeError("as it happens")

    @handles
    async def put_slowly_and_fail(self, keys: list[int]) -> None:
        for key in keys:
            self.things["k", key] = self.made(-1)
            await asyncio.sleep(0)
        raise RuntimeError("as it happens")


class One(Keeper):
    things: Table[Key, Plain] = Table(version=1)

    def made(self, n: int) -> Plain:
        return {"n": n}


class Two(Keeper):
    things: Table[Key, Noted] = Table(version=2)

    def made(self, n: int) -> Noted:
        return (n, "two")


class Three(Keeper):
    things: Table[Key, str] = Table(version=3)

    def made(self, n: int) -> str:
        return f"{n}/three"


class Refuses(ValueError):
    """What a step says of a record that it does not take."""


@Two.migrates("things", 1, 2)
@Three.migrates("things", 1, 2)
def up_to_two(key: Key, old: Plain) -> Noted:
    if old["n"] == 13:
        raise Refuses("thirteen")
    return (old["n"], "up")


@Two.migrates("things", 2, 1)
@Three.migrates("things", 2, 1)
def down_to_one(key: Key, new: Noted) -> Plain:
    return {"n": new[0]}


@Three.migrates("things", 2, 3)
def up_to_three(key: Key, old: Noted) -> str:
    return f"{old[0]}/{old[1]}"


@Three.migrates("things", 3, 2)
def down_to_two(key: Key, new: str) -> Noted:
    n, _, note = new.partition("/")
    return (int(n), note)


def records(count: int) -> dict[str, dict[Key, Plain]]:
    """What a first version begins with."""
    return {"things": {("k", key): {"n": key} for key in range(count)}}


#: A test of records is none of the pause: a machine that is busy with other tests may take its budget.
begin = partial(livetag.testing.run, limits=Limits(pause_ms=5000.0))
