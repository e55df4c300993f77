"""The sample's MRT decoder: the golden counts of real files, and dirty input."""

import bz2
import gzip
import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sample_app.modules.decoder.mrt import decode

MRT = Path(__file__).resolve().parents[2] / "shared" / "data" / "bgp" / "mrt"
real_data = pytest.mark.skipif(not MRT.is_dir(), reason=f"the real feeds are not there: {MRT}")

# announced, withdrawn, state changes as Debian's `bgpdump -m` 1.6.2 prints them
GOLDEN = {
    "ris_updates_20020722_2238.gz": (825, 2_419, 93),
    "ris_updates_20070211_0141.gz": (51_329, 2_328, 0),
    "ris_updates_20071015_1505.gz": (10_111, 385, 0),
    "ris_rrc15_updates_20100227_1600.gz": (52_468, 1_318, 20),
    "ris_rrc15_updates_20100227_1610.gz": (5_920, 1_549, 16),
    "ris_rrc03_updates_20100227_1600_first796.gz": (1_226, 133, 4),
    "ris_updates_20100722_2015.gz": (5_067, 547, 40),
    "ris_rrc06_updates_20150401_0000.gz": (1_435, 122, 4),
    "routeviews_jinx_updates_20150401_0000.bz2": (8_160, 451, 0),
    "ris_updates_20160811_1600.gz": (39_256, 1_956, 22),
    "edge_long_withdrawal.gz": (0, 4_096, 0),
}

PEER = bytes([192, 0, 2, 1, 192, 0, 2, 254])
ORIGIN = bytes([0x40, 1, 1, 0])
NEXT_HOP = bytes([0x40, 3, 4, 192, 0, 2, 1])


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if path.suffix in (".gz", ".bz2"):
        data = (gzip if path.suffix == ".gz" else bz2).decompress(data)
    at = 0
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        yield data[at:end]
        at = end


def attribute(code: int, value: bytes) -> bytes:
    return bytes([0x40, code, len(value)]) + value


def path(as_format: str, *numbers: int) -> bytes:
    return struct.pack(f">BB{len(numbers)}{as_format}", 2, len(numbers), *numbers)


def record(subtype: int, body: bytes, *, kind: int = 16, what: int = 2) -> bytes:
    """Make a whole MRT record around one BGP message from AS64500 at 192.0.2.1."""
    peer = struct.pack(">IIHH" if subtype in (4, 9) else ">HHHH", 64_500, 64_511, 0, 1) + PEER
    message = b"\xff" * 16 + struct.pack(">HB", 19 + len(body), what) + body
    micros = struct.pack(">I", 250_000) if kind == 17 else b""
    data = micros + peer + message
    return struct.pack(">IHHI", 1_000, kind, subtype, len(data)) + data


def update(attributes: bytes, announced: bytes = b"", withdrawn: bytes = b"") -> bytes:
    return (
        struct.pack(">H", len(withdrawn))
        + withdrawn
        + struct.pack(">H", len(attributes))
        + attributes
        + announced
    )


@real_data
@pytest.mark.parametrize("name", GOLDEN)
def test_every_prefix_and_state_change_of_a_real_file_is_found(name: str) -> None:
    decoded = [decode(one) for one in records(MRT / name)]
    announced = sum(len(one["announced"]) for one in decoded if one["kind"] == "update")
    withdrawn = sum(len(one["withdrawn"]) for one in decoded if one["kind"] == "update")
    kinds = Counter(one["kind"] for one in decoded)
    assert (announced, withdrawn, kinds["state"]) == GOLDEN[name]
    assert kinds["corrupt"] == kinds["unsupported"] == 0
    assert not any(one.get("why") for one in decoded)


@real_data
def test_the_short_state_changes_of_an_old_zebra_are_labelled_and_the_rest_is_read() -> None:
    decoded = [decode(one) for one in records(MRT / "ris_rrc01_updates_20001104_0124.gz")]
    kinds = Counter(one["kind"] for one in decoded)
    assert sum(len(one["announced"]) for one in decoded if one["kind"] == "update") == 378
    assert sum(len(one["withdrawn"]) for one in decoded if one["kind"] == "update") == 141
    assert kinds["state"] == 364 - 42  # bgpdump shows the 42 as changes of a peer 0.0.0.0
    assert kinds["corrupt"] == 63


@real_data
def test_what_this_decoder_does_not_know_is_labelled_unsupported_with_its_type() -> None:
    rib = Counter(decode(one)["why"] for one in records(MRT / "ris_rib_20020722_2337.gz"))
    assert rib == {"MRT type 12, subtype 1": 115_521}
    lab = [decode(one) for one in records(MRT / "lab_quagga_bgp.mrt")]
    assert Counter(one["kind"] for one in lab)["unsupported"] == 6
    assert sum(len(one["announced"]) for one in lab if one["kind"] == "update") == 18


