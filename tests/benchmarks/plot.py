"""The picture: the latency of every message around an upgrade, a panel for each who was upgraded. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from tests.benchmarks.peers.answer import Measured

WIDTH, HEIGHT = 440, 200  # of a panel
LEFT, TOP, RIGHT, BOTTOM = 56, 30, 12, 34
COLUMNS = 2
LOW_NS, HIGH_NS = 1e2, 2e9  # both ends of the latency axis, which is logarithmic
SECOND_NS = 1e9
NEAR_NS = 0.1e9  # a label so near to an end of the axis is shown
TICKS = {1e3: "1 µs", 1e4: "10 µs", 1e5: "100 µs", 1e6: "1 ms", 1e7: "10 ms", 1e8: "100 ms", 1e9: "1 s"}


def as_svg(panels: Mapping[str, Measured]) -> str:
    """`panels`: title → when each message was due, from the upgrade on, and how long it took; nanoseconds."""
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, max(rows, 1) * HEIGHT
    drawn = "".join(
        f'<g transform="translate({index % COLUMNS * WIDTH} {index // COLUMNS * HEIGHT})">'
        f"{_panel(title, each['at'], each['took'])}</g>\n"
        for index, (title, each) in enumerate(panels.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{drawn}</svg>\n'
    )


def _panel(title: str, at: Sequence[float], took: Sequence[float]) -> str:
    first, last = min(at, default=-SECOND_NS), max(at, default=SECOND_NS)
    worst = max(took, default=0.0)

    def x(moment: float) -> float:
        return LEFT + (moment - first) / max(last - first, 1.0) * (WIDTH - LEFT - RIGHT)

    def y(latency: float) -> float:
        part = math.log(min(max(latency, LOW_NS), HIGH_NS) / LOW_NS) / math.log(HIGH_NS / LOW_NS)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    grid = "".join(
        f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{label}</text>'
        for value, label in TICKS.items()
    )
    seconds = "".join(
        f'<text x="{x(second * SECOND_NS):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle" fill="#555">{second} s</text>'
        for second in range(round(first / SECOND_NS), round(last / SECOND_NS) + 1)
        if first - NEAR_NS <= second * SECOND_NS <= last + NEAR_NS
    )
    dots = "".join(f"M{x(when):.1f} {y(latency):.1f}h0" for when, latency in zip(at, took, strict=True))
    return (
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="18" text-anchor="end" fill="#b00">worst {_said(worst)}</text>'
        f'{grid}<path d="M{x(0):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#b00" stroke-dasharray="3 3"/>{seconds}'
        f'<path d="{dots}" stroke="#1c5fa8" stroke-width="2" stroke-linecap="round" stroke-opacity="0.5" fill="none"/>'
    )


def _said(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e3:.3g} µs"
