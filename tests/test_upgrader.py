"""The upgrader on a real store and a real journal: what a stop of the host in the middle of a decision leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.application import Application
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.image import take_image
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.journal_file import Line, write_lines
from orchestrator.upgrade.plan import Environment
from orchestrator.upgrade.planner import Planner
from orchestrator.upgrade.records import Committed
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.trial import describe
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.manifest import TrialSection
from tests.runtime_kit import state_of, until
from tests.stories.deployment import Deployment

COUNTER = """
    from livetag import Module, handles

    class Counter(Module):
        state_version = 2

        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            return self.state["total"]
"""


class _SlowDisk:
    """Writes as the journal does, but holds the next COMMITTED until told."""

    def __init__(self) -> None:
        self.holds = False
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, connection: Any, lines: Sequence[Line], head: tuple[int, bytes]) -> None:
        if self.holds and any(isinstance(line.record.fact, Committed) for line in lines):
            self.reached.set()
            self.go_on.wait(10.0)
        write_lines(connection, lines, head)


def test_a_stop_while_the_decision_goes_to_the_disk_keeps_all_state_and_stops_what_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the module that left and of the one that came would be gone, and the old versions never stopped."""
    disk = _SlowDisk()
    monkeypatch.setattr("orchestrator.upgrade.journal.write_lines", disk.write)
    store = Deployment(tmp_path)

    def release(tag: str, modules: Sequence[str]) -> None:
        store.work.write("app.toml", "".join(f"[modules.{name}]\n" for name in modules))
        for name in modules:
            store.write(name, COUNTER)
        store.release(tag)
        store.git("fetch", "-q", str(store.work.path), f"refs/tags/{tag}:refs/tags/{tag}")

    async def story() -> None:
        limits = TrialSection()
        journal = Journal.open(store.place.journal, time.time)
        repository = Repository(
            store.place.store, store.place.stage, lambda p, n, m: describe(p, n, m, limits)
        )
        await repository.open()
        app, book = Application(), Book(journal)
        planner = Planner(app, repository, Environment("3.11.0", {}), prereleases=False)
        upgrader = Upgrader(app, repository, planner, book, limits)
        running = asyncio.ensure_future(upgrader.run())
        try:
            release("app/v1.0.0", ["stays", "leaves"])
            await upgrader.passed(upgrader.look(push_over=True))
            await app.ask("leaves", "add", {"n": 5})
            leaver = app.modules["leaves"].implementation

            release("app/v1.1.0", ["stays", "comes"])
            disk.holds = True
            upgrader.look(push_over=True)
            await until(disk.reached.is_set, 20.0)
            await app.ask("comes", "add", {"n": 3})
            running.cancel()
            await asyncio.sleep(0)
            disk.go_on.set()
            await asyncio.wait([running])
            await upgrader.stop()

            assert set(book.ledger.table) == {"stays", "comes"}
            assert book.ledger.unfinished is None
            assert book.ledger.images == {"leaves"}
            left = journal.load_images()["leaves"]
            assert (left.state_version, left.state) == (2, b"\x81\xa5total\x05")
            assert {image.name for image in take_image(app, book.ledger.table)} >= {"stays", "comes"}
            assert state_of(app, "comes") == {"total": 3}
            assert leaver is not None
            assert leaver.stopped
        finally:
            disk.go_on.set()
            running.cancel()
            await asyncio.wait([running])
            for proxy in app.modules.values():
                await proxy.close("the test is over")
            await repository.close()
            await asyncio.to_thread(journal.close)

    asyncio.run(story())
