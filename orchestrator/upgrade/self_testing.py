"""self_test() of what is in probation: each second, between two units, and under the limits of its module (DESIGN §7.7)."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Collection
from typing import Any

from orchestrator.runtime.application import Application
from orchestrator.runtime.clock import within
from orchestrator.runtime.errors import ModuleError, Overrun
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.module import Module
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.upgrade.alarm import stepwise
from orchestrator.upgrade.participant import STALL_S, author_failed


class SelfTesting:
    """The tests under way, and what the last one of each version said."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._running: dict[str, asyncio.Task[None]] = {}
        # Weakly: the next version may have no test, and then its probation would keep this one loaded.
        self._said: dict[str, tuple[weakref.ref[Implementation], str]] = {}

    def look(self, proxy: ModuleProxy) -> tuple[str, bool]:
        """What the last test of the version in service says against it, and whether it has not had one yet.

        The next one is begun, unless one is under way still.
        """
        implementation = proxy.implementation
        if implementation is None or not _has_one(implementation.instance):
            return "", False
        task = self._running.get(proxy.name)
        if task is None or task.done():
            self._running[proxy.name] = asyncio.ensure_future(self._test(proxy, implementation))
        last = self._said.get(proxy.name)
        return (last[1], False) if last is not None and last[0]() is implementation else ("", True)

    def keep_only(self, names: Collection[str]) -> None:
        """Forget what is no longer watched."""
        for name in [name for name in self._running if name not in names]:
            self._running.pop(name).cancel()
            self._said.pop(name, None)

    def stop(self) -> None:
        """End what is under way."""
        self.keep_only(())

    async def _test(self, proxy: ModuleProxy, implementation: Implementation) -> None:
        async def test() -> str:
            if proxy.implementation is not implementation:
                return ""
            return await self._said_by(implementation, proxy.vitals.terms.self_test_s)

        said = await proxy.pump.tests.said(test)
        if said is not None:
            self._said[proxy.name] = (weakref.ref(implementation), said)

    async def _said_by(self, implementation: Implementation, seconds: float) -> str:
        try:
            return await within(self._app.clock, _outcome(implementation, min(seconds, STALL_S)), seconds)
        except TimeoutError:
            return f"self_test() did not end within limits.load_s = {seconds:g} s"
        except ModuleError as error:  # it ended by a cancellation of its own
            return author_failed("self_test()", error, implementation)


async def _outcome(implementation: Implementation, stall_s: float) -> str:
    """What the test says. Inside the task that runs it: what SystemExit leaves a task by would end the host."""
    try:
        await stepwise(implementation.instance.self_test(), stall_s)
    except Overrun as error:
        return f"self_test() held up the service and was {error}"
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  # whatever it raises says unfit
        return author_failed("self_test()", error, implementation)
    return ""


def _has_one(instance: Module[Any]) -> bool:  # Any: the author's state
    return type(instance).self_test is not Module.self_test
