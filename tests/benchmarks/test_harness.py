"""The benchmark's own machinery: that a run measures in turn, names what is missing, and writes what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.__main__ import run
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.harness import Bench, Failed, Missing, Row, Side, Values
from tests.benchmarks.plot import as_svg
from tests.benchmarks.report import as_markdown


class NoPeers:
    """A machine on which no peer could be installed."""

    def command(self, name: str) -> list[str]:
        raise Missing(f"{name} is not here")

    def script(self, name: str) -> Path:
        raise Missing(f"{name} is not here")

    def versions(self) -> dict[str, str]:
        return {"pykka": "missing"}


def row(ours: list[float], theirs: list[float], **more: object) -> Row:
    return Row(1, Values("ours", ours), Values("theirs", theirs), **more)  # type: ignore[arg-type]


def test_a_run_writes_each_figure_with_both_sides_and_names_the_peers_that_are_missing(
    tmp_path: Path,
) -> None:
    rows = run(tmp_path, NoPeers(), [7, 9], quick=True, picture=False)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [each["figure"] for each in found["figures"]] == [7, 9, 9, 9]
    call = found["figures"][0]
    assert call["ratio"] == pytest.approx(call["ours"]["p50"] / call["theirs"]["p50"])
    assert call["ours"]["p99"] >= call["ours"]["p50"] > 0
    assert call["reached"] is (call["ratio"] <= call["aim"])
    pykka = found["figures"][1]
    assert (pykka["ratio"], pykka["reached"], pykka["missing"]) == (None, None, "pykka is not here")
    assert pykka["ours"]["n"] > 0  # ours was measured all the same
    assert found["machine"]["cores"]
    assert found["versions"]["pykka"] == "missing"
    assert {"Python", "uvloop"} <= set(found["versions"])
    table = (tmp_path / "bench.md").read_text().splitlines()
    assert len([line for line in table if line.startswith("| ")]) == len(rows) + 1
    assert sum("not measured: erlang is not here" in line for line in table) == 2
    assert not (tmp_path / "latency.svg").exists()


def test_a_figure_that_fails_is_told_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_bench: Bench) -> list[Row]:
        raise Failed("the disk is full")

    monkeypatch.setattr("tests.benchmarks.__main__.FIGURES", {1: fails, 2: lambda _: [row([1.0], [2.0])]})
    first, second = run(tmp_path, NoPeers(), [1, 2], quick=True, picture=False)
    assert (first.missing, first.reached) == ("Failed: the disk is full", None)
    assert second.ratio == 0.5


@pytest.mark.parametrize(
    ("ours", "more", "reached"),
    [
        ([3.0, 1.0, 1.0], {"aim": 0.5}, True),  # of medians: one outlier changes nothing
        ([3.0, 3.0, 1.0], {"aim": 0.5}, False),
        ([3.0, 3.0, 1.0], {"aim": 0.5, "or_ours": 3.0}, True),
        ([3.0, 3.0, 1.0], {"aim": 1.5, "at_least": True}, True),
        ([3.0, 3.0, 1.0], {"aim": 1.6, "at_least": True}, False),
        ([3.0, 3.0, 1.0], {}, None),
    ],
)
def test_a_row_says_whether_its_ratio_was_reached(
    ours: list[float], more: dict[str, object], reached: bool | None
) -> None:
    each = row(ours, [2.0, 2.0, 9.0], **more)
    assert each.reached is reached
    told = as_markdown([each], {}, 60.0).splitlines()[2]
    assert told.endswith({True: "| reached |", False: "| **not reached** |", None: "|  |"}[reached])


def test_sides_are_measured_in_turn_and_one_that_fails_is_left_out(tmp_path: Path) -> None:
    done = []

    def measure(name: str) -> dict[str, list[float]]:
        done.append(name)
        if name == "b" and len(done) > 2:
            raise Failed("it broke")
        return {"t": [float(len(done))]}

    with Bench(tmp_path, NoPeers()) as bench:
        found = bench.in_turn(3, {"a": lambda: measure("a"), "b": lambda: measure("b")})
    assert done == ["a", "b", "a", "b", "a"]
    assert found["a"].of("t").values == [1.0, 3.0, 5.0]
    assert found["b"].of("t").missing == "it broke"


def test_a_side_that_cannot_measure_says_why_and_goes_on(tmp_path: Path) -> None:
    side = Side([sys.executable, "-m", "tests.benchmarks.ours.messages", "asyncio"], tmp_path / "log")
    try:
        with pytest.raises(Failed, match="calls 0: ZeroDivisionError"):
            side.measure("calls 0")
        assert len(side.measure("ask 3")["ask"]) == 3
    finally:
        side.close()


def test_a_side_that_answers_no_json_has_failed(tmp_path: Path) -> None:
    side = Side([sys.executable, "-c", "input(); print('=ERROR REPORT=')"], tmp_path / "log")
    with pytest.raises(Failed, match="ask 3: it said '=ERROR REPORT='"):
        side.measure("ask 3")
    side.close()


def test_a_side_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    side = Side([sys.executable, "-c", ""], tmp_path / "log")
    with pytest.raises(Failed, match="ended"):
        side.measure("ask 3")
    side.close()


def test_the_picture_has_a_panel_for_each_and_a_dot_for_every_message() -> None:
    took = [1e4, 2e9, 1e5]
    drawn = ET.fromstring(  # noqa: S314  # it is our own
        as_svg({"a <b>": {"at": [-1e9, 0.0, 1e9], "took": took}, "c": {"at": [], "took": []}})
    )
    svg = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{svg}g")
    assert [panel.findtext(f"{svg}text") for panel in panels] == ["a <b>", "c"]
    dots = panels[0].findall(f"{svg}path")[-1].attrib["d"]
    assert dots.count("M") == len(took)
    assert "worst 2 s" in [each.text for each in panels[0].findall(f"{svg}text")]


def test_every_figure_of_the_table_is_there() -> None:
    assert list(FIGURES) == [*range(1, 15), *range(16, 20)]
