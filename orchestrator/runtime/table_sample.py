"""A sample of a module's Tables, for a trial: picked at once between two units, and encoded afterwards, part by part.

What is picked are references to bytes that nobody changes, so the sample is of one moment though it is encoded later.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import msgspec

from orchestrator.runtime.table_image import TableImage, versions_of
from orchestrator.runtime.table_store import Shards
from orchestrator.runtime.tables import ModuleTables

SAMPLE_BYTES_MAX = 2_000_000
RECORDS_PER_PART = 250  # encoded in some 20 µs

_ENCODER = msgspec.msgpack.Encoder()

Records = Sequence[tuple[Any, bytes]]  # Any: the author's keys


class Picked(msgspec.Struct, frozen=True):
    """Records of one table that are of one version, as they were in one moment, of `whole`. The image has no parts yet."""

    image: TableImage
    records: Records
    whole: int


class TableSample(msgspec.Struct, frozen=True):
    """Some records of one table that are of one version: `taken` of `whole`."""

    image: TableImage
    taken: int
    whole: int


def pick_records(tables: ModuleTables, name: str, count: int) -> list[Picked]:
    """Up to `count` records of each version that there is of a table. Some 50 µs per 1,000, and nothing is migrated by it."""
    return [
        Picked(image, _some(shards, count), whole)
        for image, shards in versions_of(tables)
        if image.name == name and (whole := sum(map(len, shards)))
    ]


def _some(shards: Shards, count: int) -> Records:
    """Shard by shard: which keys share one is a matter of their hashes, so a few shards are of all over the table."""
    with suppress(RuntimeError):
        return list(islice(chain.from_iterable(map(dict.items, shards)), count))
    few: list[tuple[Any, bytes]] = []
    for shard in shards:
        found = None
        while found is None:
            with suppress(RuntimeError):  # a unit in a thread has just made the dict larger
                found = list(islice(shard.items(), count - len(few)))
        few += found
    return few


def sampling(picked: Iterable[Picked]) -> Generator[None, None, list[TableSample]]:
    """What was picked as images, each of one record or of SAMPLE_BYTES_MAX at most."""
    samples = []
    for each in picked:
        few = _within(SAMPLE_BYTES_MAX, each.records)
        parts = []
        for start in range(0, len(few), RECORDS_PER_PART):
            yield
            some = few[start : start + RECORDS_PER_PART]
            parts.append(_ENCODER.encode([(key, msgspec.Raw(data)) for key, data in some]))
        samples.append(
            TableSample(msgspec.structs.replace(each.image, parts=tuple(parts)), len(few), each.whole)
        )
    return samples


def _within(size_max: int, records: Records) -> Records:
    left = size_max
    for number, (_, data) in enumerate(records):
        left -= len(data)
        if left < 0:
            return records[: max(1, number)]
    return records


def part_of(image: TableImage, count: int) -> TableSample:
    """The first parts of a saved table, with at least `count` records, or more than SAMPLE_BYTES_MAX."""
    lengths = [_length(part) for part in image.parts]
    taken = size = number = 0
    while number < len(lengths) and taken < count and size < SAMPLE_BYTES_MAX:
        taken += lengths[number]
        size += len(image.parts[number])
        number += 1
    return TableSample(msgspec.structs.replace(image, parts=image.parts[:number]), taken, sum(lengths))


def _length(part: bytes) -> int:
    """How many pairs a part has, by the head of its msgpack array; 0 if it is none, and cannot be read."""
    if not part or part[0] not in {0xDC, 0xDD}:
        return part[0] & 0x0F if part and part[0] & 0xF0 == 0x90 else 0  # the format's own
    return int.from_bytes(part[1 : 3 if part[0] == 0xDC else 5], "big")
