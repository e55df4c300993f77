"""Modules in an application of their own: the real runtime, nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from livetag import Module
from orchestrator.runtime.application import Application, Wiring
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.clock import Clock
from orchestrator.runtime.events import Subscription
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.proxy import ModuleProxy

Plain = Module[dict[str, Any]]  # Any: a test's own values


def implement(cls: type[Module[Any]], name: str, version: str = "1.0.0") -> Implementation:
    return Implementation(Blueprint(cls), name=name, version=version, config={})


def wire(
    app: Application, proxies: Mapping[str, ModuleProxy], names: Mapping[str, str] | None = None
) -> None:
    """Names and subscriptions of these modules; `names`: more names, each with its module."""
    subscriptions = [
        Subscription(pattern, proxy)
        for proxy in proxies.values()
        if proxy.implementation is not None
        for pattern in proxy.implementation.blueprint.subscriptions
    ]
    bound = {**proxies, **{name: proxies[module] for name, module in (names or {}).items()}}
    app.rewire(Wiring(dict(proxies), bound, subscriptions, {}))


@asynccontextmanager
async def running(
    classes: Mapping[str, type[Module[Any]]], *, clock: Clock | None = None, limit: int = 100
) -> AsyncIterator[Application]:
    """An application of these modules, each with its first state; closed at the end."""
    app = Application(clock)
    proxies = {}
    for name, cls in classes.items():
        proxy = proxies[name] = ModuleProxy(app, name, limit)
        implementation = implement(cls, name)
        proxy.serve(implementation, implementation.first_state())
    wire(app, proxies)
    for proxy in proxies.values():
        proxy.start()
    try:
        yield app
    finally:
        for proxy in proxies.values():
            await proxy.close("the test is over")


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Let the loop turn until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0)


async def idle(app: Application) -> None:
    """Let all modules finish what they have."""
    await until(
        lambda: (
            not any(p.unit is not None or len(p.mailbox) or not p.outbox.empty for p in app.modules.values())
        )
    )


def books_balance(app: Application) -> bool:
    """Is every accepted message handled, dead, under way or waiting?"""
    return all(
        p.mailbox.accepted
        == p.handled + p.dead + p.mailbox.dropped + len(p.mailbox.queue) + (p.unit is not None)
        for p in app.modules.values()
    )


def state_of(app: Application, name: str) -> Any:
    """The live state of a module."""
    implementation = app.modules[name].implementation
    assert implementation is not None
    return implementation.state
