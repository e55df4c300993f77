"""A module's state as a file, over the control socket: `state --export` and `--import` (DESIGN §9)."""

from __future__ import annotations

import msgspec

from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.upgrade.state_file import FORMAT, StateFile, exported, import_state
from orchestrator.upgrade.upgrader import Upgrader


class _Export(msgspec.Struct):
    name: str


class _Import(msgspec.Struct):
    name: str
    file: StateFile
    reason: str = ""
    who: str = ""
    force: bool = False


class StateFiles:
    """Gives out states, and takes them in."""

    def __init__(self, app: Application, upgrader: Upgrader) -> None:
        self._app = app
        self._upgrader = upgrader

    async def export_state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Export)
        entry, proxy = self._upgrader.book.ledger.table.get(asked.name), self._app.modules.get(asked.name)
        if entry is None or proxy is None or proxy.implementation is None:
            raise Refused(f"{asked.name} is not loaded, so it has no state. `livetag status` shows what is.")
        file = exported(entry, proxy.implementation, self._app.clock.wall())
        return {"file": file, "tables": sorted(proxy.tables.stores)}

    async def import_state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Import)
        if not asked.reason.strip():
            raise Refused("An import needs a reason; the next reader of the history has only that.")
        if asked.file.livetag != FORMAT:
            raise Refused(f"The file is of format {asked.file.livetag}; this livetag reads {FORMAT}.")
        book = self._upgrader.book
        return await import_state(
            self._app, book, asked.name, asked.file, who=asked.who, why=asked.reason, force=asked.force
        )
