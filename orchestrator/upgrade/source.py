"""Where a version's code comes from: a staged release, tried in a child process and loaded beside the others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.figures import Terms
from orchestrator.runtime.loader import Loaded, load_blueprint
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.errors import VoteRefused
from orchestrator.upgrade.incoming import Code, Incoming, StateCopy
from orchestrator.upgrade.records import Entry
from orchestrator.upgrade.trial import TrialReport, trial
from orchestrator.upgrade.trial_keepers import Keepers
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.manifest import ModuleManifest, TrialSection

T = TypeVar("T")
Bring = Callable[[Path, Entry, ModuleManifest, TrialSection], Incoming]
"""What makes a staged release one that can come into service; a simulation has its own, without child and thread."""


class StagedSource:
    """A release in its stage folder: one folder per importable top-level package."""

    def __init__(
        self,
        folder: Path,
        entry: Entry,
        manifest: ModuleManifest,
        config: Mapping[str, Any],
        limits: TrialSection,
        *,
        keepers: Keepers | None = None,
    ) -> None:
        self._folder = folder
        self._entry = entry
        self._manifest = manifest
        self._config = config
        self._limits = limits
        self._keepers = keepers

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> TrialReport:
        """Import, construct, migrate, prepare and self-test in a child under limits. Raises TrialFailed."""
        return await self._try(state, open_keys, tables)

    async def go_back(
        self,
        state: StateCopy,
        version: int,
        tables: Sequence[TableImage] = (),
        table_versions: Mapping[str, int] | None = None,
    ) -> TrialReport:
        """Run this release's steps down to a state version in a child, and nothing else. Raises TrialFailed.

        `tables`: a sample of its records, of which those of `table_versions` go down too.
        """
        return await self._try(state, {}, tables, back_to=version, tables_back_to=table_versions)

    async def _try(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
        *,
        back_to: int | None = None,
        tables_back_to: Mapping[str, int] | None = None,
    ) -> TrialReport:
        rehearsal = Rehearsal(
            self._entry.name,
            self._entry.version,
            dict(self._config),
            state.data if state is not None else None,
            state.version if state is not None else 1,
            open_keys=dict(open_keys),
            way_back=not self._manifest.one_way,
            back_to=back_to,
            tables=tuple(tables),
            tables_back_to=dict(tables_back_to or {}),
            durable=self._manifest.durable,
            cut=state is not None and state.cut,
            left_by=state.left_by if state is not None else "",
            handed_on_as=state.handed_on_as if state is not None else None,
            enough_ms=self._manifest.limits.pause_ms / 2,
        )
        package = self._entry.package
        return await trial(
            self._folder, package, self._manifest, rehearsal, self._limits, keepers=self._keepers
        )

    async def load(self) -> Code:
        """Import beside the other versions, in a thread: staging has byte-compiled it. Raises LoadFailed."""
        tops = [self._entry.package, *(folder.rpartition("/")[2] for folder in self._manifest.shared)]
        loaded = Loaded(self._folder, tops, self._entry.tree_id)
        abandoned = threading.Event()

        def work() -> tuple[Blueprint, str]:
            try:
                return load_blueprint(loaded, self._entry.package, self._manifest.entry)
            finally:
                if abandoned.is_set():  # nobody waits any more, so nobody else will unload it
                    loaded.unload()

        try:
            blueprint, entry = await in_a_thread(work)
        except asyncio.CancelledError:
            abandoned.set()
            loaded.unload()
            raise
        return Code(blueprint, loaded, entry)


async def in_a_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done in a daemon thread of its own.

    An import that never ends must not take one of the executor's few threads, nor keep the process from exiting.
    """
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001  # it goes to the one who waits
            result.set_exception(error)
        else:
            result.set_result(value)

    result.set_running_or_notify_cancel()  # from here a cancellation of the waiting task leaves the result alone
    thread = threading.Thread(target=run, name="livetag-load", daemon=True)
    # To start one waits until it runs, a quarter of a millisecond that the event loop does not have.
    await in_own_thread(thread.start)
    return await asyncio.wrap_future(result)


def incoming_release(
    folder: Path,
    entry: Entry,
    manifest: ModuleManifest,
    trial_limits: TrialSection,
    keepers: Keepers | None = None,
) -> Incoming:
    """What a staged release brings into service. Raises VoteRefused if its config names what the host does not have."""
    config = resolve_config(entry.config)
    source = StagedSource(folder, entry, manifest, config, trial_limits, keepers=keepers)
    return Incoming(
        source, manifest.limits, config, manifest.durable, manifest.shadow, terms=terms_of(manifest)
    )


def unwatched(
    folder: Path,
    entry: Entry,
    manifest: ModuleManifest,
    limits: TrialSection,
    keepers: Keepers | None = None,
) -> Incoming:
    """The same, on a host where nothing is in probation."""
    return replace(incoming_release(folder, entry, manifest, limits, keepers), terms=Terms())


def terms_of(manifest: ModuleManifest) -> Terms:
    """What a release asks of itself in its probation."""
    asked = manifest.probation
    return Terms(
        asked.seconds,
        asked.min_messages,
        asked.max_error_rate,
        asked.max_p99_ms,
        manifest.one_way,
        manifest.limits.load_s,
    )


def resolve_config(config: Mapping[str, object]) -> dict[str, Any]:
    """The config with `{ env = NAME }` and `{ file = PATH }` replaced by what the host has there (DESIGN §4)."""
    return {key: _resolve(value, key) for key, value in config.items()}


def _resolve(value: object, where: str) -> object:
    if isinstance(value, Mapping):
        if set(value) == {"env"}:
            return _from_env(str(value["env"]), where)
        if set(value) == {"file"}:
            return _from_file(Path(str(value["file"])), where)
        return {key: _resolve(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolve(item, where) for item in value]
    return value


def _from_env(name: str, where: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise VoteRefused(
            f"config {where} comes from the environment variable {name}, "
            "which this host does not have. Set it and restart the host"
        ) from None


def _from_file(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VoteRefused(
            f"config {where} comes from the file {path}, which cannot be read: {error}"
        ) from None
