"""Real swaps without Git: versions in folders, the real loader and the real transaction, no trial child."""

from __future__ import annotations

import asyncio
import itertools
import py_compile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.runtime.application import Application
from orchestrator.runtime.retirement import Remains
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.incoming import Incoming, StateCopy
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Entry, Fact, Planned, Record
from orchestrator.upgrade.source import StagedSource
from orchestrator.upgrade.transaction import Log, Outcome, UpgradeTransaction
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Limits, ModuleManifest, TrialSection

Files = Mapping[str, str]


class FolderSource(StagedSource):
    """A version in a folder, whose trial is the test."""

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> TrialReport:
        """Nothing: the test is the trial."""
        del state, open_keys
        return TrialReport(b"", {})


class NoLog:
    """A journal that keeps nothing, so that what grows is not its own."""

    def append(self, fact: Fact, _image: object = (), _writes: object = (), /) -> NoTicket:
        return NoTicket(Record(1, 0.0, fact, b""))

    async def write(self, fact: Fact, /) -> Record:
        return Record(1, 0.0, fact, b"")

    def wake(self) -> None:
        """Nobody sleeps."""


class NoTicket:
    def __init__(self, record: Record) -> None:
        self.record = record

    async def wait(self) -> Record:
        return self.record


class Swapper:
    """Puts versions of packages into service in one application."""

    def __init__(
        self, app: Application, folder: Path, limits: Limits | None = None, log: Log | None = None
    ) -> None:
        self.app = app
        self._log = log or NoLog()
        self._folder = folder
        self._limits = limits or Limits(pause_ms=5000.0)
        self._live: dict[str, Entry] = {}
        self._trees: dict[str, str] = {}
        self._txns = itertools.count(1)

    def write(self, package: str, version: str, files: Files) -> Entry:
        """A release of a package, as staging leaves it: the folder is the tree's."""
        tree = f"{len(self._trees) + 1:012x}"
        self._trees[f"{package} {version}"] = tree
        for name, text in files.items():
            path = self._folder / tree / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
            py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        return Entry(package, package, version, f"{package}/v{version}", "c" * 40, tree, "")

    async def swap(self, *releases: Entry, **changes: Any) -> list[Remains]:
        """Put these releases into service together; returns what left, unloaded and not yet proven gone."""
        transaction, outcome = await self.transact(*releases, **changes)
        assert outcome.result == "committed", outcome.reason
        return await transaction.retire(outcome)

    async def remove(self, name: str) -> list[Remains]:
        """Take a module out of the application."""
        change = Change(name, self._live.pop(name), None)
        transaction, outcome = await self._run([Participant(self.app, change, None)])
        assert outcome.result == "committed", outcome.reason
        return await transaction.retire(outcome)

    async def transact(self, *releases: Entry) -> tuple[UpgradeTransaction, Outcome]:
        participants = []
        for entry in releases:
            change = Change(entry.name, self._live.get(entry.name), entry)
            source = FolderSource(
                self._folder / entry.tree_id, entry, ModuleManifest(), entry.config, TrialSection()
            )
            participants.append(Participant(self.app, change, Incoming(source, self._limits, entry.config)))
        transaction, outcome = await self._run(participants)
        if outcome.result == "committed":
            self._live.update({entry.name: entry for entry in releases})
        return transaction, outcome

    async def _run(self, participants: list[Participant]) -> tuple[UpgradeTransaction, Outcome]:
        planned = Planned(next(self._txns), tuple(p.change for p in participants), "test", "test")
        transaction = UpgradeTransaction(self.app, planned, participants, self._log, patience_s=0.0)
        return transaction, await transaction.run()

    async def close(self) -> None:
        """End all modules and forget their code."""
        for proxy in self.app.modules.values():
            await proxy.close("the test is over")
            if proxy.implementation is not None:
                await proxy.implementation.stop()
                if proxy.implementation.loaded is not None:
                    proxy.implementation.loaded.unload()


def with_swapper(folder: Path, story: Callable[[Swapper], Any], limits: Limits | None = None) -> None:
    """Run an async story with an application of its own."""

    async def life() -> None:
        swapper = Swapper(Application(), folder, limits)
        try:
            await story(swapper)
        finally:
            await swapper.close()

    asyncio.run(life())
