"""The figures by their numbers (15 was never given), and the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.benchmarks.figures.gateway import figure_11, upgraded
from tests.benchmarks.figures.messages import figure_07, figure_08, figure_09, figure_10
from tests.benchmarks.figures.pipeline import figure_19
from tests.benchmarks.figures.pushes import figure_12, figure_17
from tests.benchmarks.figures.scale import figure_18
from tests.benchmarks.figures.storage import figure_13, figure_14, figure_16
from tests.benchmarks.figures.swaps import (
    figure_01,
    figure_02,
    figure_03,
    figure_04,
    figure_05,
    figure_06,
    picture,
)
from tests.benchmarks.harness import Bench, Failed, Missing, Row
from tests.benchmarks.peers.answer import Measured

FIGURES: Mapping[int, Callable[[Bench], list[Row]]] = {
    1: figure_01, 2: figure_02, 3: figure_03, 4: figure_04, 5: figure_05, 6: figure_06, 7: figure_07, 8: figure_08,
    9: figure_09, 10: figure_10, 11: figure_11, 12: figure_12, 13: figure_13, 14: figure_14, 16: figure_16,
    17: figure_17, 18: figure_18, 19: figure_19,
}  # fmt: skip
AROUND_S = 1.0  # of the picture, before and after


def pictured(bench: Bench) -> dict[str, Measured]:
    """The panels of the picture; one whose peer is missing is left out, as the table says."""
    panels: dict[str, Measured] = {}
    with suppress(Missing, Failed):
        panels.update(picture(bench))
    for name, found in bench.shared("upgraded", upgraded).items():
        title = {"livetag": "livetag, gateway over TCP, by a push", "gunicorn": "gunicorn HUP, HTTP"}[name]
        if not found.missing:
            panels[title] = _around(found.lists["at"], found.lists["took"])
    return panels


def _around(at: list[float], took: list[float]) -> Measured:
    near = [(a, t) for a, t in zip(at, took, strict=True) if abs(a) <= AROUND_S * 1e9]
    return {"at": [a for a, _ in near], "took": [t for _, t in near]}
