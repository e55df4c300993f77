"""A module's state and Tables as a file, for a person to keep, look at and correct (DESIGN §9, `state --export`)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import msgspec

from orchestrator.runtime.errors import ModuleError, StateInvalid
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage, records_of
from orchestrator.upgrade.records import Entry

FORMAT = 1


class FileRefused(ModuleError):
    """The file is not a state that this livetag can read; nothing was changed."""


class TableFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The records of one Table that are of one version: in `records`, or in `data` what JSON cannot hold as it is.

    A table in mid-conversion is there once per version, that of the version in service first.
    """

    name: str
    version: int
    records: list[tuple[Any, Any]] = []  # Any: the author's keys and records
    data: tuple[bytes, ...] = ()

    def image(self) -> TableImage:
        """The records as bytes. Raises FileRefused."""
        try:
            written = msgspec.msgpack.encode(self.records)
        except (TypeError, OverflowError, UnicodeEncodeError) as error:
            raise FileRefused(f"the records of the Table {self.name} cannot be read: {error}") from None
        image = TableImage(self.name, self.version, (*self.data, written))
        try:
            for key, _ in records_of(image):
                hash(key)
        except (StateInvalid, TypeError) as error:
            raise FileRefused(f"the records of the Table {self.name} cannot be read: {error}") from None
        return image


class StateFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A state with where it is from. It is in `state` if JSON can hold it as it is, else in `data` (msgpack, base64).

    A table that `tables` does not name is left as it is by an import.
    """

    livetag: int
    module: str
    package: str
    version: str
    commit: str
    state_version: int
    at: float
    state: Any = None  # Any: the author's data
    data: bytes | None = None
    tables: tuple[TableFile, ...] = ()

    def content(self) -> Any:
        """The state as plain data. Raises FileRefused."""
        if self.data is None:
            return self.state
        try:
            return PLAIN_STATE.decode(self.data)
        except StateInvalid as error:
            raise FileRefused(f"the file's data cannot be read: {error}") from None

    def images(self) -> tuple[TableImage, ...]:
        """The tables' records as bytes. Raises FileRefused."""
        return tuple(table.image() for table in self.tables)


_FILE = msgspec.json.Decoder(StateFile)


def read_state_file(text: str | bytes) -> StateFile:
    """The file that this is the text of. Raises FileRefused."""
    try:
        file = _FILE.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FileRefused(
            f"The file is no state: {error}. `livetag state NAME --export FILE` writes one. Nothing was changed."
        ) from None
    if file.livetag != FORMAT:
        raise FileRefused(f"The file is of format {file.livetag}; this livetag reads {FORMAT}.")
    return file


def writing(
    entry: Entry, state_version: int, state: bytes, tables: Iterable[TableImage], at: float
) -> Generator[None, None, StateFile]:
    """The file of a state and its tables."""
    head = (FORMAT, entry.name, entry.package, entry.version, entry.commit_id, state_version, at)
    files = []
    for image in tables:
        files.append((yield from _writing_table(image)))  # noqa: PERF401  # a comprehension cannot yield
    plain = PLAIN_STATE.decode(state)
    if _json_holds(plain):
        return StateFile(*head, state=plain, tables=tuple(files))
    return StateFile(*head, data=state, tables=tuple(files))


def _writing_table(image: TableImage) -> Generator[None, None, TableFile]:
    records: list[tuple[Any, Any]] = []
    for part in image.parts:
        pairs = msgspec.msgpack.decode(part)
        if not _json_holds(pairs):
            return TableFile(image.name, image.version, data=image.parts)
        records += pairs
        yield
    return TableFile(image.name, image.version, records)


def _json_holds(plain: object) -> bool:
    """Does it come back from JSON as it was? Not bytes, datetimes or keys that are numbers."""
    try:
        back = msgspec.json.decode(msgspec.json.encode(plain))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return False
    return msgspec.msgpack.encode(back) == msgspec.msgpack.encode(plain)
