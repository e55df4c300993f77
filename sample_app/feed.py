"""The sample's own feed: an MRT update file that anybody can make again, byte for byte.

What happens to 208.65.152.0/22 follows the public timeline of 24 February 2008 (RIPE NCC, "YouTube Hijacking: A RIPE
NCC RIS case study"). It is a RECONSTRUCTION: the event's times, prefixes and origins are those of the timeline; the
peers, the paths up to AS3491 and all background routes are made up, from numbers reserved for documentation.

    python -m sample_app.feed FILE
"""

from __future__ import annotations

import random
import struct
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from ipaddress import ip_network
from pathlib import Path

START = datetime(2008, 2, 24, 18, 0, tzinfo=timezone.utc).timestamp()
END = datetime(2008, 2, 24, 21, 30, tzinfo=timezone.utc).timestamp()
COLLECTOR_AS = 64_511
YOUTUBE, PAKISTAN_TELECOM, PCCW = 36_561, 17_557, 3_491
AS_TRANS = 23_456
BACKGROUND_RECORDS = 6_000

# (UTC, announced or withdrawn, prefixes, path behind the peer)
EVENT: tuple[tuple[str, bool, tuple[str, ...], tuple[int, ...]], ...] = (
    ("18:01", True, ("208.65.152.0/22",), (PCCW, YOUTUBE)),
    ("18:47", True, ("208.65.153.0/24",), (PCCW, PAKISTAN_TELECOM)),
    ("20:07", True, ("208.65.153.0/24",), (YOUTUBE,)),
    ("20:18", True, ("208.65.153.0/25", "208.65.153.128/25"), (YOUTUBE,)),
    ("20:51", True, ("208.65.153.0/24",), (PCCW, PAKISTAN_TELECOM, PAKISTAN_TELECOM)),
    ("21:01", False, ("208.65.153.0/24",), ()),
)


Hops = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    address: bytes
    number: int
    old: bool = False  # speaks two-byte AS numbers


PEERS = (
    Peer(bytes([192, 0, 2, 11]), 64_500),
    Peer(bytes([192, 0, 2, 12]), 64_501),
    Peer(bytes([192, 0, 2, 13]), 64_502, old=True),
    Peer(bytes([192, 0, 2, 14]), 65_536),
    Peer(bytes.fromhex("20010db8ffff00000000000000000015"), 65_537),
)
HIJACK_SEEN_BY = (0, 1, 3)  # which peers took the route of AS17557
ORIGINS = (*range(64_496, 64_500), *range(64_503, 64_511), *range(65_538, 65_552))


@dataclass(slots=True)
class Counts:
    """What a right decoder finds in the feed."""

    announced: int = 0
    withdrawn: int = 0
    states: int = 0
    others: int = 0
    corrupt: int = 0
    unsupported: int = 0


@dataclass(slots=True)
class Feed:
    """Records by time, and what they say."""

    counts: Counts = field(default_factory=Counts)
    records: list[tuple[float, int, bytes]] = field(default_factory=list)

    def update(
        self, at: float, peer: Peer, announced: tuple[str, ...], withdrawn: tuple[str, ...], path: Hops
    ) -> None:
        """One UPDATE. A peer sees only its own routes again, with its own AS number in front."""
        self.counts.announced += len(announced)
        self.counts.withdrawn += len(withdrawn)
        body = encode_update(announced, withdrawn, (peer.number, *path), old=peer.old)
        self._message(at, peer, 2, body)

    def keepalive(self, at: float, peer: Peer) -> None:
        self.counts.others += 1
        self._message(at, peer, 4, b"")

    def state(self, at: float, peer: Peer, before: int, after: int) -> None:
        self.counts.states += 1
        self._record(at, 16, 0 if peer.old else 5, _peer_header(peer) + struct.pack(">HH", before, after))

    def cut_short(self, at: float, peer: Peer) -> None:
        """An UPDATE whose attributes lead out of the message."""
        self.counts.corrupt += 1
        self._message(at, peer, 2, b"\x00\x00\x00\x30\x40\x01\x01")

    def unknown(self, at: float) -> None:
        """A record of a type that is no BGP4MP: an empty peer table (TABLE_DUMP_V2)."""
        self.counts.unsupported += 1
        self._record(at, 13, 1, bytes(8))

    def _message(self, at: float, peer: Peer, what: int, body: bytes) -> None:
        message = b"\xff" * 16 + struct.pack(">HB", 19 + len(body), what) + body
        data = _peer_header(peer) + message
        if peer.old:
            self._record(at, 16, 1, data)
        else:
            self._record(at, 17, 4, struct.pack(">I", int(at % 1 * 1_000_000)) + data)

    def _record(self, at: float, kind: int, subtype: int, data: bytes) -> None:
        header = struct.pack(">IHHI", int(at), kind, subtype, len(data))
        self.records.append((at, len(self.records), header + data))


def build(background_records: int = BACKGROUND_RECORDS) -> tuple[bytes, Counts]:
    """Make the feed, the same bytes each time, and say what is in it."""
    feed = Feed()
    chance = random.Random(20_080_224)  # noqa: S311 - the same feed each time
    _tables(feed, chance)
    _churn(feed, chance, background_records)
    _event(feed)
    _session_reset(feed)
    feed.cut_short(_utc("19:10"), PEERS[1])
    feed.unknown(_utc("19:40"))
    return b"".join(record for _, _, record in sorted(feed.records)), feed.counts


