"""Seconds that mrtparse takes for all records of a file: read, and nothing done with them."""

from __future__ import annotations

from time import perf_counter_ns

from answer import answer  # type: ignore[import-not-found]


def parse(path: str) -> dict[str, list[float]]:
    from mrtparse import Reader

    began, records = perf_counter_ns(), 0
    for _ in Reader(path):
        records += 1
    return {"record": [(perf_counter_ns() - began) / records], "records": [float(records)]}


if __name__ == "__main__":
    answer({"parse": parse})
