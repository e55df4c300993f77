"""A version as data: what it handles, its timers, its state and steps. No I/O, no code of the version."""

from __future__ import annotations

from typing import Any

import msgspec


class TableDescription(msgspec.Struct, frozen=True):
    """A Table as data: its version, what keys and records are, without names of classes, and the steps it has."""

    version: int
    key_schema: dict[str, Any]
    record_schema: dict[str, Any]
    migrations: tuple[tuple[int, int], ...] = ()


class Description(msgspec.Struct, frozen=True):
    """What a plan can check without loading the code. `entry` is `module:Class`; schemas are JSON Schema."""

    entry: str
    handles: dict[str, dict[str, Any]]
    subscribes: tuple[str, ...]
    timers: dict[str, float]
    intakes: tuple[str, ...]
    state_version: int
    state_schema: dict[str, Any]
    migrations: tuple[tuple[int, int], ...]
    tables: dict[str, TableDescription] = {}
