"""The voice of a module: what its units say to others, by send, publish and ask (DESIGN §5, "a unit of work").

What is sent and published leaves when the unit ends; an ask first lets out what its unit sent before.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.runtime.clock import within
from orchestrator.runtime.errors import AskCycle, AskTimeout, BodyRefused, NotInService
from orchestrator.runtime.first_use import convert_first
from orchestrator.runtime.guard import Guarded, Unit
from orchestrator.runtime.message import Message
from orchestrator.runtime.outbox import Output
from orchestrator.runtime.plain import check_body
from orchestrator.runtime.tasks import start_for
from orchestrator.runtime.traces import ASKED
from orchestrator.runtime.waits import ASKS, Wait, circle_of_asks
from orchestrator.runtime.whose import unit_on_stack

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class Voice:
    """Speaks for the unit that is under way in one module; outside a unit it refuses."""

    __slots__ = ("proxy",)

    def __init__(self, proxy: ModuleProxy) -> None:
        self.proxy = proxy

    def send(self, name: str, type_: str, body: object, wait_s: float | None = None) -> None:
        """Called by the author's `send`: checked now, delivered when the unit ends."""
        proxy = self.proxy
        self._unit("send")
        check_body(body)
        if wait_s is None:
            proxy.app.names.resolve(name)
            proxy.outbox.given.append(Output(name, type_, body))
        else:
            until = proxy.app.clock.now() + wait_s
            proxy.outbox.given.append(Output(name, type_, body, until=until))

    def publish(self, topic: str, body: object) -> None:
        """Called by the author's `publish`: delivered when the unit ends, to who subscribes then."""
        self._unit("publish")
        check_body(body)
        self.proxy.outbox.given.append(Output(topic, None, body))

    async def ask(self, name: str, type_: str, body: object, timeout_s: float, returns: Any) -> Any:
        """Called by the author's `ask`: lets out what the unit sent before, then asks."""
        proxy = self.proxy
        unit = self._unit("ask")
        path = (*unit.path, proxy.name)
        check_body(body)
        app = proxy.app
        target = app.names.resolve(name)
        if target.name in path:
            raise AskCycle(
                f"ask would wait in a circle: {' → '.join((*path, target.name))}. "
                "Nothing was sent. Send instead of ask on one of these edges."
            )
        if not unit.trace:  # before anything of it leaves
            unit.trace = ASKED
        if proxy.durable is not None:
            timeout_s = await proxy.durable.before_ask(name, type_, timeout_s)
        if not proxy.outbox.empty and not proxy.outbox.let_out():
            timeout_s = await self._flush_for_ask(name, type_, timeout_s)
        if app.names.find(name) is not target:
            target = app.names.resolve(name)
        if (target.waits_on or target.outbox.room_at is not None) and (
            circle := circle_of_asks(proxy, target)
        ):
            raise AskCycle(
                f"ask would wait in a circle: {' → '.join(p.name for p in circle)}. "
                "Nothing was asked. Send instead of ask on one of these edges."
            )
        message = app.message(type_, body, proxy.name)
        message.path = path
        wait = Wait(ASKS, target, message)
        proxy.waits_on.append(wait)
        if app.quiesce is not None:
            app.quiesce.look_again(proxy)
        try:
            reply = await target.ask(message, timeout_s, proxy)
        finally:
            proxy.waits_on.remove(wait)
        return reply if returns is None else typed(reply, returns, target.name, type_)

    async def _flush_for_ask(self, name: str, type_: str, timeout_s: float) -> float:
        """Let out what the unit sent before; returns how much of the ask's time is left. Raises AskTimeout."""
        clock, outbox = self.proxy.app.clock, self.proxy.outbox
        deadline = clock.now() + timeout_s
        try:
            await within(clock, outbox.flush(), timeout_s)
        except TimeoutError:
            room_at = outbox.room_at
            for_what = (
                f"room at {room_at.name}" if room_at is not None else "its name to be bound, or for room"
            )
            raise AskTimeout(
                f"{name} was not asked {type_!r}: what this unit sent before waits for {for_what}, and found none in "
                f"{timeout_s:g} s."
            ) from None
        return deadline - clock.now()

    def leave_trace(self, trace: str) -> None:
        """The unit whose code calls does what its failure would not undo; nothing happens if no unit's code does."""
        with suppress(NotInService):
            unit = self._unit("")
            unit.trace = unit.trace or trace

    def _unit(self, what: str) -> Message:
        """The unit whose code calls. Raises NotInService if there is none, or if it is not its code."""
        proxy = self.proxy
        unit = proxy.unit
        if unit is not None:
            body = proxy.pump.body
            if (body is not None and body.cr_running and get_ident() == proxy.app.thread) or self._speaks(
                unit
            ):
                return unit
        raise NotInService(
            f"{what}() was called in {proxy.name} outside a unit of work. Use it in a handler, an event or a tick, or in a "
            "task that one of these started; an intake returns its item and a handler of the same name sends."
        )

    def _speaks(self, unit: Message) -> bool:
        """Whether it is the unit's code that calls, elsewhere than in the pump: an ask at once, its thread, its tasks."""
        proxy = self.proxy
        here = get_ident()
        if here != proxy.app.thread:
            call = proxy.thread  # once: the loop may cut the unit between two looks
            return call is not None and call.ident == here
        if proxy.tasks is None:
            handler = proxy.handlers.get(unit.type)
            return (
                handler is not None and not handler.is_async
            )  # while a plain handler runs, nothing else does
        if asyncio.current_task() in proxy.tasks:
            return True
        found = unit_on_stack(sys._getframe(2))  # noqa: SLF001  # a task that is just being started, and runs already
        return found is not None and found.message is unit

    def ask_blocking(self, name: str, type_: str, body: object, timeout_s: float, returns: Any) -> Any:
        """Called by the author's `ask_blocking`, in the thread of a handler: asks on the event loop, and waits here."""
        proxy = self.proxy
        call = proxy.thread
        if call is None or call.ident != get_ident():
            raise NotInService(
                f"ask_blocking() was called in {proxy.name} outside a handler that runs in a thread; it would hold up the "
                "event loop. Use `await self.ask(...)`, or mark the handler with thread=True."
            )
        unit = Unit(proxy, self._unit("ask_blocking"))

        def begin() -> asyncio.Future[Any]:
            asking = Guarded(self.ask(name, type_, body, timeout_s, returns), unit)
            return start_for(unit, lambda: asyncio.Task(asking, loop=asyncio.get_running_loop()))

        return call.on_loop(begin)

    def refuse_in_thread(self) -> None:
        """Raises NotInService in a handler's thread, where nothing can be awaited."""
        call = self.proxy.thread
        if call is not None and call.ident == get_ident():
            raise NotInService(
                f"ask() was called in {self.proxy.name} in a handler that runs in a thread, where its reply cannot be "
                "awaited. Use self.ask_blocking(...), which takes the same and returns the reply."
            )


def typed(reply: object, returns: Any, name: str, type_: str) -> Any:
    """The reply as the type that was asked for. Raises BodyRefused."""
    try:
        return convert_first(reply, returns)
    except msgspec.ValidationError as error:
        raise BodyRefused(
            f"the reply of {name} to {type_!r} is not what returns= asks for: {error}"
        ) from None
