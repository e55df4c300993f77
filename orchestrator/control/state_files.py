"""A module's state as a file, over the control socket: `state --export` and `--import` (DESIGN §9)."""

from __future__ import annotations

import msgspec

from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import MAX_ANSWER_BYTES, Refused
from orchestrator.runtime.application import Application
from orchestrator.upgrade.state_file import StateFile, read_state_file
from orchestrator.upgrade.state_import import export_state, import_state
from orchestrator.upgrade.upgrader import Upgrader


class _Export(msgspec.Struct):
    name: str


class _Part(msgspec.Struct):
    upload: str
    text: str


class _Import(msgspec.Struct):
    name: str
    upload: str
    reason: str = ""
    who: str = ""
    force: bool = False


class StateFiles:
    """Gives out states, and takes them in. A file that comes in is longer than a request, so it comes in parts."""

    def __init__(self, app: Application, upgrader: Upgrader) -> None:
        self._app = app
        self._upgrader = upgrader
        self._upload = ""  # the last one begun; another takes its place
        self._parts: list[str] = []

    async def export_state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Export)
        return {"file": await export_state(self._app, self._upgrader.book, asked.name)}

    async def take_part(self, request: dict[str, object], _emit: Emit) -> object:
        """The next part of a file that is to be imported."""
        part = read(request, _Part)
        if part.upload != self._upload:
            self._upload, self._parts = part.upload, []
        self._parts.append(part.text)
        if sum(map(len, self._parts)) > MAX_ANSWER_BYTES:
            self._take("")
            raise Refused(f"The file is longer than {MAX_ANSWER_BYTES >> 20} MiB; nothing was imported.")
        return None

    async def import_state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Import)
        if not asked.reason.strip():
            raise Refused("An import needs a reason; the next reader of the history has only that.")
        file: StateFile = read_state_file(self._take(asked.upload))
        book = self._upgrader.book
        return await import_state(
            self._app, book, asked.name, file, who=asked.who, why=asked.reason, force=asked.force
        )

    def _take(self, upload: str) -> str:
        """The text of an upload, which is forgotten. Raises Refused if another has taken its place."""
        text, mine = "".join(self._parts), upload == self._upload
        if mine or not upload:
            self._upload, self._parts = "", []
        if upload and not mine:
            raise Refused("Somebody else imports a state; nothing was imported. Try again.")
        return text
