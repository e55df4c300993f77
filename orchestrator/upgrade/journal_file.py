"""The journal's SQLite file: its tables, its checksum chain, one transaction per batch.

Nothing here knows threads: `journal.py` calls it from its writer, and owns the order.
"""

import contextlib
import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from orchestrator.runtime.durability import Write
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.durable_rows import TABLES, RowDamaged, Stored, add_sums, read_rows, write_rows
from orchestrator.upgrade.errors import JournalCorrupt, JournalFailed
from orchestrator.upgrade.records import Fact, ImageSaved, Record, decode_fact, encode_fact, images_used
from repo_store.failpoints import step

APPLICATION_ID = 0x6C747A01
FORMAT = 3  # 1 had no durable modules, and 2 no checksums in their rows: both are taken over
GENESIS = bytes(32)

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE journal (seq INTEGER PRIMARY KEY, at REAL NOT NULL, fact BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, digest BLOB NOT NULL);
INSERT INTO head VALUES (1, 0, zeroblob(32));
CREATE TABLE image
    (name TEXT PRIMARY KEY, saved_seq INTEGER NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
PRAGMA application_id = 0x6C747A01;
"""
_DURABLE = TABLES + "PRAGMA user_version = 3;\nCOMMIT;\n"

WAY_OUT = (
    "The host does not start on a journal that it cannot trust. Restore journal.db and journal.db-wal "
    "together from a backup; or move both away and start anew: the tags are deployed again, but kept state, "
    "quarantine and history are gone."
)


class ModuleImage(msgspec.Struct, frozen=True):
    """What a clean stop keeps of a module in memory: its state, its waiting messages and its tables, all as msgpack.

    `saved_seq` is the record ImageSaved that it was written with; the journal fills it in.
    """

    name: str
    package: str
    state_version: int
    state: bytes
    mailbox: tuple[bytes, ...] = ()
    saved_seq: int = 0
    tables: tuple[TableImage, ...] = ()


_IMAGE = msgspec.msgpack.Decoder(ModuleImage)


class Line(msgspec.Struct, frozen=True):
    """One record on its way to the disk: as it reads back, as bytes, and the images that go with it."""

    record: Record
    data: bytes
    images: tuple[ModuleImage, ...] = ()


def chain(previous: bytes, seq: int, at: float, data: bytes) -> bytes:
    """Return the digest of a record, given the digest of the one before it."""
    return hashlib.sha256(previous + struct.pack(">qd", seq, at) + data).digest()


def make_line(previous: bytes, seq: int, at: float, fact: Fact, images: Sequence[ModuleImage]) -> Line:
    """Return the line to be written; its fact is what a reopen will read, not the object that was given."""
    data = encode_fact(fact)
    record = Record(seq, at, decode_fact(data), chain(previous, seq, at, data))
    return Line(record, data, tuple(msgspec.structs.replace(each, saved_seq=seq) for each in images))


def open_file(path: Path) -> sqlite3.Connection:
    """Return a connection to the journal at `path`, made with mode 0600 if it was not there.

    Raises JournalCorrupt if it is something else, JournalFailed if it cannot be opened.
    """
    with _explained(path):
        if not path.exists():
            # Made before SQLite sees it: -wal and -shm take this file's mode, whatever the umask is.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        connection.text_factory = _text
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The journal as it is at one moment, beside the host that may be writing to it; not a byte is changed.

    Raises sqlite3.Error or OSError if it cannot be opened.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)) as connection:
        connection.text_factory = _text
        connection.execute("BEGIN")  # else the head is of a later moment than the records
        yield connection


def same_file(path: Path, identity: tuple[int, int]) -> bool:
    """Whether `path` is still the file that it was: SQLite would go on writing into one that was removed."""
    try:
        return file_identity(path) == identity
    except OSError:
        return False


def file_identity(path: Path) -> tuple[int, int]:
    """Device and inode."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _text(data: bytes) -> str:
    """Read any text: what is not UTF-8 was not written by us, and the chain is what says so."""
    return data.decode("utf-8", "replace")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the promises of the connection; make the tables of a new file, refuse a foreign one."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise JournalCorrupt(f"{path} is a database, but not a journal of livetag. {WAY_OUT}")
    if version > FORMAT:
        raise JournalCorrupt(
            f"{path} has format {version}, this livetag knows formats up to {FORMAT}; nothing was changed. "
            "Start it with the newer livetag that wrote it."
        )
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalFailed(
            f"{path}: SQLite cannot keep a write-ahead log here (it offers {mode!r}); nothing was written. "
            "Put the deployment directory on a local file system."
        )
    connection.execute("PRAGMA synchronous = FULL")
    if not tables:
        connection.executescript(_SCHEMA + _DURABLE)
        _sync_folder(path.parent)  # a power cut must not take the name of the new file
    elif version == 1:
        connection.executescript("BEGIN IMMEDIATE;\n" + _DURABLE)
    elif version < FORMAT:
        connection.execute("BEGIN IMMEDIATE")
        add_sums(connection)
        connection.execute("PRAGMA user_version = 3")
        connection.execute("COMMIT")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_records(connection: sqlite3.Connection, path: Path) -> list[Record]:
    """Return every record, oldest first; raises JournalCorrupt naming the first that is not as written."""
    with _explained(path):
        rows = connection.execute("SELECT seq, at, fact, digest FROM journal ORDER BY seq")
        records = list(_verified(rows, path))
        heads = connection.execute("SELECT seq, digest FROM head").fetchall()
    last = (len(records), records[-1].digest if records else GENESIS)
    if heads != [last]:
        known = heads[0][0] if heads else "none"
        raise JournalCorrupt(
            f"{path}: record {len(records) + 1} is missing at the end: {len(records)} are there, the last "
            f"one written was {known}. {WAY_OUT}",
            len(records) + 1,
        )
    return records


def read_again(path: Path) -> list[Record]:
    """Return every record of a journal that may be written to meanwhile. Raises JournalCorrupt, JournalFailed."""
    with _explained(path), reading(path) as connection:
        return read_records(connection, path)


def _verified(rows: Iterable[tuple[object, object, object, object]], path: Path) -> Iterator[Record]:
    previous = GENESIS
    for expected, (seq, at, data, digest) in enumerate(rows, start=1):
        if seq != expected:
            raise JournalCorrupt(
                f"{path}: record {expected} is missing, the next one is {seq}; the records before it are "
                f"intact. {WAY_OUT}",
                expected,
            )
        good = isinstance(at, float) and isinstance(data, bytes)
        if not (good and chain(previous, expected, at, data) == digest):  # type: ignore[arg-type]
            raise JournalCorrupt(
                f"{path}: record {expected} is not what was written, its checksum does not fit: the file was "
                f"edited, reordered or damaged. The {expected - 1} records before it are intact. {WAY_OUT}",
                expected,
            )
        previous = digest
        yield Record(expected, at, _decoded(data, expected, path), previous)  # type: ignore[arg-type]


def _decoded(data: bytes, seq: int, path: Path) -> Fact:
    try:
        return decode_fact(data)
    except msgspec.DecodeError as error:
        raise JournalCorrupt(
            f"{path}: record {seq} is intact, but this livetag does not understand it ({error}); nothing was "
            "changed. Start it with the newer livetag that wrote it.",
            seq,
        ) from error


def write_lines(
    connection: sqlite3.Connection,
    lines: Sequence[Line],
    head: tuple[int, bytes],
    writes: Sequence[Write] = (),
) -> None:
    """Write all lines, and what durable modules write, in one transaction that is on disk when this returns.

    `head` is the (seq, digest) that the file must end in now. Raises sqlite3.Error or JournalFailed; what is
    on disk is then known only to a reopen.
    """
    with step("journal.write"):
        connection.execute("BEGIN IMMEDIATE")
        if lines:
            _insert(connection, lines, head)
        write_rows(connection, writes)
    with step("journal.sync"):
        connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, lines: Sequence[Line], head: tuple[int, bytes]) -> None:
    for line in lines:
        record = line.record
        row = (record.seq, record.at, line.data, record.digest)
        connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", row)
        if isinstance(record.fact, ImageSaved):
            connection.executemany(
                "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?)", [_image_row(each) for each in line.images]
            )
        connection.executemany("DELETE FROM image WHERE name = ?", [(n,) for n in images_used(record.fact)])
    last = lines[-1].record
    moved = connection.execute(
        "UPDATE head SET seq = ?, digest = ? WHERE seq = ? AND digest = ?", (last.seq, last.digest, *head)
    )
    if moved.rowcount != 1:
        raise JournalFailed("another process has written to the journal; one host per directory")


