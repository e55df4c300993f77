"""What a transaction needs of a host, in memory: the journal, and versions that are classes in the test."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.durability import Write
from orchestrator.runtime.module import Module
from orchestrator.runtime.table_image import TableImage
from orchestrator.testing.clock import WALL_S
from orchestrator.upgrade.incoming import Code, StateCopy
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.records import Entry, Fact, Record


class ClassSource:
    """A version that is a class in the test."""

    def __init__(self, cls: type[Module[Any]]) -> None:
        self._cls = cls

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> None:
        """Nothing to try out: the test is the trial."""

    async def load(self) -> Code:
        return Code(Blueprint(self._cls), None, self._cls.__name__)


def entry_of(name: str, cls: type[Module[Any]]) -> Entry:
    return Entry(name, name, cls.__name__, "", "", cls.__name__, "", state_version=cls.state_version)


class MemoryLog:
    """The journal of a test: the same facts, in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._txns = itertools.count(1)

    def next_txn(self) -> int:
        return next(self._txns)

    def append(
        self, fact: Fact, _image: Sequence[ModuleImage] = (), _writes: Sequence[Write] = (), /
    ) -> _MemoryTicket:
        self.records.append(Record(len(self.records) + 1, WALL_S, fact, b""))
        return _MemoryTicket(self.records[-1])

    async def write(self, fact: Fact, /) -> Record:
        return self.append(fact).record

    def wake(self) -> None:
        """Nobody sleeps."""


class _MemoryTicket:
    def __init__(self, record: Record) -> None:
        self.record = record

    async def wait(self) -> Record:
        return self.record
