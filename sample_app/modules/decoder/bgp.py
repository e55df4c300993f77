"""One BGP UPDATE message (RFC 4271, 4760, 6793, 7911) as plain data. Pure functions, no I/O."""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

ATTR_AS_PATH, ATTR_MP_REACH, ATTR_MP_UNREACH, ATTR_AS4_PATH = 2, 14, 15, 17
EXTENDED_LENGTH = 0x10
AS_SET, AS_SEQUENCE, CONFED_SEQUENCE, CONFED_SET = 1, 2, 3, 4
WRITTEN = {AS_SET: ("{", ",", "}"), CONFED_SEQUENCE: ("(", " ", ")"), CONFED_SET: ("[", ",", "]")}
IPV4, IPV6 = 1, 2
PLAIN_ROUTES = (1, 2, 3)  # SAFI unicast, multicast, both

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


def decode_update(body: bytes, as_bytes: int, *, add_path: bool) -> Update:
    """Read the UPDATE after its BGP header; `as_bytes` is 2 or 4, the size of an AS number in its AS_PATH.

    Raises Damaged or Unsupported, never anything else.
    """
    withdrawn_end = 2 + _uint16(body, 0)
    attributes_end = withdrawn_end + 2 + _uint16(body, withdrawn_end)
    if attributes_end > len(body):
        raise Damaged(f"the attributes end at byte {attributes_end} of a message of {len(body)}")
    withdrawn = prefixes(body[2:withdrawn_end], IPV4, add_path=add_path)
    why = ""
    try:
        announced = prefixes(body[attributes_end:], IPV4, add_path=add_path)
    except CutShort as error:  # all else was read by then, and what it says is true
        announced, why = error.found, str(error)
    attributes = split_attributes(body[withdrawn_end + 2 : attributes_end])
    if ATTR_MP_UNREACH in attributes:
        withdrawn += _unreachable(attributes[ATTR_MP_UNREACH], add_path=add_path)
    if ATTR_MP_REACH in attributes:
        announced += _reachable(attributes[ATTR_MP_REACH], add_path=add_path)
    if not announced:
        return Update(announced, withdrawn, "", None, why)
    path = as_path(attributes.get(ATTR_AS_PATH, b""), as_bytes)
    if as_bytes == 2 and ATTR_AS4_PATH in attributes:
        path = merge_paths(path, as_path(attributes[ATTR_AS4_PATH], 4))
    return Update(announced, withdrawn, path_text(path), path_origin(path), why)


def split_attributes(data: bytes) -> dict[int, bytes]:
    """Attribute type → its value, still encoded."""
    attributes: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 3 > len(data):
            raise Damaged("an attribute header is cut short")
        flags, code, length = data[at : at + 3]
        at += 3
        if flags & EXTENDED_LENGTH:
            length = _uint16(data, at - 1)
            at += 1
        if at + length > len(data):
            raise Damaged(f"attribute {code} of {length} bytes leads out of the attributes")
        attributes[code] = data[at : at + length]
        at += length
    return attributes


def prefixes(data: bytes, family: int, *, add_path: bool) -> list[str]:
    """Write a run of encoded prefixes as text; bits after the mask count for nothing (RFC 4271 §4.3)."""
    bits_max, socket_family = (32, AF_INET) if family == IPV4 else (128, AF_INET6)
    found: list[str] = []
    at = 0
    while at < len(data):
        path_id = ""
        if add_path:
            if at + 5 > len(data):
                raise CutShort("a path id is cut short", found)
            path_id = f"#{int.from_bytes(data[at : at + 4], 'big')}"
            at += 4
        bits = data[at]
        end = at + 1 + (bits + 7) // 8
        if bits > bits_max:
            raise Damaged(f"a prefix of {bits} bits, in an address of {bits_max}")
        if end > len(data):
            raise CutShort(f"a prefix of {bits} bits is cut short", found)
        address = data[at + 1 : end]
        if bits % 8:
            address = address[:-1] + bytes([address[-1] & (0xFF00 >> bits % 8)])
        found.append(f"{inet_ntop(socket_family, address.ljust(bits_max // 8, bytes(1)))}/{bits}{path_id}")
        at = end
    return found


def as_path(data: bytes, as_bytes: int) -> list[Segment]:
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


def merge_paths(path: list[Segment], wide: list[Segment]) -> list[Segment]:
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


def path_text(path: list[Segment]) -> str:
    words = []
    for kind, numbers in path:
        if kind == AS_SEQUENCE:
            words += [str(number) for number in numbers]
        else:
            left, joint, right = WRITTEN[kind]
            words.append(left + joint.join(str(number) for number in numbers) + right)
    return " ".join(words)


def path_origin(path: list[Segment]) -> int | None:
    if path and path[-1][0] == AS_SEQUENCE and path[-1][1]:
        return path[-1][1][-1]
    return None


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
    return prefixes(data[at:], family, add_path=add_path)


def _unreachable(data: bytes, *, add_path: bool) -> list[str]:
    return prefixes(data[3:], _family(data), add_path=add_path)


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
