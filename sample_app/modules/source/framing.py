"""Cut an MRT file into records, and find the next one after damage. The file is plain, gzip or bzip2."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

HEADER = struct.Struct(">IHHI")  # seconds, type, subtype, length of what follows
KNOWN_TYPES = frozenset((5, 11, 12, 13, 16, 17, 32, 33, 48, 49))
LENGTH_MAX = 1 << 20
BUFFER_BYTES = 1 << 16  # what one read may cost: some 1 ms of unpacking


def open_feed(path: str) -> BinaryIO:
    """Open a feed for reading, unpacked by what its first bytes say. Raises OSError."""
    with Path(path).open("rb") as file:
        magic = file.read(3)
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.open(path), BUFFER_BYTES)
    if magic == b"BZh":
        return io.BufferedReader(bz2.open(path), BUFFER_BYTES)
    return Path(path).open("rb", BUFFER_BYTES)


def next_record(file: BinaryIO) -> bytes:
    """Read the record that starts where `file` stands; empty at the end of the file.

    Where no record can start, or its length leads nowhere, it returns the bytes up to the next one that can: too
    few or too many for their header, so whoever decodes them sees the damage.
    """
    start = file.tell()
    header = _read(file, HEADER.size)
    if len(header) < HEADER.size:
        return header
    if plausible(header):
        length: int = HEADER.unpack(header)[3]
        record = header + _read(file, length)
        follower = _read(file, HEADER.size)
        file.seek(start + len(record))
        if not follower or plausible(follower):
            return record
    file.seek(start)
    ahead = _read(file, HEADER.size + LENGTH_MAX)
    piece = ahead[: _next_start(ahead)]
    file.seek(start + len(piece))
    return piece


def plausible(header: bytes) -> bool:
    """Tell whether these 12 bytes can be the header of a record."""
    if len(header) < HEADER.size:
        return False
    _, kind, subtype, length = HEADER.unpack(header)
    return kind in KNOWN_TYPES and subtype <= 32 and length <= LENGTH_MAX


def _read(file: BinaryIO, size: int) -> bytes:
    """Read up to `size` bytes; an archive that is damaged or cut off ends there. Raises OSError if the disk fails."""
    try:
        return file.read(size)
    except (EOFError, zlib.error):
        return b""
    except OSError as error:
        if error.errno is None:  # gzip and bzip2 say so of what they read, not the disk
            return b""
        raise


def _next_start(data: bytes) -> int:
    """Where the next record starts after the first byte: a header whose length leads to another one, or to the end."""
    own_end = HEADER.size + HEADER.unpack_from(data)[3] if plausible(data[:12]) else 0
    for at in range(1, len(data) - HEADER.size + 1):
        if at == own_end:  # nothing starts inside this record: it is sound, and the next one is damaged
            return at
        if data[at + 4] or data[at + 5] not in KNOWN_TYPES or not plausible(data[at : at + 12]):
            continue
        follower = at + HEADER.size + HEADER.unpack_from(data, at)[3]
        if follower == len(data) or plausible(data[follower : follower + 12]):
            return at
    return len(data)
