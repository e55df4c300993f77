"""One module that is shadowed by another version while its neighbours speak with it: the real runtime and transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from livetag import Module
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import ModuleError
from orchestrator.runtime.retirement import Remains
from orchestrator.testing.memory import ClassSource, MemoryLog, entry_of
from orchestrator.upgrade.incoming import Incoming
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import Change, Planned, RolledBack
from orchestrator.upgrade.shadowing import Otherwise, never
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import Limits, Shadow
from tests.runtime_kit import until

Versions = Mapping[str, type[Module[Any]]]
Traffic = Callable[[], Awaitable[None]]


@dataclass
class Story:
    """A transaction with shadows: what it said, and how it ended."""

    log: MemoryLog = field(default_factory=MemoryLog)
    reports: list[str] = field(default_factory=list)
    outcome: Outcome = Outcome(0, "in_doubt")  # noqa: RUF009  # a frozen value
    remains: list[Remains] = field(default_factory=list)

    @property
    def mismatches(self) -> tuple[str, ...]:
        """As they are on record."""
        return next(r.fact.mismatches for r in self.log.records if isinstance(r.fact, RolledBack))


def attached(app: Application, *names: str) -> bool:
    """Whether each of them has a shadow that sees what it does."""
    return all(app.modules[name].tap is not None for name in names)


async def shadow(
    app: Application,
    versions: Versions,
    traffic: Traffic,
    *,
    otherwise: Otherwise = never,
    durable: bool = False,
    unshadowed: str = "",
    **section: Any,
) -> Story:
    """Swap in these versions, each with a shadow, while the traffic runs that begins once they are watched."""
    story = Story()
    section.setdefault("seconds", 10.0)
    parts = []
    for name, cls in versions.items():
        before = app.modules[name].implementation
        assert before is not None
        change = Change(name, entry_of(name, type(before.instance)), entry_of(name, cls))
        incoming = Incoming(
            ClassSource(cls), Limits(pause_ms=5000.0), {}, durable, Shadow(**section), unshadowed, tried=False
        )
        parts.append(Participant(app, change, incoming))
    transaction = UpgradeTransaction(
        app,
        Planned(1, tuple(p.change for p in parts), "test", "test"),
        parts,
        story.log,
        report=lambda phase, text: story.reports.append(f"{phase.value}: {text}"),
        patience_s=0.0,
        otherwise=otherwise,
    )
    running = asyncio.ensure_future(transaction.run())
    await until(lambda: running.done() or attached(app, *versions))
    if not running.done():
        await traffic()
    story.outcome = await running
    story.remains = await transaction.retire(story.outcome)
    assert Phase.PLANNED.value in story.reports[0]
    return story


async def ask_all(app: Application, name: str, *bodies: Mapping[str, Any], type_: str = "add") -> list[Any]:
    """Ask one after the other; an error is its text."""
    replies: list[Any] = []
    for body in bodies:
        try:
            replies.append(await app.ask(name, type_, dict(body)))
        except ModuleError as error:
            replies.append(str(error))
    return replies


async def quiet() -> None:
    """No traffic."""
