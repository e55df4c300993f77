"""What the control socket can do, by name (DESIGN §9). The JSON shapes are in `facts`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Protocol

import msgspec

from orchestrator.control import facts
from orchestrator.control.deployments import Deployments
from orchestrator.control.interface import Interface
from orchestrator.control.messages import Messages
from orchestrator.control.naming import Naming
from orchestrator.control.permissions import Permissions
from orchestrator.control.plans import Plans
from orchestrator.control.reconfiguration import Reconfiguration
from orchestrator.control.requests import expected, read
from orchestrator.control.server import Emit, Operation
from orchestrator.control.state_files import StateFiles
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.upgrade.image import unsavable
from orchestrator.upgrade.overrides import PRESENCE
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.manifest import HostConfig


class StopHost(Protocol):
    def __call__(self, *, restart: bool) -> None: ...


class _History(msgspec.Struct):
    module: str | None = None
    limit: int = 50


class Operations:
    """The host's answers. Expected failures are `Refused`; anything else is a bug and logged as one."""

    def __init__(
        self,
        app: Application,
        upgrader: Upgrader,
        config: HostConfig,
        failed: Mapping[str, str],
        stop: StopHost,
    ) -> None:
        self._app = app
        self._upgrader = upgrader
        self._config = config
        self._failed = failed
        self._stop = stop
        self._since = app.clock.wall()

    def table(self) -> Mapping[str, Operation]:
        """Operation name → coroutine function, for the control server."""
        reconfiguration = Reconfiguration(self._app, self._upgrader)
        plans = Plans(self._app, self._upgrader, self._config)
        prereleases = self._config.host.prereleases
        permissions = Permissions(self._config.policy)
        deployments = Deployments(
            self._upgrader, plans, reconfiguration, permissions, prereleases=prereleases
        )
        messages = Messages(self._app, self._why_out)
        naming = Naming(self._app)
        state_files = StateFiles(self._app, self._upgrader)
        mine: dict[str, Operation] = {
            "ping": self._ping,
            "status": self._status,
            "history": self._history,
            "plan": plans.plan,
            "deploy": deployments.deploy,
            "push": deployments.push,
            "pushing": deployments.pushing,
            "retry": deployments.retry,
            "confirm": deployments.confirm,
            "rollback": deployments.rollback,
            "wake": deployments.wake,
            **reconfiguration.table(),
            "state": messages.state,
            "state_export": state_files.export_state,
            "state_import_part": state_files.take_part,
            "state_import": state_files.import_state,
            "interface": Interface(self._app, self._upgrader).interface,
            "names": naming.names,
            "topics": naming.topics,
            "send": messages.send,
            "ask": messages.ask,
            "publish": messages.publish,
            "dead_letters": messages.dead_letters,
            "restart": self._restart,
            "stop": self._stop_host,
        }
        return {name: expected(operation) for name, operation in mine.items()}

    def _why_out(self, name: str) -> str:
        """Why a module that is known is not there: it could not come back, or somebody has unloaded it."""
        ledger = self._upgrader.book.ledger
        unload = ledger.overrides.get((name, PRESENCE))
        if name in self._app.modules:
            return ""
        if name in self._failed and name in ledger.table:
            return f"{name} could not come back at the start of the host: livetag status says why, and livetag restart tries again"
        if unload is not None and unload.what == "unload":
            return f"{name} is {unload.said}; livetag load {name}"
        return ""

    async def _ping(self, _request: dict[str, object], _emit: Emit) -> object:
        return {"pid": os.getpid()}

    async def _status(self, _request: dict[str, object], _emit: Emit) -> object:
        return facts.status(self._app, self._upgrader, self._failed, self._since, self._config.host.settle_s)

    async def _history(self, request: dict[str, object], _emit: Emit) -> object:
        asked, book = read(request, _History), self._upgrader.book
        return facts.history(
            book.ledger, asked.module, asked.limit, book.doubt.txn if book.doubt is not None else None
        )

    async def _restart(self, _request: dict[str, object], _emit: Emit) -> object:
        lost = unsavable(self._app)
        if lost:
            what = " ".join(f"{name}: {why}" for name, why in sorted(lost.items()))
            raise Refused(
                f"A restart would lose state that cannot be saved. {what} Nothing was done. Bring the state back to plain "
                "data (None, bool, int of 64 bits, float, str, bytes, list, dict); a stop by SIGTERM gives it up."
            )
        asyncio.get_running_loop().call_soon(lambda: self._stop(restart=True))
        return {"pid": os.getpid()}

    async def _stop_host(self, _request: dict[str, object], _emit: Emit) -> object:
        asyncio.get_running_loop().call_soon(lambda: self._stop(restart=False))
        return {"pid": os.getpid()}