def _image_row(image: ModuleImage) -> tuple[str, int, bytes, bytes]:
    body = msgspec.msgpack.encode(image)
    return image.name, image.saved_seq, body, hashlib.sha256(body).digest()


def saved_images(records: Iterable[Record]) -> dict[str, int]:
    """Module → seq of the ImageSaved whose state of it was not used yet."""
    return still_saved({}, records)


def still_saved(saved: dict[str, int], records: Iterable[Record]) -> dict[str, int]:
    """Bring what `saved_images` returned up to these further records; returns it."""
    for record in records:
        if isinstance(record.fact, ImageSaved):
            saved.update(dict.fromkeys(record.fact.modules, record.seq))
        for name in images_used(record.fact):
            saved.pop(name, None)
    return saved


def read_images(connection: sqlite3.Connection, path: Path, saved: dict[str, int]) -> dict[str, ModuleImage]:
    """Return the images by name; `saved` (name → seq of its ImageSaved) is what the records promise."""
    with _explained(path):
        rows = connection.execute("SELECT name, saved_seq, body, digest FROM image").fetchall()
    found = {name: seq for name, seq, _, _ in rows}
    for name, seq in saved.items():
        if found.get(name) != seq:
            raise JournalCorrupt(
                f"{path}: the state of {name}, saved by record {seq}, is missing. {WAY_OUT}", seq
            )
    images = {}
    for name, seq, body, digest in rows:
        good = isinstance(body, bytes) and saved.get(name) == seq
        if not good or hashlib.sha256(body).digest() != digest:
            raise JournalCorrupt(
                f"{path}: the state of {name} is not what record {seq} saved. {WAY_OUT}", seq
            )
        images[name] = _IMAGE.decode(body)
    return images


def read_stored(path: Path) -> Stored:
    """What durable modules have on disk. Raises JournalCorrupt, JournalFailed."""
    connection = open_file(path)
    try:
        with _explained(path):
            return read_rows(connection)
    except (RowDamaged, msgspec.MsgspecError) as error:
        raise JournalCorrupt(
            f"{path}: what is kept of a durable module cannot be read: {error}. {WAY_OUT}"
        ) from error
    finally:
        connection.close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise while opening and reading into errors with a way out."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise JournalFailed(
            f"{path} cannot be opened: {error}; nothing was changed. Check that this user may write the "
            "deployment directory, that the disk has room, and that no other program holds the file; then "
            "start again."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: the name of a column
        raise JournalCorrupt(f"{path} is damaged: {error}. {WAY_OUT}") from error
