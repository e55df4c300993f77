"""A test of the version in service, run as a unit of its own between two others (DESIGN §7.7).

It has the module to itself, so it sees what whole units have left; it is no message, cannot send, and leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.runtime.message import TEST_MARK, Message
from orchestrator.runtime.table_live import undo_writes

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy

Test = Callable[[], Awaitable[str]]
"""Says why the version is unfit; empty: it is fit. It answers for whatever the author's code raises."""


class _Waiting(NamedTuple):
    test: Test
    said: asyncio.Future[str | None]


class SelfTests:
    """The test of one module that waits for its turn; its pump runs it."""

    __slots__ = ("_proxy", "_waiting")

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._waiting: _Waiting | None = None

    @property
    def due(self) -> bool:
        """Whether one waits, and nothing keeps it from running."""
        return self._waiting is not None and self._proxy.unit is None and self._proxy.held is None

    async def said(self, test: Test) -> str | None:
        """Have it run, and return what it says; None: it did not come to its end.

        If the caller is cancelled, so is the test: a host that stops does not wait for one that hangs.
        """
        self.give_up()
        waiting = self._waiting = _Waiting(test, asyncio.get_running_loop().create_future())
        self._proxy.pump.rouse()
        try:
            return await waiting.said
        finally:
            if self._waiting is waiting:
                self._waiting = None

    async def run(self) -> None:
        """Run the one that is due. Called by the pump, between two units."""
        proxy = self._proxy
        waiting, self._waiting = self._waiting, None
        assert waiting is not None  # noqa: S101  # it is due
        proxy.unit = Message(
            TEST_MARK + "self_test", None, proxy.name
        )  # no other begins, and no switch comes
        running = asyncio.ensure_future(_run(waiting.test))
        waiting.said.add_done_callback(lambda _said: running.cancel())
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()  # the module is closed
            undo_writes(proxy.written)
            proxy.unit = None
            if not waiting.said.done():
                ended = running.done() and not running.cancelled() and running.exception() is None
                waiting.said.set_result(running.result() if ended else None)
        for each in proxy.app.at_boundary:
            each.try_now()

    def give_up(self) -> None:
        """It does not come to run any more."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.said.done():
            waiting.said.set_result(None)


async def _run(test: Test) -> str:
    return await test()
