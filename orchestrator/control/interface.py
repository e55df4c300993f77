"""`interface`: what a module in service handles, says and keeps (DESIGN §9), for people and for a typed client."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import describe
from orchestrator.runtime.description import Description
from orchestrator.upgrade.upgrader import Upgrader

Facts = dict[str, Any]  # Any: JSON


class _Name(msgspec.Struct):
    name: str


class Interface:
    """Asks the version in service itself; what it says to others comes from its staged sources."""

    def __init__(self, app: Application, upgrader: Upgrader) -> None:
        self._app = app
        self._upgrader = upgrader

    async def interface(self, request: dict[str, object], _emit: Emit) -> object:
        """The document of `livetag interface NAME --json`. Raises UnknownName, Refused."""
        asked = read(request, _Name)
        proxy = self._app.names.resolve(asked.name)
        implementation = proxy.implementation
        if implementation is None:
            raise Refused(f"{asked.name} has no implementation in service. Look at livetag status.")
        entry = self._upgrader.book.ledger.table.get(proxy.name)
        staged = await self._upgrader.planner.description(entry) if entry is not None else None
        said = describe(implementation.blueprint, implementation.entry)
        said = msgspec.structs.replace(said, emits=staged.emits if staged is not None else ())
        names = [name for name, module in self._app.names.names().items() if module == proxy.name]
        return {
            "module": proxy.name,
            "version": implementation.version,
            "names": sorted(names),
            **facts_of(said),
        }


def facts_of(said: Description) -> Facts:
    """A description in the words of the command."""
    return {
        "handles": [
            {
                "type": type_,
                "body": schema,
                "older": list(said.upcasts.get(type_, ())),
                "returns": said.returns.get(type_),
            }
            for type_, schema in sorted(said.handles.items())
        ],
        "subscribes": [{"topic": topic, "body": said.hears.get(topic, {})} for topic in said.subscribes],
        "emits": [
            {
                "how": e.how,
                "to": e.name,
                "type": e.type,
                "where": f"{e.file} line {e.line}" if e.file else "module.toml",
            }
            for e in said.emits
        ],
        "every": dict(said.timers),
        "intakes": list(said.intakes),
        "state": {"version": said.state_version, "schema": said.state_schema},
    }