def encode_update(announced: tuple[str, ...], withdrawn: tuple[str, ...], path: Hops, *, old: bool) -> bytes:
    """Encode an UPDATE body: IPv4 in the message itself, IPv6 in the multiprotocol attributes (RFC 4271, 4760, 6793)."""
    wide = [prefix for prefix in announced if ":" in prefix]
    wide_gone = [prefix for prefix in withdrawn if ":" in prefix]
    gone = b"".join(_nlri(prefix) for prefix in withdrawn if ":" not in prefix)
    attributes = b""
    if announced:
        attributes += _attribute(0x40, 1, b"\x00") + _path_attributes(path, old=old)
        attributes += _attribute(0x40, 3, bytes([192, 0, 2, 1]))
    if wide:
        next_hop = bytes.fromhex("20010db8ffff00000000000000000001")
        reach = struct.pack(">HBB", 2, 1, 16) + next_hop + b"\x00" + b"".join(map(_nlri, wide))
        attributes += _attribute(0x80, 14, reach)
    if wide_gone:
        attributes += _attribute(0x80, 15, struct.pack(">HB", 2, 1) + b"".join(map(_nlri, wide_gone)))
    plain = b"".join(_nlri(prefix) for prefix in announced if ":" not in prefix)
    return struct.pack(">H", len(gone)) + gone + struct.pack(">H", len(attributes)) + attributes + plain


def _path_attributes(path: Hops, *, old: bool) -> bytes:
    if not old:
        return _attribute(0x40, 2, struct.pack(f">BB{len(path)}I", 2, len(path), *path))
    narrow = [number if number < 65_536 else AS_TRANS for number in path]
    attributes = _attribute(0x40, 2, struct.pack(f">BB{len(path)}H", 2, len(path), *narrow))
    if AS_TRANS in narrow:
        attributes += _attribute(0xC0, 17, struct.pack(f">BB{len(path)}I", 2, len(path), *path))
    return attributes


def _attribute(flags: int, code: int, value: bytes) -> bytes:
    if len(value) > 255:
        return struct.pack(">BBH", flags | 0x10, code, len(value)) + value
    return bytes([flags, code, len(value)]) + value


def _nlri(prefix: str) -> bytes:
    network = ip_network(prefix)
    return bytes([network.prefixlen]) + network.network_address.packed[: (network.prefixlen + 7) // 8]


def _peer_header(peer: Peer) -> bytes:
    numbers = struct.pack(">HHH" if peer.old else ">IIH", peer.number, COLLECTOR_AS, 0)
    family = 1 if len(peer.address) == 4 else 2
    return numbers + struct.pack(">H", family) + peer.address + bytes(len(peer.address))


def _routes() -> list[tuple[tuple[str, ...], int]]:
    """The background: each origin's prefixes, out of 198.18.0.0/15 and 2001:db8::/32."""
    routes: list[tuple[tuple[str, ...], int]] = []
    for index, origin in enumerate(ORIGINS):
        for part in range(4):
            third = (index * 4 + part) * 4 % 256
            base = f"198.{18 + (index * 16 + part * 4) // 256}"
            routes.append(((f"{base}.{third}.0/24", f"{base}.{third + 1}.0/24"), origin))
        routes.append(((f"2001:db8:{index:x}::/48",), origin))
    return routes


def _path(chance: random.Random, origin: int) -> Hops:
    return (
        *(chance.randrange(64_500, 64_511) for _ in range(chance.randint(0, 3))),
        *[origin] * chance.randint(1, 2),
    )


def _tables(feed: Feed, chance: random.Random) -> None:
    """Each peer tells its whole table within the first minute."""
    for peer in PEERS:
        for prefixes, origin in _routes():
            feed.update(START + chance.random() * 60, peer, prefixes, (), _path(chance, origin))


def _churn(feed: Feed, chance: random.Random, records: int) -> None:
    """Routes that flap, take another path, or, rarely, move to another origin; and keepalives."""
    routes = _routes()
    for _ in range(records):
        at = START + 60 + chance.random() * (END - START - 60)
        peer = chance.choice(PEERS)
        prefixes, origin = chance.choice(routes)
        lot = chance.random()
        if lot < 0.10:
            feed.keepalive(at, peer)
        elif lot < 0.25:
            feed.update(at, peer, (), prefixes, ())
        elif lot < 0.255:
            feed.update(at, peer, prefixes[:1], (), _path(chance, chance.choice(ORIGINS)))
        else:
            feed.update(at, peer, prefixes, (), _path(chance, origin))


def _event(feed: Feed) -> None:
    """The timeline, half a second from peer to peer."""
    for at, announced, prefixes, path in EVENT:
        hijack = PAKISTAN_TELECOM in path or not announced
        for delay, number in enumerate(HIJACK_SEEN_BY if hijack else range(len(PEERS))):
            came, went = (prefixes, ()) if announced else ((), prefixes)
            feed.update(_utc(at) + delay * 0.5, PEERS[number], came, went, path)


def _session_reset(feed: Feed) -> None:
    """A peer's session goes down and comes back, and the peer tells its table again."""
    peer = PEERS[4]
    for seconds, (before, after) in enumerate(((6, 1), (1, 3), (3, 4), (4, 5), (5, 6))):
        feed.state(_utc("19:25") + seconds, peer, before, after)
    for prefixes, origin in _routes():
        feed.update(_utc("19:26"), peer, prefixes, (), (64_505, origin))


def _utc(clock: str) -> float:
    hours, minutes = clock.split(":")
    return START + (int(hours) - 18) * 3_600 + int(minutes) * 60


def main() -> int:
    """Write the feed to the file named on the command line."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m sample_app.feed FILE\n")
        return 2
    data, counts = build()
    Path(sys.argv[1]).write_bytes(data)
    sys.stdout.write(f"{sys.argv[1]}: {len(data)} bytes, {counts}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
