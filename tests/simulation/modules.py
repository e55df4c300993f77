"""The modules of a world: they count numbered messages, in state and in a Table, and tell the world of each.

What a version is (state version, table version, slow or not) is its shape; what goes wrong with one release (import,
prepare, take-over, trial) is its `Spec`. Each step up adds 1,000 to a count, each step down takes them away, so that a
step that is forgotten, or taken twice, shows in the next message.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import msgspec

from livetag import Module, Table, handles
from orchestrator.runtime.blueprint import Blueprint, describe
from orchestrator.runtime.errors import ModuleError
from repo_store.manifest import Limits, ModuleManifest, Probation

STEP = 1000
STATE_VERSIONS = TABLE_VERSIONS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What all releases with the same code have in common."""

    state: int = 1
    table: int = 0  # 0: none
    slow: bool = False
    broken_step: bool = False  # its last step up raises


@dataclass(frozen=True, slots=True)
class Spec:
    """One release: its shape, and where it fails; `fault` names the step, "" is a good one."""

    shape: Shape = Shape()
    fault: str = ""
    slow_s: float = 0.01  # how long a unit, prepare and the trial may take
    drain_s: float = 1.0
    mailbox: int = 1000
    durable: bool = False
    probation_s: float = 0.0
    min_messages: int = 3
    sour: int = 0  # after so many messages it fails on each; 0: never

    @property
    def bad(self) -> bool:
        """Whether anything at all is wrong with it."""
        return bool(self.fault) or self.shape.broken_step

    @property
    def manifest(self) -> ModuleManifest:
        limits = Limits(load_s=2.0, drain_s=self.drain_s, pause_ms=5000.0, mailbox_messages=self.mailbox)
        asked = Probation(
            seconds=self.probation_s, min_messages=self.min_messages, max_error_rate=0.3, max_p99_ms=60_000.0
        )
        return ModuleManifest(limits=limits, durable=self.durable, probation=asked)


class Eye(Protocol):
    """What a version in a world is watched through; it is in its config."""

    async def prepare(self) -> None: ...
    def take_over(self) -> None: ...
    async def stop(self) -> None: ...
    def begin(self, module: Counter, epoch: int, src: int, n: int) -> None: ...
    async def work(self, module: Counter, n: int) -> None: ...
    def end(self, module: Counter, epoch: int, src: int, n: int) -> None: ...


class Row1(TypedDict):
    one: int


class Row2(TypedDict):
    two: int


class Row3(TypedDict):
    three: int


class State1(TypedDict):
    total: int


class State2(TypedDict):
    count: int


class State3(TypedDict):
    sum: int


_ROWS: tuple[tuple[str, Any], ...] = (("one", Row1), ("two", Row2), ("three", Row3))
_STATES: tuple[tuple[str, Any], ...] = (("total", State1), ("count", State2), ("sum", State3))


class Counter(Module[dict[str, Any]]):
    """What all shapes do."""

    field = "total"
    row = ""
    rows: Any
    token: str | None = None

    def initial_state(self) -> dict[str, Any]:
        return {self.field: STEP * (self.state_version - 1)}

    @property
    def eye(self) -> Eye:
        watcher: Eye = self.config["eye"]
        return watcher

    @property
    def counted(self) -> int:
        """The count, whatever the version of the state."""
        value: int = self.state[self.field]
        return value - STEP * (self.state_version - 1)

    def kept(self, src: int) -> int | None:
        """What the Table has of a sender, whatever its version; None without a Table."""
        if not self.row:
            return None
        record = self.rows.get(src)
        return 0 if record is None else record[self.row] - self._raised

    @property
    def _raised(self) -> int:
        version: int = self.rows.version
        return STEP * (version - 1)

    def note(self, src: int) -> None:
        """One more from this sender, in the Table."""
        if self.row:
            self.rows[src] = {self.row: (self.kept(src) or 0) + 1 + self._raised}

    def count(self) -> None:
        self.state[self.field] += 1

    async def prepare(self) -> None:
        await self.eye.prepare()

    def hand_over(self) -> dict[str, Any]:
        """The one thing that only one version may have at a time."""
        token, self.token = self.token, None
        return {"token": token}

    def take_over(self, resources: dict[str, Any]) -> None:
        self.token = resources.get("token", self.name)
        self.eye.take_over()

    async def stop(self) -> None:
        await self.eye.stop()

    @handles
    def total(self) -> int:
        return self.counted


class Quick(Counter):
    @handles(again=False)
    def tell(self, epoch: int, src: int, n: int) -> None:
        self.eye.begin(self, epoch, src, n)
        self.eye.end(self, epoch, src, n)


class Slow(Counter):
    @handles(again=False)
    async def tell(self, epoch: int, src: int, n: int) -> None:
        self.eye.begin(self, epoch, src, n)
        await self.eye.work(self, n)
        self.eye.end(self, epoch, src, n)


class Poison(Exception):
    """A message that a handler cannot take."""


@functools.cache
def blueprint(shape: Shape) -> Blueprint:
    """The code of a shape, compiled once per process."""
    field, state = _STATES[shape.state - 1]
    base = Slow if shape.slow else Quick
    body: dict[str, Any] = {"state_version": shape.state, "field": field, "__module__": __name__}
    if shape.table:
        row, type_ = _ROWS[shape.table - 1]
        table: Any = Table(version=shape.table)
        annotation: Any = Table[int, type_]  # type: ignore[valid-type]  # made here
        body.update({"row": row, "rows": table, "__annotations__": {"rows": annotation}})
    base_of_state: Any = base
    made: Any = type(f"S{shape.state}T{shape.table}", (base_of_state,), body)
    made.__orig_bases__ = (Module[state],)  # type: ignore[valid-type]
    _add_steps(made, shape)
    return Blueprint(made)


def _add_steps(made: Any, shape: Shape) -> None:
    for low in range(1, shape.state):
        made.migrates(low, low + 1)(_step(_STATES, low, low + 1, broken=shape.broken_step))
        made.migrates(low + 1, low)(_step(_STATES, low + 1, low))
    for low in range(1, shape.table):
        made.migrates("rows", low, low + 1)(_row_step(low, low + 1))
        made.migrates("rows", low + 1, low)(_row_step(low + 1, low))


def _step(fields: tuple[tuple[str, Any], ...], before: int, after: int, *, broken: bool = False) -> Any:
    old, new = fields[before - 1][0], fields[after - 1][0]

    def step(state: Any) -> Any:
        if broken:
            raise ValueError("this step up is broken")
        return {new: state[old] + STEP * (after - before)}

    return step


def _row_step(before: int, after: int) -> Any:
    step = _step(_ROWS, before, after)
    return lambda _key, record: step(record)


@functools.cache
def description(shape: Shape) -> bytes:
    """What the staging child would say of it."""
    return msgspec.json.encode(describe(blueprint(shape), "counter:Counter"))


__all__ = ["STEP", "Counter", "Eye", "ModuleError", "Poison", "Shape", "Spec", "blueprint", "description"]
