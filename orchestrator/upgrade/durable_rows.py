"""The rows of durable modules in the journal's database: written with its batches, read at a start (DESIGN §7.6).

A batch is one transaction, so only what is left at its end is written: a message that came and was handled in the same
batch never touches the disk, of ten states of a module the last one does. Each row has a checksum, looked at when it is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from orchestrator.runtime.durability import (
    Forget,
    InboxGone,
    InboxRow,
    LetterGone,
    LetterRow,
    RecordRow,
    Row,
    StateRow,
    Write,
)
from orchestrator.runtime.letters import DeadLetter, decode_letter
from orchestrator.runtime.message import Message, decode_message
from orchestrator.runtime.table_image import TableImage

TABLES = """
CREATE TABLE durable_state
    (module TEXT PRIMARY KEY, package TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL,
    sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE durable_record
    (module TEXT, name TEXT, key BLOB, version INTEGER NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (module, name, key)) WITHOUT ROWID;
CREATE TABLE durable_inbox
    (row INTEGER PRIMARY KEY, module TEXT NOT NULL, message BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE durable_letter
    (number INTEGER PRIMARY KEY, module TEXT NOT NULL, message BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    sum INTEGER NOT NULL);
"""
_ENCODER = msgspec.msgpack.Encoder()
_NAMES = ("durable_state", "durable_record", "durable_inbox", "durable_letter")


class RowDamaged(Exception):
    """A row, or the file around the rows, is not what was written."""


def _summed(rows: Iterable[Row]) -> Iterator[tuple[Any, ...]]:
    return ((*astuple(row), crc32(_ENCODER.encode(row))) for row in rows)


def _rows(connection: sqlite3.Connection, query: str) -> Iterator[Any]:
    """What a query gives, whose last column is the checksum of the others. Raises RowDamaged."""
    for *row, found in connection.execute(query):
        if crc32(_ENCODER.encode(row)) != found:
            table = query.partition(" FROM ")[2].split()[0]
            raise RowDamaged(
                f"a row of {table}, {row[0]!r:.60}, is not what was written, its checksum does not fit"
            )
        yield row


def add_sums(connection: sqlite3.Connection) -> None:
    """Give the rows of a format that had none their checksums, inside the transaction that is open."""
    connection.create_function("row_sum", -1, lambda *row: crc32(_ENCODER.encode(row)), deterministic=True)
    for table in _NAMES:
        columns = ", ".join(column[1] for column in connection.execute(f"PRAGMA table_info({table})"))
        connection.execute(f"ALTER TABLE {table} ADD COLUMN sum INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"UPDATE {table} SET sum = row_sum({columns})")  # noqa: S608  # names of ours


class DurableImage(msgspec.Struct, frozen=True):
    """What is on disk of one durable module. The messages are in their order."""

    package: str
    state_version: int
    state: bytes
    messages: tuple[Message, ...] = ()
    tables: tuple[TableImage, ...] = ()


@dataclass(frozen=True)
class Stored:
    """All that durable modules have on disk."""

    modules: Mapping[str, DurableImage] = field(default_factory=dict)
    letters: Sequence[DeadLetter] = ()
    first_row: int = 0  # of any inbox; below 0 are those that were given again
    last_row: int = 0

    @property
    def newest_id(self) -> int:
        """The highest message id in any inbox or letter: new ones go on above it."""
        waiting = (message.id for image in self.modules.values() for message in image.messages)
        return max([*waiting, *(letter.message.id for letter in self.letters)], default=0)


class _Net:
    """What is left of the writes of a batch."""

    def __init__(self) -> None:
        self.states: dict[str, StateRow] = {}
        self.records: dict[tuple[str, str, bytes], RecordRow] = {}
        self.came: dict[int, InboxRow] = {}
        self.went: list[tuple[int]] = []
        self.letters: dict[int, LetterRow] = {}
        self.dropped: list[tuple[int]] = []

    def take(self, write: Write) -> None:
        if isinstance(write, InboxRow):
            self.came[write.row] = write
        elif isinstance(write, InboxGone):
            if self.came.pop(write.row, None) is None:
                self.went.append((write.row,))
        elif isinstance(write, StateRow):
            self.states[write.module] = write
        elif isinstance(write, RecordRow):
            self.records[write.module, write.table, write.key] = write
        elif isinstance(write, LetterRow):
            self.letters[write.number] = write
        elif isinstance(write, LetterGone):
            self.letters.pop(write.number, None)
            self.dropped.append((write.number,))

    def write(self, connection: sqlite3.Connection) -> None:
        many = connection.executemany
        if self.went:
            many("DELETE FROM durable_inbox WHERE row = ?", self.went)
        if self.came:
            many("INSERT INTO durable_inbox VALUES (?, ?, ?, ?)", _summed(self.came.values()))
        if self.states:
            many("INSERT OR REPLACE INTO durable_state VALUES (?, ?, ?, ?, ?)", _summed(self.states.values()))
        if self.records:
            deleted = [key for key, row in self.records.items() if row.data is None]
            kept = [row for row in self.records.values() if row.data is not None]
            many("DELETE FROM durable_record WHERE module = ? AND name = ? AND key = ?", deleted)
            many("INSERT OR REPLACE INTO durable_record VALUES (?, ?, ?, ?, ?, ?)", _summed(kept))
        if self.dropped:
            many("DELETE FROM durable_letter WHERE number = ?", self.dropped)
        if self.letters:
            many(
                "INSERT OR REPLACE INTO durable_letter VALUES (?, ?, ?, ?, ?, ?)",
                _summed(self.letters.values()),
            )


def write_rows(connection: sqlite3.Connection, writes: Iterable[Write]) -> None:
    """Carry out the writes of a batch, in order, inside the transaction that is open."""
    net = _Net()
    for write in writes:
        if isinstance(write, Forget):
            net.write(connection)
            net = _Net()
            _forget(connection, write)
        else:
            net.take(write)
    net.write(connection)


def _forget(connection: sqlite3.Connection, what: Forget) -> None:
    if what.tables is not None:
        rows = [(what.module, name) for name in what.tables]
        connection.executemany("DELETE FROM durable_record WHERE module = ? AND name = ?", rows)
        return
    for table in ("durable_state", "durable_record", "durable_inbox"):
        connection.execute(f"DELETE FROM {table} WHERE module = ?", (what.module,))  # noqa: S608  # names of ours


def read_rows(connection: sqlite3.Connection) -> Stored:
    """All that is there, as one batch left it. Raises RowDamaged.

    A changed row is found by its checksum; what is around the rows, by which some could be missing, SQLite looks over.
    """
    connection.execute("BEGIN")  # else a batch could come between two of the tables
    try:
        stored = _read(connection)
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise RowDamaged(f"SQLite finds it damaged: {found}")
        return stored
    finally:
        connection.execute("ROLLBACK")


def _read(connection: sqlite3.Connection) -> Stored:
    tables = _tables(connection)
    inboxes: dict[str, list[Message]] = {}
    first_row = last_row = 0
    for row, module, data in _rows(connection, "SELECT * FROM durable_inbox ORDER BY row"):
        message = decode_message(data)
        message.row = row
        first_row, last_row = min(first_row, row), max(last_row, row)
        inboxes.setdefault(module, []).append(message)
    modules = {
        module: DurableImage(
            package, version, body, tuple(inboxes.get(module, ())), tuple(tables.get(module, ()))
        )
        for module, package, version, body in _rows(connection, "SELECT * FROM durable_state")
    }
    letters = [
        decode_letter(number, module, data, reason, at, durable=True)
        for number, module, data, reason, at in _rows(
            connection, "SELECT * FROM durable_letter ORDER BY number"
        )
    ]
    return Stored(modules, letters, first_row, last_row)


_KEYS: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder()


def _tables(connection: sqlite3.Connection) -> dict[str, list[TableImage]]:
    """Module → its tables, each in one image for each version that it has records of."""
    pairs: dict[tuple[str, str, int], list[tuple[object, msgspec.Raw]]] = {}
    for module, name, key, version, body in _rows(connection, "SELECT * FROM durable_record"):
        pairs.setdefault((module, name, version), []).append((_KEYS.decode(key), msgspec.Raw(body)))
    found: dict[str, list[TableImage]] = {}
    for (module, name, version), records in sorted(pairs.items(), key=lambda each: each[0], reverse=True):
        found.setdefault(module, []).append(TableImage(name, version, (_ENCODER.encode(records),)))
    return found
