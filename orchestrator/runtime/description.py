"""A version as data: what it handles, says, its timers, its state and steps. No I/O, no code of the version."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from orchestrator.runtime.schema import UNKNOWN, Schema


class Emit(msgspec.Struct, frozen=True):
    """One place where a version sends, asks or publishes: to which name (or topic), which type, what is known of the body.

    `file` is inside the release; it is empty for what only module.toml names.
    """

    how: Literal["send", "ask", "publish"]
    name: str
    type: str = ""
    body: dict[str, Any] = msgspec.field(default_factory=lambda: UNKNOWN)
    file: str = ""
    line: int = 0


class TableDescription(msgspec.Struct, frozen=True):
    """A Table as data: its version, what keys and records are, without names of classes, and the steps it has."""

    version: int
    key_schema: dict[str, Any]
    record_schema: dict[str, Any]
    migrations: tuple[tuple[int, int], ...] = ()


class Description(msgspec.Struct, frozen=True):
    """What a plan can check without loading the code. `entry` is `module:Class`; schemas are JSON Schema.

    `upcasts` are the older shapes that a type takes as well; `hears` is what the receivers of events take, by pattern;
    `returns` is what the reply to a type is, where the handler says so.
    """

    entry: str
    handles: dict[str, dict[str, Any]]
    subscribes: tuple[str, ...]
    timers: dict[str, float]
    intakes: tuple[str, ...]
    state_version: int
    state_schema: dict[str, Any]
    migrations: tuple[tuple[int, int], ...]
    tables: dict[str, TableDescription] = {}
    emits: tuple[Emit, ...] = ()
    upcasts: dict[str, tuple[Schema, ...]] = {}
    hears: dict[str, Schema] = {}
    returns: dict[str, Schema] = {}
