"""One BGP UPDATE message (RFC 4271, 4760, 6793, 7911) as plain data. Pure functions, no I/O.

Faster than 1.0.0 with the same results: peers repeat the same prefixes and paths all day, so their text is made once
and remembered, and of the attributes only the four that matter are cut out.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

ATTR_AS_PATH, ATTR_MP_REACH, ATTR_MP_UNREACH, ATTR_AS4_PATH = 2, 14, 15, 17
READ_ATTRIBUTES = frozenset((ATTR_AS_PATH, ATTR_MP_REACH, ATTR_MP_UNREACH, ATTR_AS4_PATH))
EXTENDED_LENGTH = 0x10
AS_SET, AS_SEQUENCE, CONFED_SEQUENCE, CONFED_SET = 1, 2, 3, 4
WRITTEN = {AS_SET: ("{", ",", "}"), CONFED_SEQUENCE: ("(", " ", ")"), CONFED_SET: ("[", ",", "]")}
IPV4, IPV6 = 1, 2
PLAIN_ROUTES = (1, 2, 3)  # SAFI unicast, multicast, both
REMEMBERED = 1 << 16

Segment = tuple[int, tuple[int, ...]]


class Damaged(ValueError):
    """The bytes contradict themselves: a length that leads out of the message, an impossible mask."""


class CutShort(Damaged):
    """A run of prefixes ends in the middle of one; `found` are those before it."""

    def __init__(self, why: str, found: list[str]) -> None:
        super().__init__(why)
        self.found = found


class Unsupported(ValueError):
    """The bytes may be right, but this decoder does not know their meaning."""


class Update(NamedTuple):
    """What one UPDATE says. A prefix is text, `10.0.0.0/8`, or `10.0.0.0/8#7` when it came with path id 7."""

    announced: list[str]
    withdrawn: list[str]
    path: str  # as people write it: `3333 174 {64501,64502}`
    origin: int | None  # the AS that the path ends in; None for an empty path, a set, or no announcement
    why: str  # what could not be read at the message's end; empty for a sound one


def decode_update(message: bytes, start: int, as_bytes: int, *, add_path: bool) -> Update:
    """Read the UPDATE that begins at `start`; `as_bytes` is 2 or 4, the size of an AS number in its AS_PATH.

    Raises Damaged or Unsupported, never anything else.
    """
    withdrawn_end = start + 2 + _uint16(message, start)
    attributes_end = withdrawn_end + 2 + _uint16(message, withdrawn_end)
    if attributes_end > len(message):
        where = f"at byte {attributes_end - start} of a message of {len(message) - start}"
        raise Damaged(f"the attributes end {where}")
    withdrawn = prefixes(message, start + 2, withdrawn_end, IPV4, add_path=add_path)
    why = ""
    try:
        announced = prefixes(message, attributes_end, len(message), IPV4, add_path=add_path)
    except CutShort as error:  # all else is read as well, and what it says is true
        announced, why = error.found, str(error)
    attributes = _attributes(message, withdrawn_end + 2, attributes_end)
    if ATTR_MP_UNREACH in attributes:
        gone = attributes[ATTR_MP_UNREACH]
        withdrawn += prefixes(gone, 3, len(gone), _family(gone), add_path=add_path)
    if ATTR_MP_REACH in attributes:
        announced += _reachable(attributes[ATTR_MP_REACH], add_path=add_path)
    if not announced:
        return Update(announced, withdrawn, "", None, why)
    wide = attributes.get(ATTR_AS4_PATH, b"") if as_bytes == 2 else b""
    path, origin = read_path(attributes.get(ATTR_AS_PATH, b""), as_bytes, wide)
    return Update(announced, withdrawn, path, origin, why)


def prefixes(data: bytes, at: int, end: int, family: int, *, add_path: bool) -> list[str]:
    """Write the encoded prefixes in data[at:end] as text; bits after the mask count for nothing (RFC 4271 §4.3)."""
    found: list[str] = []
    bits_max = 32 if family == IPV4 else 128
    while at < end:
        path_id = ""
        if add_path:
            if at + 5 > end:
                raise CutShort("a path id is cut short", found)
            path_id = f"#{int.from_bytes(data[at : at + 4], 'big')}"
            at += 4
        bits = data[at]
        after = at + 1 + (bits + 7) // 8
        if bits > bits_max:
            raise Damaged(f"a prefix of {bits} bits, in an address of {bits_max}")
        if after > end:
            raise CutShort(f"a prefix of {bits} bits is cut short", found)
        found.append(_prefix_text(data[at:after], family) + path_id)
        at = after
    return found


@lru_cache(REMEMBERED)
def read_path(data: bytes, as_bytes: int, wide: bytes) -> tuple[str, int | None]:
    """Read AS_PATH, completed from an old speaker's AS4_PATH; returns its text and its origin."""
    path = _segments(data, as_bytes)
    if wide:
        path = _merged(path, _segments(wide, 4))
    words = []
    for kind, numbers in path:
        if kind == AS_SEQUENCE:
            words += [str(number) for number in numbers]
        else:
            left, joint, right = WRITTEN[kind]
            words.append(left + joint.join(str(number) for number in numbers) + right)
    ends_plainly = path and path[-1][0] == AS_SEQUENCE and path[-1][1]
    return " ".join(words), path[-1][1][-1] if ends_plainly else None


