"""Run the figures, ours and theirs in turn, and write the table: `make bench`, or python -m tests.benchmarks --help."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks import install
from tests.benchmarks.figures import FIGURES, pictured
from tests.benchmarks.harness import ROOT, Bench, Peers, Row, Values
from tests.benchmarks.plot import as_svg
from tests.benchmarks.report import as_json, as_markdown, as_short


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def run(folder: Path, peers: Peers, figures: Sequence[int], *, quick: bool, picture: bool) -> list[Row]:
    """Measure, and write bench.json, bench.md, short.md and latency.svg into the folder; the first three after each figure."""
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    versions = {**install.ours(), **peers.versions()}
    rows: list[Row] = []
    with Bench(folder, peers, quick) as bench:
        for number in figures:
            since = time.monotonic()
            rows += _measured(number, bench)
            _write(folder, rows, versions, time.monotonic() - began)
            say(f"figure {number}: {time.monotonic() - since:.0f} s")
        if picture and (panels := pictured(bench)):
            (folder / "latency.svg").write_text(as_svg(panels), encoding="utf-8")
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    return rows


def _write(folder: Path, rows: Sequence[Row], versions: Mapping[str, str], took_s: float) -> None:
    (folder / "bench.json").write_text(as_json(rows, versions, took_s), encoding="utf-8")
    (folder / "bench.md").write_text(as_markdown(rows, versions, took_s), encoding="utf-8")
    (folder / "short.md").write_text(as_short(rows), encoding="utf-8")


def _measured(number: int, bench: Bench) -> list[Row]:
    """The rows of a figure; one that could not be measured hides no other."""
    try:
        return FIGURES[number](bench)
    except Exception as error:  # noqa: BLE001  # whatever it was, it is told in the table
        say(traceback.format_exc())
        return [Row(number, Values("the figure", missing=f"{type(error).__name__}: {error}"), None)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds of little work: to see that it runs")
    parser.add_argument("--only", metavar="N,N", help="these figures, and no picture")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    arguments = parser.parse_args()
    only = [int(number) for number in arguments.only.split(",")] if arguments.only else list(FIGURES)
    if unknown := set(only) - set(FIGURES):
        parser.error(f"there is no figure {min(unknown)}; there are {', '.join(map(str, FIGURES))}")
    out = arguments.out.absolute()  # sides and Git work in other folders
    out.mkdir(parents=True, exist_ok=True)
    peers = install.Peers(out)
    peers.install(say)
    peers.install_ours(say)
    run(out, peers, only, quick=arguments.quick, picture=not arguments.only)
    sys.stdout.write((out / "bench.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
