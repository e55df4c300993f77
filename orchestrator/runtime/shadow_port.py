"""The port of a shadow: a proxy that nobody else knows, in an application of its own, and a voice that nobody hears.

What it is told to say is noted, what it asks has been answered before; whatever else a unit is, is as in service.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import ModuleError, NotReplayed, Overrun, Stalled
from orchestrator.runtime.message import Message
from orchestrator.runtime.plain import apart, check_body
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.pump import Pump
from orchestrator.runtime.shadow_record import UNKNOWN
from orchestrator.runtime.shadow_tap import TappedPump
from orchestrator.runtime.voice import Voice, typed

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import BoundHandler
    from orchestrator.runtime.shadow import Shadow

MAILBOX_MAX = 100  # it never has more than one


class ShadowProxy(ModuleProxy):
    """No timer, no intake, no sweep: it handles what it is given."""

    def __init__(self, shadow: Shadow) -> None:
        super().__init__(world_of(shadow.live.app), shadow.live.name, MAILBOX_MAX)
        self.shadow = shadow
        self.voice, self.pump = ShadowVoice(self), ShadowPump(self)

    def start(self) -> None:
        self.pump.start()


def world_of(live: Application) -> Application:
    """An application of nobody else: it shares names, time, threads and its turns with the one in service."""
    app = Application(live.clock)
    app.names, app.turn, app.threads = live.names, live.turn, live.threads
    app.ownership, app.secrets = live.ownership, live.secrets
    return app


class ShadowPump(TappedPump):
    """Runs the shadow's units, of which none may hold the loop for long."""

    __slots__ = ()

    async def _run(self) -> None:
        shadow = shadow_of(self._proxy)
        try:
            # Once for all that it does in a turn, not for each unit: arming an alarm costs more than most units do.
            await shadow.guard(TappedPump._run(self), shadow.step_s)  # noqa: SLF001  # a pump itself
        except Overrun as error:  # outside the author's code, by a hair: it is over all the same
            shadow.hung(error)

    def _failure(self, message: Message, error: BaseException, handler: BoundHandler | None) -> ModuleError:
        if isinstance(error, (Stalled, Overrun)):
            shadow_of(self._proxy).hung(error)
        return Pump._failure(self, message, error, handler)  # noqa: SLF001


class ShadowVoice(Voice):
    """Says nothing to anybody: what it is told is noted, what it asks has been answered before."""

    __slots__ = ()

    def send(self, name: str, type_: str, body: object, wait_s: float | None = None) -> None:
        self._unit("send")
        check_body(body)
        if wait_s is None and not shadow_of(self.proxy).knows(name):
            self.proxy.app.names.resolve(name)
        if self.proxy.tap is not None:
            self.proxy.tap.said(name, type_, body)

    def publish(self, topic: str, body: object) -> None:
        self._unit("publish")
        check_body(body)
        if self.proxy.tap is not None:
            self.proxy.tap.said(topic, None, body)

    async def ask(self, name: str, type_: str, body: object, timeout_s: float, returns: Any) -> Any:  # noqa: ARG002
        self._unit("ask")
        check_body(body)
        asked = shadow_of(self.proxy).reply_for(name, type_, body)
        if asked is None:
            if self.proxy.tap is not None:
                self.proxy.tap.asks(name, type_, body)
            raise NotReplayed(
                f"the version in service did not ask {name} this {type_!r}, so there is no reply"
            )
        if asked.error is not None:
            raise type(asked.error)(str(asked.error))
        if asked.reply is UNKNOWN:  # the version in service gave up waiting, and so will this one
            await asyncio.get_running_loop().create_future()
        reply = apart(asked.reply)
        return reply if returns is None else typed(reply, returns, name, type_)


def shadow_of(proxy: ModuleProxy) -> Shadow:
    assert isinstance(proxy, ShadowProxy)  # noqa: S101  # no other has this pump and this voice
    return proxy.shadow
