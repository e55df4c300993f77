"""The runtime's own figures, as a table: `make bench`. Nothing here is asserted about time; read it, and compare.

Ratios against peers are a programme of their own; this shows what one change does to the pause and to a message.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, time
from typing import Any

import pytest

from livetag import Module, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.incoming import Code, Incoming
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Entry, Planned
from orchestrator.upgrade.transaction import UpgradeTransaction
from repo_store.manifest import Limits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES = 100_000
SWITCHES = 60


class Counter(Module[dict[str, Any]]):
    @handles
    def add(self, n: int) -> int:
        self.state["total"] = self.state.get("total", 0) + n
        return int(self.state["total"])


class Source:
    async def try_out(
        self,
        state: tuple[int, bytes] | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> None:
        """A switch is what is measured."""

    async def load(self) -> Code:
        return Code(Blueprint(Counter), None, "")


class Bench:
    """An application of counters over a real journal."""

    def __init__(self, book: Book) -> None:
        self.app = Application()
        self.book = book

    async def switch(self, names: list[str], version: int) -> float:
        """Swap these modules in one transaction; returns the pause in microseconds."""
        changes = tuple(self._change(name, version) for name in names)
        planned = Planned(self.book.ledger.next_txn, changes, "bench", "bench")
        parts = [Participant(self.app, change, Incoming(Source(), Limits(), {})) for change in changes]
        transaction = UpgradeTransaction(self.app, planned, parts, self.book)
        outcome = await transaction.run()
        await transaction.retire(outcome)
        assert outcome.result == "committed", outcome.reason
        return outcome.pause.pause_us

    def _change(self, name: str, version: int) -> Change:
        after = Entry(
            name, "counter", f"{version}.0.0", f"counter/v{version}.0.0", str(version), str(version), ""
        )
        return Change(name, self.book.ledger.table.get(name), after)


def measured(
    folder: Path, work: Callable[[Bench], Awaitable[dict[str, list[float]]]]
) -> dict[str, list[float]]:
    async def main() -> dict[str, list[float]]:
        journal = Journal.open(folder / "journal.db", time)
        bench = Bench(Book(journal))
        try:
            return await work(bench)
        finally:
            for proxy in bench.app.modules.values():
                await proxy.close("measured")
            journal.close()

    return asyncio.run(main())


async def messages(bench: Bench) -> dict[str, list[float]]:
    await bench.switch(["counter"], 1)
    found: dict[str, list[float]] = {"ask of an idle module, µs": [], "send, per message handled, µs": []}
    for _ in range(5):
        began = perf_counter()
        for _ in range(MESSAGES):
            await bench.app.ask("counter", "add", {"n": 1})
        found["ask of an idle module, µs"].append((perf_counter() - began) / MESSAGES * 1e6)
        began = perf_counter()
        for _ in range(MESSAGES):
            await bench.app.send("counter", "add", {"n": 1})
        await bench.app.ask("counter", "add", {"n": 1}, timeout_s=60)
        found["send, per message handled, µs"].append((perf_counter() - began) / MESSAGES * 1e6)
    return found


async def pauses(bench: Bench) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for count in (1, 10, 100):
        names = [f"m{number}" for number in range(count)]
        await bench.switch(names, 1)
        found[f"pause of {count} at once, µs"] = [await bench.switch(names, n) for n in range(2, SWITCHES)]
    app = bench.app
    proxy = app.modules["m0"]
    assert proxy.implementation is not None
    proxy.implementation.state["large"] = {number: [number, 1, 2] for number in range(1_000_000)}
    found["pause of 1 with 10⁶ entries untouched, µs"] = [
        await bench.switch(["m0"], n) for n in range(99, 129)
    ]
    return found


def test_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = measured(tmp_path / "a", messages) | measured(tmp_path / "b", pauses)
    lines = [f"\nPython {platform.python_version()}, journal on", f"{'figure':<46}{'median':>10}{'p99':>10}"]
    for name, values in found.items():
        values.sort()
        p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
        lines.append(f"{name:<46}{statistics.median(values):>10.2f}{p99:>10.2f}")
    with capsys.disabled():
        print("\n".join(lines))  # noqa: T201  # the table is what this is for
    assert all(value > 0 for values in found.values() for value in values)
