"""The rows of durable modules in the journal's database: written with its batches, read at a start (DESIGN §7.6).

A batch is one transaction, so only what is left at its end is written: a message that came and was handled in the same
batch never touches the disk, of ten states of a module the last one does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from orchestrator.runtime.durability import (
    Forget,
    InboxGone,
    InboxRow,
    LetterGone,
    LetterRow,
    RecordRow,
    StateRow,
    Write,
)
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.message import Message, decode_message
from orchestrator.runtime.table_image import TableImage

TABLES = """
CREATE TABLE durable_state
    (module TEXT PRIMARY KEY, package TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE durable_record
    (module TEXT, name TEXT, key BLOB, version INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (module, name, key)) WITHOUT ROWID;
CREATE TABLE durable_inbox (row INTEGER PRIMARY KEY, module TEXT NOT NULL, message BLOB NOT NULL);
CREATE TABLE durable_letter
    (number INTEGER PRIMARY KEY, module TEXT NOT NULL, message BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
"""


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
            self.records[write[:3]] = write
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
            many("INSERT INTO durable_inbox VALUES (?, ?, ?)", self.came.values())
        if self.states:
            many("INSERT OR REPLACE INTO durable_state VALUES (?, ?, ?, ?)", self.states.values())
        if self.records:
            deleted = [key for key, row in self.records.items() if row.data is None]
            kept = [row for row in self.records.values() if row.data is not None]
            many("DELETE FROM durable_record WHERE module = ? AND name = ? AND key = ?", deleted)
            many("INSERT OR REPLACE INTO durable_record VALUES (?, ?, ?, ?, ?)", kept)
        if self.dropped:
            many("DELETE FROM durable_letter WHERE number = ?", self.dropped)
        if self.letters:
            many("INSERT OR REPLACE INTO durable_letter VALUES (?, ?, ?, ?, ?)", self.letters.values())


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
    """All that is there, as one batch left it."""
    connection.execute("BEGIN")  # else a batch could come between two of the tables
    try:
        return _read(connection)
    finally:
        connection.execute("ROLLBACK")


def _read(connection: sqlite3.Connection) -> Stored:
    tables = _tables(connection)
    inboxes: dict[str, list[Message]] = {}
    last_row = 0
    for row, module, data in connection.execute(
        "SELECT row, module, message FROM durable_inbox ORDER BY row"
    ):
        message = decode_message(data)
        message.row = last_row = row
        inboxes.setdefault(module, []).append(message)
    modules = {
        module: DurableImage(
            package, version, body, tuple(inboxes.get(module, ())), tuple(tables.get(module, ()))
        )
        for module, package, version, body in connection.execute("SELECT * FROM durable_state")
    }
    letters = [
        DeadLetter(number, module, decode_message(data), reason, at, durable=True)
        for number, module, data, reason, at in connection.execute(
            "SELECT * FROM durable_letter ORDER BY number"
        )
    ]
    return Stored(modules, letters, last_row)


_KEYS: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder()
_PAIRS = msgspec.msgpack.Encoder()


def _tables(connection: sqlite3.Connection) -> dict[str, list[TableImage]]:
    """Module → its tables, each in one image for each version that it has records of."""
    pairs: dict[tuple[str, str, int], list[tuple[object, msgspec.Raw]]] = {}
    rows = connection.execute("SELECT module, name, version, key, body FROM durable_record")
    for module, name, version, key, body in rows:
        pairs.setdefault((module, name, version), []).append((_KEYS.decode(key), msgspec.Raw(body)))
    found: dict[str, list[TableImage]] = {}
    for (module, name, version), records in sorted(pairs.items(), key=lambda each: each[0], reverse=True):
        found.setdefault(module, []).append(TableImage(name, version, (_PAIRS.encode(records),)))
    return found