@lru_cache(REMEMBERED)
def _prefix_text(encoded: bytes, family: int) -> str:
    bits = encoded[0]
    address = encoded[1:]
    if bits % 8:
        address = address[:-1] + bytes([address[-1] & (0xFF00 >> bits % 8)])
    socket_family, size = (AF_INET, 4) if family == IPV4 else (AF_INET6, 16)
    return f"{inet_ntop(socket_family, address.ljust(size, bytes(1)))}/{bits}"


def _attributes(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """Cut out the attributes that are read: type → value, still encoded."""
    found: dict[int, bytes] = {}
    while at < end:
        if at + 3 > end:
            raise Damaged("an attribute header is cut short")
        code, length = data[at + 1], data[at + 2]
        if data[at] & EXTENDED_LENGTH:
            if at + 4 > end:
                raise Damaged("the message is cut short")
            length = length << 8 | data[at + 3]
            at += 1
        at += 3
        if at + length > end:
            raise Damaged(f"attribute {code} of {length} bytes leads out of the attributes")
        if code in READ_ATTRIBUTES:
            found[code] = data[at : at + length]
        at += length
    return found


def _segments(data: bytes, as_bytes: int) -> list[Segment]:
    """Split an AS_PATH into its segments: (kind, AS numbers)."""
    segments = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise Damaged("a path segment is cut short")
        kind, count = data[at], data[at + 1]
        end = at + 2 + count * as_bytes
        if not AS_SET <= kind <= CONFED_SET:
            raise Damaged(f"a path segment of kind {kind}")
        if end > len(data):
            raise Damaged(f"a path segment of {count} AS numbers leads out of the path")
        segments.append((kind, struct.unpack(f">{count}{'I' if as_bytes == 4 else 'H'}", data[at + 2 : end])))
        at = end
    return segments


def _merged(path: list[Segment], wide: list[Segment]) -> list[Segment]:
    """Complete an old speaker's path from AS4_PATH, which knows the long AS numbers (RFC 6793 §4.2.3)."""
    missing = _hops(path) - _hops(wide)
    if missing < 0:
        return path
    head: list[Segment] = []
    for kind, numbers in path:
        if missing <= 0:
            break
        kept = numbers[:missing] if kind == AS_SEQUENCE else numbers
        head.append((kind, kept))
        missing -= len(kept) if kind == AS_SEQUENCE else 1
    return head + wide


def _reachable(data: bytes, *, add_path: bool) -> list[str]:
    """MP_REACH_NLRI: family, next hop, a count of SNPAs that nobody uses, prefixes."""
    family = _family(data)
    at = 4 + (data[3] if len(data) > 3 else 0)
    if at >= len(data):
        raise Damaged("MP_REACH ends inside its next hop")
    snpas = data[at]
    at += 1
    for _ in range(snpas):
        at += 1 + (data[at] + 1) // 2 if at < len(data) else 1
    if at > len(data):
        raise Damaged("MP_REACH ends inside its SNPAs")
    return prefixes(data, at, len(data), family, add_path=add_path)


def _family(data: bytes) -> int:
    if len(data) < 3:
        raise Damaged("a multiprotocol attribute is cut short")
    family, kind = _uint16(data, 0), data[2]
    if family not in (IPV4, IPV6) or kind not in PLAIN_ROUTES:
        raise Unsupported(f"routes of address family {family}, kind {kind}")
    return family


def _hops(path: list[Segment]) -> int:
    """Length of a path as route selection counts it: a set is one hop, a confederation none."""
    return sum(len(numbers) if kind == AS_SEQUENCE else 1 for kind, numbers in path if kind <= AS_SEQUENCE)


def _uint16(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise Damaged("the message is cut short")
    return data[at] << 8 | data[at + 1]
