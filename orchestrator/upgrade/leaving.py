"""The release that would leave, brought to where its steps down can be rehearsed."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.runtime.application import Application
from orchestrator.runtime.description import Description
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.rehearsal import LeavingSource, WayDown
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.source import Bring
from repo_store.errors import StoreError
from repo_store.manifest import TrialSection


def way_down(
    app: Application,
    repository: Repository,
    change: Change,
    description: Description | None,
    *,
    trial: TrialSection,
    bring: Bring,
) -> WayDown | None:
    """What a rehearsal needs if state or records go down with this change, to the release that is described.

    None: there is nothing in service to go from.
    """
    before, proxy = change.before, app.modules.get(change.name)
    if before is None or proxy is None or proxy.implementation is None:
        return None

    async def leaving() -> LeavingSource | None:
        try:
            folder, manifest = await repository.staged(before)
            source = bring(folder, before, manifest, trial).source
        except (StoreError, OSError, UpgradeError):
            return None  # its commit is gone from the repository, or its config from the host
        return source if isinstance(source, LeavingSource) else None

    return WayDown(leaving, _going_down(app, change, description))


def _going_down(app: Application, change: Change, description: Description | None) -> Mapping[str, int]:
    """The Tables of which the release has an older version than the one in service, with that version."""
    live = app.modules[change.name].tables.live
    return {
        name: table.version
        for name, table in (description.tables if description is not None else {}).items()
        if name in live and table.version < live[name].version
    }
