"""A module under test: the real proxy, mailbox and switch, a clock of the test's own; no Git, no files (DESIGN §5).

async with livetag.testing.run(CounterV1, state={"total": 3}) as counter:
assert await counter.ask("tick", {"key": "a"}) == 4
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.runtime.application import Application
from orchestrator.runtime.module import Module
from orchestrator.testing.clock import FakeClock
from orchestrator.testing.memory import MemoryLog
from orchestrator.testing.module_under_test import ModuleUnderTest, UpgradeFailed, UpgradeReport
from orchestrator.testing.world import Published, Sent, Topics, World
from repo_store.manifest import Limits

__all__ = ["FakeClock", "ModuleUnderTest", "Published", "Sent", "UpgradeFailed", "UpgradeReport", "run"]


@asynccontextmanager
async def run(
    cls: type[Module[Any]],
    *,
    state: object = None,
    tables: Mapping[str, Mapping[Any, Any]] | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    answers: Mapping[tuple[str, str], object] | None = None,
    limits: Limits | None = None,
    durable: bool = False,
) -> AsyncIterator[ModuleUnderTest]:
    """Run one module class; what it sends to other names is recorded, and asks of them are answered from `answers`.

    `state` and `tables` (table name → key → record) are what it begins with; else it is a first start. `answers` maps
    (name, type) to a reply, or to a function of the body. `durable`: as with that line in its module.toml, without a disk:
    a state has its limit, and is read again after a unit that raises. Raises UpgradeFailed if it cannot start.
    """
    clock = FakeClock()
    app = Application(clock)
    module = ModuleUnderTest(app, clock, name or cls.__name__.lower(), MemoryLog())
    module.answers = dict(answers or {})
    app.names = World(app, module)
    app.events = Topics(app, module)
    await module.start(cls, state, tables or {}, config or {}, limits or Limits(), durable=durable)
    try:
        yield module
    finally:
        await module.close()
