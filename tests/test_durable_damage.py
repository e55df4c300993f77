"""A journal whose durable rows are damaged: found at the start, said, and never half-believed."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest
from msgspec.structs import astuple

from orchestrator.runtime.durability import InboxRow, LetterRow, RecordRow, StateRow, Write
from orchestrator.runtime.message import Message, encode_message
from orchestrator.upgrade.durable_rows import Stored
from orchestrator.upgrade.errors import JournalCorrupt, JournalFailed
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.journal_file import _DURABLE, _SCHEMA
from orchestrator.upgrade.records import HostStopped

MARKS = {
    "the state": b"state-of-a",
    "a record": b"record-17-of-a",
    "a key": b"key-17-of-a",
    "a message": b"body-of-3",
    "a letter": b"why-of-2",
}


def message(n: int) -> bytes:
    return encode_message(Message("add", {"n": f"body-of-{n}"}, "", n, 1.0))


def text(value: str) -> bytes:
    return bytes([0xA0 | len(value)]) + value.encode()  # msgpack


def rows() -> list[Write]:
    return [
        StateRow("a", "a", 1, text("state-of-a")),
        *(RecordRow("a", "seen", text(f"key-{n}-of-a"), 1, text(f"record-{n}-of-a")) for n in range(60)),
        *(InboxRow(n, "a", message(n)) for n in range(1, 6)),
        *(LetterRow(n, "a", message(10 + n), f"why-of-{n}", 1.0) for n in range(1, 4)),
    ]


def written(path: Path) -> Path:
    journal = Journal.open(path, time.time)
    journal.put(rows(), 1)
    journal.write_now(HostStopped(clean=True))
    journal.close()
    return path


def read(path: Path) -> Stored:
    journal = Journal.open(path, time.time)
    try:
        return journal.load_stored()
    finally:
        journal.close()


@pytest.mark.parametrize("what", MARKS)
def test_a_changed_byte_of_what_a_durable_module_has_is_found_and_said(tmp_path: Path, what: str) -> None:
    path = written(tmp_path / "journal.db")
    data = bytearray(path.read_bytes())
    places = [place for place in range(len(data)) if data.startswith(MARKS[what], place)]
    assert places
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match=r"durable_\w+.*its checksum does not fit.*Restore journal.db"):
        read(path)


def test_a_row_that_is_missing_without_the_tables_knowing_is_found(tmp_path: Path) -> None:
    """The number of rows on a page, one less: each row that is left is as it was written."""
    path = written(tmp_path / "journal.db")
    data = bytearray(path.read_bytes())
    pages = [
        start
        for start in range(4096, len(data), 4096)
        if data.find(MARKS["a record"], start, start + 4096) > 0
    ]
    for start in pages:
        count = int.from_bytes(data[start + 3 : start + 5], "big")
        data[start + 3 : start + 5] = (count - 1).to_bytes(2, "big")
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="SQLite finds it damaged"):
        read(path)


def halves_believed(path: Path, count: int, seed: int) -> int:
    """Flip a bit at places all over the file, one at a time: it reads as it was written, or is refused."""
    good = read(path)
    whole, refused = path.read_bytes(), 0
    source = random.Random(seed)  # noqa: S311  # no secret
    for place in (source.randrange(len(whole)) for _ in range(count)):
        data = bytearray(whole)
        data[place] ^= 1 << seed % 8
        path.write_bytes(data)
        try:
            found = read(path)
        except (JournalCorrupt, JournalFailed):
            refused += 1
        else:
            assert found == good, f"half-believed: byte {place} of {len(whole)}"
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    return refused


def test_whatever_bit_is_flipped_the_rows_read_as_written_or_not_at_all(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    assert halves_believed(path, 150, 3) > 10


@pytest.mark.slow
def test_whatever_of_many_bits_is_flipped_the_rows_read_as_written_or_not_at_all(tmp_path: Path) -> None:
    for seed in range(8):
        assert halves_believed(written(tmp_path / f"journal{seed}.db"), 500, seed) > 30


def test_a_journal_of_the_format_without_checksums_is_taken_over_whole(tmp_path: Path) -> None:
    good = read(written(tmp_path / "now.db"))
    path = tmp_path / "before.db"
    connection = sqlite3.connect(path, isolation_level=None)
    before = _DURABLE.replace(" sum INTEGER NOT NULL,", "").replace(",\n    sum INTEGER NOT NULL", "")
    before = before.replace(", sum INTEGER NOT NULL", "").replace("user_version = 3", "user_version = 2")
    connection.executescript(_SCHEMA + before)
    assert "sum" not in before
    for row in rows():
        table = {StateRow: "state", RecordRow: "record", InboxRow: "inbox", LetterRow: "letter"}[type(row)]
        values = astuple(row)
        connection.execute(f"INSERT INTO durable_{table} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
    connection.close()
    assert read(path) == good
    assert read(path) == good
