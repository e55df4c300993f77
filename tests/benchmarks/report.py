"""What a run found, as a file for programmes and a table for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import UNITS, Row, Values

Facts = dict[str, Any]  # Any: JSON


def machine() -> Facts:
    """What ran it."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def as_json(rows: Sequence[Row], versions: Mapping[str, str], took_s: float) -> str:
    facts = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "took_s": round(took_s, 1),
        "machine": machine(),
        "versions": dict(versions),
        "figures": [_facts(row) for row in rows],
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _facts(row: Row) -> Facts:
    return {
        "figure": row.figure,
        "unit": row.unit,
        "ours": _side(row.ours, row.unit),
        "theirs": None if row.theirs is None else _side(row.theirs, row.unit),
        "ratio": row.ratio,
        "aim": row.aim,
        "at_least": row.at_least,
        "reached": row.reached,
        "missing": row.missing or None,
    }


def _side(values: Values, unit: str) -> Facts:
    if not values.values:
        return {"what": values.what, "n": 0}
    scale = UNITS[unit]
    return {
        "what": values.what,
        "n": len(values.values),
        "p50": values.p50 / scale,
        "p99": values.p99 / scale,
    }


HEAD = "| # | ours | p50 | p99 | theirs | p50 | p99 | ratio | to reach | |\n|---|---|--:|--:|---|--:|--:|--:|--:|---|\n"


SHORT_HEAD = "| # | ours ÷ theirs | ratio | to reach | |\n|---|---|--:|--:|---|\n"


def as_markdown(rows: Sequence[Row], versions: Mapping[str, str], took_s: float) -> str:
    facts = machine()
    lines = "".join(f"{_line(row)}\n" for row in rows)
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{HEAD}{lines}\n{datetime.now(timezone.utc):%Y-%m-%d}, {facts['processor']}, {facts['cores']} cores, "
        f"{facts['system']}, load {facts['load']}; {told}. "
        f"Measured in turn in {took_s / 60:.0f} minutes; a ratio is one of medians.\n"
    )


def as_short(rows: Sequence[Row]) -> str:
    """The ratios that there are to reach, a line each: for a README."""
    return SHORT_HEAD + "".join(
        f"| {row.figure} | {row.ours.what}{f' ÷ {row.theirs.what}' if row.theirs else ''} | {_ratio(row)} | {_aim(row)} | "
        f"{_verdict(row)} |\n"
        for row in rows
        if row.aim is not None
    )


def _line(row: Row) -> str:
    theirs = ["", "", ""] if row.theirs is None else _cells(row.theirs, row.unit)
    told = [str(row.figure), *_cells(row.ours, row.unit), *theirs, _ratio(row), _aim(row), _verdict(row)]
    return f"| {' | '.join(told)} |"


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else _number(row.ratio)


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    aim = f"{'≥' if row.at_least else '≤'} {row.aim:g}"
    return aim if row.or_ours is None else f"{aim} or {row.or_ours / UNITS[row.unit]:g} {row.unit}"


def _verdict(row: Row) -> str:
    if row.missing:
        return f"not measured: {' '.join(row.missing.split())}"
    return {True: "reached", False: "**not reached**", None: ""}[row.reached]


def _cells(values: Values, unit: str) -> list[str]:
    if not values.values:
        return [values.what, "", ""]
    scale = UNITS[unit]
    return [values.what, *(f"{_number(each / scale)} {unit}".strip() for each in (values.p50, values.p99))]


def _number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