@real_data
def test_a_prefix_with_host_bits_is_masked_and_a_cut_tail_is_said_beside_what_was_read() -> None:
    (decoded,) = [decode(one) for one in records(MRT / "edge_nlri_mask_trailing_bits.gz")]
    assert decoded["announced"] == ["11.8.0.0/13"]
    assert decoded["path"] == "7018 3549 12389 48275 51044"
    assert decoded["why"] == "a prefix of 11 bits is cut short"


def test_an_update_is_plain_data() -> None:
    attributes = ORIGIN + attribute(2, path("I", 64_500, 65_551)) + NEXT_HOP
    body = update(attributes, announced=b"\x18\xcb\x00\x71", withdrawn=b"\x11\xc6\x12\x80\x00")
    assert decode(record(4, body, kind=17)) == {
        "kind": "update",
        "time": 1_000.25,
        "peer": "192.0.2.1",
        "peer_as": 64_500,
        "announced": ["203.0.113.0/24"],
        "withdrawn": ["198.18.128.0/17", "0.0.0.0/0"],
        "path": "64500 65551",
        "origin": 65_551,
        "why": "",
    }


def test_ipv6_routes_come_from_the_multiprotocol_attributes() -> None:
    reach = struct.pack(">HBB", 2, 1, 16) + bytes(16) + b"\x00" + b"\x20\x20\x01\x0d\xb8"
    unreach = struct.pack(">HB", 2, 1) + b"\x30\x20\x01\x0d\xb8\x00\x07"
    attributes = attribute(14, reach) + attribute(15, unreach) + attribute(2, path("H", 64_500, 64_496))
    decoded = decode(record(1, update(attributes)))
    assert (decoded["announced"], decoded["withdrawn"]) == (["2001:db8::/32"], ["2001:db8:7::/48"])
    assert decoded["origin"] == 64_496


def test_a_prefix_with_a_path_id_keeps_it() -> None:
    attributes = ORIGIN + attribute(2, path("I", 64_500)) + NEXT_HOP
    body = update(attributes, announced=b"\x00\x00\x00\x07\x18\xcb\x00\x71")
    assert decode(record(9, body))["announced"] == ["203.0.113.0/24#7"]


def test_an_old_speakers_path_is_completed_from_as4_path() -> None:
    attributes = ORIGIN + attribute(2, path("H", 64_500, 23_456, 23_456)) + NEXT_HOP
    body = update(attributes + attribute(17, path("I", 65_540, 65_551)), announced=b"\x18\xcb\x00\x71")
    assert decode(record(1, body))["path"] == "64500 65540 65551"


def test_a_path_that_ends_in_a_set_has_no_origin() -> None:
    with_set = path("I", 64_500) + struct.pack(">BBII", 1, 2, 64_501, 64_502)
    decoded = decode(
        record(4, update(ORIGIN + attribute(2, with_set) + NEXT_HOP, announced=b"\x18\xcb\x00\x71"))
    )
    assert (decoded["path"], decoded["origin"]) == ("64500 {64501,64502}", None)


@pytest.mark.parametrize(
    ("broken", "kind", "why"),
    [
        (b"", "corrupt", "a header of 0 bytes instead of 12"),
        (record(4, b"")[:-3], "corrupt", "36 bytes where the header says 39"),
        (record(4, b""), "corrupt", "the message is cut short"),
        (record(4, update(b"\x40\x02\x09")), "corrupt", "attribute 2 of 9 bytes leads out of the attributes"),
        (
            record(4, update(b"", withdrawn=b"\x21\x0a")),
            "corrupt",
            "a prefix of 33 bits, in an address of 32",
        ),
        (record(4, b"\x00\x00\x00\x09"), "corrupt", "the attributes end at byte 13 of a message of 4"),
        (record(4, b"", what=9), "unsupported", "BGP message type 9"),
        (record(2, b""), "unsupported", "BGP4MP subtype 2"),
        (record(1, b"", kind=13), "unsupported", "MRT type 13, subtype 1"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(broken: bytes, kind: str, why: str) -> None:
    decoded = decode(broken)
    assert (decoded["kind"], decoded["why"]) == (kind, why)


def test_no_damage_makes_the_decoder_raise() -> None:
    reach = struct.pack(">HBB", 2, 1, 16) + bytes(16) + b"\x00" + b"\x20\x20\x01\x0d\xb8"
    attributes = ORIGIN + attribute(2, path("I", 64_500, 65_551)) + NEXT_HOP + attribute(14, reach)
    sound = record(4, update(attributes, announced=b"\x18\xcb\x00\x71", withdrawn=b"\x11\xc6\x12\x80"))
    chance = random.Random(7)  # noqa: S311 - the same damage in every run
    kinds: Counter[str] = Counter()
    for _ in range(20_000):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        kinds[decode(bytes(damaged))["kind"]] += 1
    assert kinds["corrupt"] > 1_000
    assert kinds["update"] > 1_000
