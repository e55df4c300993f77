"""Figure 19: the sample's five modules, fed as fast as they take it, beside a library that only parses the file."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import sample_app
from orchestrator.control.client import ControlError
from sample_app import feed
from tests.benchmarks.harness import ROOT, Bench, Row, Values
from tests.benchmarks.peers.answer import Measured
from tests.stories.deployment import Deployment, deployed, wait_until

SAMPLE = Path(sample_app.__file__).parent
DECODER = SAMPLE / "upgrades" / "decoder-1.1.0"  # the newest, which remembers what peers repeat
CHAIN = ("source", "decoder", "rib", "detector", "alerts")
#: A file of a public collector that lies beside some clones; without it the sample's own feed is read.
FEED_2016 = ROOT.parent / "shared" / "data" / "bgp" / "mrt" / "ris_updates_20160811_1600.gz"
END_S = 120.0
TIMES = 4  # so long that an upgrade fits in


def figure_19(bench: Bench) -> list[Row]:
    path, once, said = _feed(bench)
    with _host(bench, path) as sample:
        found = bench.in_turn(
            bench.size(5, 1),
            {
                "plain": lambda: sample.run(upgraded=False),
                "upgraded": lambda: sample.run(upgraded=True),
                "mrtparse": lambda: bench.peer("mrtparse").measure(f"parse {once}"),
            },
        )
    plain = found["plain"].of("rate", f"records/s through five modules, {said}")
    parsed = found["mrtparse"]
    rates = [1e9 / each for each in parsed.lists.get("record", [])]
    return [
        Row(19, plain, Values("mrtparse, only parsed", rates, parsed.missing), aim=8, at_least=True, unit=""),
        Row(
            19,
            found["upgraded"].of("rate", "records/s with an upgrade pushed in the middle"),
            found["plain"].of("rate", "without"),
            aim=0.97,
            at_least=True,
            unit="",
        ),
    ]


def _feed(bench: Bench) -> tuple[Path, Path, str]:
    """What ours reads, what mrtparse reads, which is slower and gets it once, and what it is."""
    folder = bench.scratch("feed")
    folder.mkdir(parents=True, exist_ok=True)
    if FEED_2016.exists() and not bench.quick:
        copy = folder / "ris_updates_20160811_1600.gz"
        copy.write_bytes(FEED_2016.read_bytes() * TIMES)  # members of gzip may follow each other
        return copy, FEED_2016, "a real file of 2016"
    own = folder / "feed.mrt"
    own.write_bytes(feed.build(bench.size(60_000, 40_000))[0])
    return own, own, "the sample's own feed"


class Sample:
    """The sample in a real host. Each run reads the file anew, under another name."""

    def __init__(self, deployment: Deployment, path: Path) -> None:
        self._deployment, self._path = deployment, path
        self._run = 0
        for name in CHAIN:
            self._write(name, DECODER if name == "decoder" else SAMPLE / "modules" / name)

    def _write(self, name: str, folder: Path) -> None:
        to = self._deployment.work.path / "modules" / name
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, *, upgraded: bool) -> Measured:
        """Records per second from the first to the last one handled."""
        self._run += 1
        path = self._path.with_name(f"{self._run}-{self._path.name}")
        path.symlink_to(self._path)
        detector = SAMPLE / "modules" / "detector", SAMPLE / "upgrades" / "detector-1.1.0"
        output = path.with_suffix(".jsonl")
        self._deployment.work.write(
            "app.toml",
            '[app]\nname = "bgp"\n'
            + "".join(f"[modules.{name}]\n" for name in CHAIN[1:4])
            + f'[modules.source]\nconfig = {{ feed = "{path}" }}\n[modules.alerts]\nconfig = {{ output = "{output}" }}\n',
        )
        tags = [f"app/v1.0.{self._run}", *(f"{name}/v1.0.0" for name in CHAIN if self._run == 1)]
        self._deployment.release(*tags)
        push = threading.Thread(target=self._deployment.push, args=("main", *tags))
        push.start()
        wait_until(lambda: self._source().get("feed") == str(path), "the file is read", 30)
        before, began = self._source()["records"], perf_counter_ns()
        if upgraded:
            sleep(0.2)
            self._write("detector", detector[1 - self._run % 2])
            self._deployment.release(f"detector/v1.0.{self._run}")
            assert self._deployment.push(f"detector/v1.0.{self._run}").returncode == 0
            assert not self._source()["ended"], "the upgrade came after the file's end"
        wait_until(self._is_through, "all records are handled", END_S)
        records = self._source()["records"] - before
        took = perf_counter_ns() - began
        push.join()
        return {"rate": [records / took * 1e9]}

    def _source(self) -> dict[str, Any]:  # Any: the source's state
        try:
            return dict(self._deployment.call("state", name="source"))
        except ControlError:
            return {}  # before it is there

    def _is_through(self) -> bool:
        if not self._source().get("ended"):
            return False
        return not any(each["mailbox"]["length"] for each in self._deployment.status()["modules"].values())


@contextmanager
def _host(bench: Bench, path: Path) -> Iterator[Sample]:
    with deployed(bench.scratch("pipeline")) as deployment:
        yield Sample(deployment, path)
