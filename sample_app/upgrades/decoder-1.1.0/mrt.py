"""One MRT record (RFC 6396, 8050) as a plain dict; a record that cannot be read becomes a labelled one.

    {"kind": "update", "time", "peer", "peer_as", "announced", "withdrawn", "path", "origin", "why"}
    {"kind": "state",  "time", "peer", "peer_as", "before", "after"}         a session changed its state
    {"kind": "other",  "time", "peer", "peer_as", "what"}                    an open, a keepalive and so on
    {"kind": "corrupt" | "unsupported", "time", "why"}

In an update, `why` is empty, or says what could not be read at its end.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

from .bgp import IPV4, IPV6, Damaged, Unsupported, decode_update

Decoded = dict[str, Any]  # plain data, one of the five shapes above

HEADER = struct.Struct(">IHHI")  # seconds, type, subtype, length of what follows
BGP4MP, BGP4MP_ET = 16, 17
# subtype → (size of an AS number, is a state change, prefixes carry path ids)
SUBTYPES = {
    0: (2, True, False),
    1: (2, False, False),
    4: (4, False, False),
    5: (4, True, False),
    8: (2, False, True),
    9: (4, False, True),
}
UPDATE = 2
OTHERS = {1: "open", 3: "notification", 4: "keepalive", 5: "refresh"}


def decode(record: bytes) -> Decoded:
    """Decode one whole record, header included. Never raises: what is wrong is said in `why`."""
    if len(record) < HEADER.size:
        return {"kind": "corrupt", "time": 0.0, "why": f"a header of {len(record)} bytes instead of 12"}
    seconds, kind, subtype, length = HEADER.unpack_from(record)
    try:
        return _record(seconds, kind, subtype, length, record)
    except Damaged as error:
        return {"kind": "corrupt", "time": float(seconds), "why": str(error)}
    except Unsupported as error:
        return {"kind": "unsupported", "time": float(seconds), "why": str(error)}


def _record(seconds: int, kind: int, subtype: int, length: int, record: bytes) -> Decoded:
    if len(record) != HEADER.size + length:
        raise Damaged(f"{len(record) - HEADER.size} bytes where the header says {length}")
    if kind == BGP4MP:
        return _bgp4mp(float(seconds), subtype, record, 12)
    if kind == BGP4MP_ET:
        return _bgp4mp(seconds + int.from_bytes(record[12:16], "big") / 1_000_000, subtype, record, 16)
    raise Unsupported(f"MRT type {kind}, subtype {subtype}")


def _bgp4mp(time: float, subtype: int, record: bytes, at: int) -> Decoded:
    """Read the peer header at `at` and the message behind it, in place: nothing is copied that is not kept."""
    if subtype not in SUBTYPES:
        raise Unsupported(f"BGP4MP subtype {subtype}")
    as_bytes, is_state, add_path = SUBTYPES[subtype]
    peer_as = int.from_bytes(record[at : at + as_bytes], "big")
    at += 2 * as_bytes + 2
    if len(record) < at + 2:
        raise Damaged("the peer header is cut short")
    family = record[at] << 8 | record[at + 1]
    if family not in (IPV4, IPV6):
        raise Damaged(f"a peer of address family {family}")
    size = 4 if family == IPV4 else 16
    if len(record) < at + 2 + 2 * size:
        raise Damaged("the peer addresses are cut short")
    said = {"time": time, "peer": _address(record[at + 2 : at + 2 + size]), "peer_as": peer_as}
    at += 2 + 2 * size
    if is_state:
        return _state_change(said, record[at:])
    return _message(said, record, at, as_bytes, add_path=add_path)


def _state_change(said: Decoded, states: bytes) -> Decoded:
    if len(states) != 4:
        raise Damaged(f"a state change of {len(states)} bytes instead of 4")
    return {"kind": "state", **said, "before": states[1], "after": states[3]}


def _message(said: Decoded, record: bytes, at: int, as_bytes: int, *, add_path: bool) -> Decoded:
    size = len(record) - at
    if size < 19:
        raise Damaged("the BGP header is cut short")
    length, what = record[at + 16] << 8 | record[at + 17], record[at + 18]
    if length != size:
        raise Damaged(f"a BGP message of {size} bytes that claims {length}")
    if what == UPDATE:
        announced, withdrawn, path, origin, why = decode_update(record, at + 19, as_bytes, add_path=add_path)
        routes = {"announced": announced, "withdrawn": withdrawn, "path": path, "origin": origin, "why": why}
        return {"kind": "update", **said, **routes}
    if what in OTHERS:
        return {"kind": "other", **said, "what": OTHERS[what]}
    raise Unsupported(f"BGP message type {what}")


@lru_cache(1_024)
def _address(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)
