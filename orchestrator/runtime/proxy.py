"""The module proxy: a module's port (paper §3.2.2, DESIGN §3).

It owns the mailbox and runs the units of work, one at a time and in order; between two units the implementation
behind it can be replaced. What a unit sends leaves when the unit ends, and waits for room before the next unit.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

from orchestrator.runtime.clock import within
from orchestrator.runtime.errors import (
    AskCycle,
    AskTimeout,
    BodyRefused,
    Disabled,
    Leaving,
    MailboxFull,
    Misfit,
    ModuleError,
    NotInService,
    UnknownMessage,
    error_text,
)
from orchestrator.runtime.implementation import NOTHING
from orchestrator.runtime.intakes import Intakes
from orchestrator.runtime.mailbox import Mailbox
from orchestrator.runtime.message import TIMER_MARK, Message, is_authors
from orchestrator.runtime.outbox import Outbox, Output
from orchestrator.runtime.timers import Timers
from orchestrator.runtime.waits import chain_to, leads_to

if TYPE_CHECKING:
    from orchestrator.runtime.application import Application, Turn
    from orchestrator.runtime.implementation import BoundHandler, Implementation
    from orchestrator.runtime.quiesce import Quiesce
    from orchestrator.runtime.rest import Resting


class ModuleProxy:
    """One module: its mailbox, its pump, and the implementation in service."""

    def __init__(self, app: Application, name: str, mailbox_messages: int) -> None:
        self.app = app
        self.name = name
        self.also: tuple[str, ...] = ()  # more names it is bound to
        self.mailbox = Mailbox(mailbox_messages)
        self.implementation: Implementation | None = None
        self.handlers: dict[str, BoundHandler] = {}
        self.unit: Message | None = None  # the message that is being handled
        self.held: Quiesce[Any] | Resting | None = (
            None  # what keeps new units from starting: a switch, or a rest
        )
        self.resting: Resting | None = None  # out of service: loaded, but disabled
        self.admit = 0  # while held: messages at the head that must still run
        self.waits_on: list[ModuleProxy] = []  # whom the unit asks
        self.handled = 0
        self.dead = 0
        self.outbox = Outbox(self)
        self._wake: asyncio.Future[None] | None = None
        self._ticks: set[str] = set()  # timers whose tick waits in the mailbox
        self._timers = Timers(app.clock, self._tick)
        self.intakes = Intakes(self)
        self._closing = False
        self._left: str | None = None  # why the module is no longer part of the application
        self._pump_task: asyncio.Task[None] | None = None

    # -- service: what a switch does to a module ---------------------------------------------------------------

    def serve(self, implementation: Implementation, state: object) -> None:
        """Put an implementation in service with its state. Cannot raise; called between two units."""
        if self.implementation is not None:
            self.implementation.detach()
        self.implementation = implementation
        self.handlers = implementation.handlers
        implementation.attach(self, state)

    def start(self) -> None:
        """Begin to handle messages, and run timers and intakes of the implementation in service."""
        implementation = self.implementation
        if implementation is None:
            raise NotInService(f"{self.name} has no implementation to start.")
        if self._pump_task is None:
            self._pump_task = asyncio.get_running_loop().create_task(self._pump(), name=f"pump {self.name}")
            self._pump_task.add_done_callback(self._pump_ended)
        if self.resting is None:
            self._timers.set(implementation.blueprint.timers)
            self.intakes.set(implementation.blueprint.intakes)
        self.rouse()

    async def close(self, reason: str) -> None:
        """Leave service: end timers, intakes and the pump; a unit still under way is cut and goes to the dead letters."""
        self._timers.stop()
        await self.intakes.stop()
        self._closing = True
        task, self._pump_task = self._pump_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        if self.unit is not None:
            self.outbox.queue.clear()  # a unit that is cut sends nothing
            self._bury(self.unit, Leaving(f"{self.name} left service while it was handled: {reason}"))
            self.unit = None
        self.outbox.hand_in()
        if self.implementation is not None:
            self.implementation.detach()

    def rest(self, resting: Resting) -> None:
        """Go out of service: version, state and what waits stay, no unit begins. Askers get the reason. Cannot raise.

        Called between two units. Who waits for room is let in: nobody waits for a module that does not work.
        """
        self.resting = self.held = resting
        self.admit = 0
        self._timers.stop()
        self.intakes.set(())
        waiting = list(self.mailbox.drain())
        for message in waiting:
            if self._is_tick(message):
                self._ticks.discard(message.type[1:])
                self.handled += 1  # nobody sent it, so nobody misses it
            elif message.reply is not None:
                self._bury(message, Disabled(f"{resting.reason}. It was not handled"))
            else:
                self.mailbox.queue.append(message)

    def resume(self) -> None:
        """Come back into service, with all that waited, in its order."""
        if self.held is self.resting:
            self.held = None
        self.resting = None
        self.start()

    def stop_input(self) -> None:
        """End timers and start no new intake item; what is in the mailbox is still handled."""
        self._timers.stop()

    def leave(self, reason: str) -> None:
        """Handle nothing more: what waits, and what still comes, goes to the dead letters; askers get the reason."""
        self._left = reason
        self._timers.stop()
        self.handlers = {}
        for message in self.mailbox.drain():
            if self._is_tick(message):
                self.handled += 1  # nobody sent it, so nobody misses it
            else:
                self._bury(message, self._leaving())

    def _leaving(self) -> Leaving:
        return Leaving(f"{self.name} left service before this was handled: {self._left}")

    # -- receiving ---------------------------------------------------------------------------------------------

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        """Take a message into the mailbox; None: accepted. Else a future: done once there was room.

        A unit's message to a module that a switch holds, or that waits for that unit, is taken over the limit, so that
        nobody waits in a circle (DESIGN §7.4).
        """
        if self._left is not None:  # an event on its way when the module was removed
            self.mailbox.accepted += 1
            self._bury(message, self._leaving())
            return None
        admitted = self.mailbox.put(message)
        if admitted is not None and sender is not None and (self.held is not None or leads_to(self, sender)):
            self.mailbox.late.pop()  # itself, just put there
            self.mailbox.put_over_limit(message)
            admitted = None
        if self._wake is not None:
            self.rouse()
        return admitted

    def check(self, message: Message) -> None:
        """Would the version in service take this message? Raises UnknownMessage or BodyRefused; nothing is handled."""
        handler = self.handlers.get(message.type) if is_authors(message.type) else None
        if handler is None:
            raise self._unknown(message)
        try:
            handler.arguments(message)
        except BodyRefused as error:
            raise self._refused(message, error) from None

    async def post(self, message: Message, timeout_s: float) -> None:
        """Accept a message from outside; returns once it is accepted.

        Raises MailboxFull if there was no room for `timeout_s`; the message was not accepted.
        """
        admitted = self.accept(message)
        if admitted is None:
            return
        timed_out = False

        def give_up() -> None:
            nonlocal timed_out
            timed_out = admitted.cancel()

        timer = self.app.clock.call_at(self.app.clock.now() + timeout_s, give_up)
        try:
            await admitted
        except asyncio.CancelledError:
            self.mailbox.withdraw(message)
            if not timed_out:  # the caller was cancelled, which cancels what it awaits
                raise
            raise MailboxFull(
                f"{self.name}'s mailbox holds {self.mailbox.limit} messages and made no room in {timeout_s:g} s; "
                "the message was not accepted. Send slower, or raise limits.mailbox_messages in its module.toml."
            ) from None
        finally:
            timer.cancel()

    async def deliver_intake(self, name: str, item: object) -> None:
        """Accept what an intake returned; waits for room, so that back-pressure reaches the source."""
        admitted = self.accept(self.app.message(name, item, self.name))
        if admitted is not None:
            await asyncio.wait([admitted])

    def _tick(self, name: str) -> None:
        if name not in self._ticks and not self.mailbox.full:
            self._ticks.add(name)
            self.accept(self.app.message(TIMER_MARK + name, None, self.name))

    async def ask(self, message: Message, timeout_s: float, sender: ModuleProxy | None = None) -> Any:
        """Handle a message and return the reply. An idle module with a plain handler answers here and now.

        Raises AskTimeout, MailboxFull, HandlerFailed, BodyRefused, UnknownMessage, Leaving.
        """
        if self.unit is None and not self.mailbox.queue and self.held is None and self.outbox.empty:
            handler = self.handlers.get(message.type)
            if handler is not None and not handler.is_async and self.app.turn.begins():
                return self._answer_at_once(message, handler)
        reply = message.reply = asyncio.get_running_loop().create_future()
        timer = self.app.clock.call_at(
            self.app.clock.now() + timeout_s, lambda: self._give_up(message, timeout_s)
        )
        try:
            self.accept(message, sender)
            if self.held is not None and self.held.admits(message.path):
                self.admit = len(self.mailbox.queue)  # with all that stands before it: order is kept
                self.rouse()
            return await reply
        finally:
            timer.cancel()
            message.reply = None  # an error's frames hold the message: this circle would never be freed
            del reply

    def _answer_at_once(self, message: Message, handler: BoundHandler) -> Any:
        self.mailbox.accepted += 1
        self.unit = message
        try:
            result = handler.call(*handler.arguments(message))
        except BaseException as error:  # noqa: BLE001  # the wrapper of a unit catches all (DESIGN §5)
            raise self._failed(message, error, handler) from None
        else:
            self.handled += 1
            return result
        finally:
            everything_left = not self.outbox.queue or self.outbox.let_out()
            self.unit = None
            self.app.boundary()
            if self.mailbox.queue or not everything_left:
                self.rouse()  # a message that came while we ran, or an output that the pump waits with

    def _give_up(self, message: Message, timeout_s: float) -> None:
        reply = message.reply
        if reply is None or reply.done():
            return
        if self.mailbox.withdraw(message):
            reply.set_exception(
                MailboxFull(
                    f"{self.name}'s mailbox made no room in {timeout_s:g} s; {message.type!r} was not accepted. Ask again later."
                )
            )
        else:
            reply.set_exception(
                AskTimeout(
                    f"{self.name} did not answer {message.type!r} in {timeout_s:g} s; it was accepted and may still be "
                    "handled. Ask with a longer timeout, or look at `livetag status`."
                )
            )

    # -- units of work -----------------------------------------------------------------------------------------

    def rouse(self) -> None:
        """Let the pump look again."""
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        """Only closing ends a pump; anything else is a fault of the runtime, and must not be silent."""
        if not pump.cancelled() and (error := pump.exception()) is not None and not self._closing:
            logger.bind(module=self.name).opt(exception=error).critical(
                "{} handles nothing more: its pump ended by {}. Restart the host; this is a bug of livetag.",
                self.name,
                error_text(error),
            )

    async def _pump(self) -> None:
        turn = self.app.turn
        turn.awake += 1
        try:
            await self._pump_until_closed(turn)
        finally:
            turn.awake -= 1

    async def _pump_until_closed(self, turn: Turn) -> None:
        queue = self.mailbox.queue
        while not self._closing:
            if not self.outbox.empty:
                await self.outbox.flush()
            while not queue or self.unit is not None or (self.held is not None and not self.admit):
                self._wake = asyncio.get_running_loop().create_future()
                turn.awake -= 1
                try:
                    await self._wake
                finally:
                    turn.awake += 1
                if not self.outbox.empty:
                    await self.outbox.flush()
            end = perf_counter() + turn.share_s()
            while queue and (self.held is None or self.admit):
                await self._unit(self.mailbox.take())
                if perf_counter() >= end:
                    break
            if queue:
                await asyncio.sleep(0)

    async def _unit(self, message: Message) -> None:  # noqa: C901  # the hot path, written out
        self.unit = message
        if (
            self.admit
        ):  # counted when it begins: a unit under way when the switch came was not among the admitted
            self.admit -= 1
        if self._ticks and message.type[:1] == TIMER_MARK:
            self._ticks.discard(message.type[1:])
        handler = self.handlers.get(message.type)
        try:
            if handler is None:
                handler = self._unhandled(message)
            result = handler.call(*handler.arguments(message))
            if handler.is_async:
                result = await result
                if self.unit is not message:
                    return  # it was cut meanwhile, and is in the dead letters: what it swallowed was its end
        except (
            BaseException
        ) as error:  # CancelledError and SystemExit of a handler are its failures (DESIGN §5)
            if self._closing or (isinstance(error, GeneratorExit) and (handler is None or handler.is_async)):
                raise  # the module is closed, or the loop throws the pump away
            failure = self._failed(message, error, handler)
            if message.reply is not None and not message.reply.done():
                message.reply.set_exception(failure)
        else:
            self.handled += 1
            if message.reply is not None and not message.reply.done():
                message.reply.set_result(result)
        pump = self._pump_task
        if pump is not None and pump._must_cancel:  # type: ignore[attr-defined]  # noqa: SLF001  # told nowhere else
            await self._outlive(pump)
        everything_left = not self.outbox.queue or self.outbox.let_out()
        self.unit = None
        self.app.boundary()
        if not everything_left:
            await self.outbox.flush()

    async def _outlive(self, pump: asyncio.Task[None]) -> None:
        """Take the cancellation that a unit left behind for the task it ran in, which is the pump of all units."""
        logger.bind(module=self.name).warning("a handler of {} cancelled the task that it runs in", self.name)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if sys.version_info >= (3, 11):
            pump.uncancel()

    def _unhandled(self, message: Message) -> BoundHandler:
        """What to do with a message that the version in service has no handler for. Raises UnknownMessage."""
        if self._is_tick(message):
            return NOTHING  # a tick of a timer that the version before had
        raise self._unknown(message)

    def _is_tick(self, message: Message) -> bool:
        return message.type[:1] == TIMER_MARK and message.sender == self.name

    def _unknown(self, message: Message) -> UnknownMessage:
        version = self.implementation.version if self.implementation else "?"
        if message.topic is not None:
            return UnknownMessage(f"{self.name} {version} no longer subscribes to {message.type[1:]!r}")
        known = ", ".join(sorted(t for t in self.handlers if is_authors(t))) or "nothing"
        return UnknownMessage(f"{self.name} {version} does not handle {message.type!r}; it handles: {known}")

    def _refused(self, message: Message, error: BodyRefused) -> BodyRefused:
        version = self.implementation.version if self.implementation else "?"
        return BodyRefused(f"{self.name} {version} refuses the body of {message.type!r}: {error}")

    def _failed(self, message: Message, error: BaseException, handler: BoundHandler | None) -> ModuleError:
        """A unit that raised: it sends nothing, its message goes to the dead letters; returns what the asker gets."""
        self.outbox.queue.clear()
        failure: ModuleError
        if handler is None and isinstance(error, UnknownMessage):
            failure = error
        elif isinstance(error, Misfit):
            failure = self._refused(message, error)
        elif self.implementation is not None:
            failure = self.implementation.failure(message.type, error)
        else:
            failure = Leaving(f"{self.name} has no implementation in service")
        self._bury(message, failure, answer=False)
        return failure

    def _bury(self, message: Message, reason: ModuleError, *, answer: bool = True) -> None:
        self.dead += 1
        self.app.letters.add(self.name, message, str(reason), self.app.clock.wall())
        if answer and message.reply is not None and not message.reply.done():
            message.reply.set_exception(reason)

    # -- what a unit gives out ---------------------------------------------------------------------------------

    def emit_send(self, name: str, type_: str, body: object) -> None:
        """Called by the author's `send`: checked now, delivered when the unit ends."""
        self._in_unit("send")
        self.app.names.resolve(name)
        self.outbox.queue.append(Output(name, type_, body))

    def emit_event(self, topic: str, body: object) -> None:
        """Called by the author's `publish`: delivered when the unit ends, to who subscribes then."""
        self._in_unit("publish")
        self.outbox.queue.append(Output(topic, None, body))

    async def ask_from_unit(self, name: str, type_: str, body: object, timeout_s: float, returns: Any) -> Any:
        """Called by the author's `ask`: lets out what the unit sent before, then asks."""
        unit = self._in_unit("ask")
        path = (*unit.path, self.name)
        target = self.app.names.resolve(name)
        if target.name in path:
            raise AskCycle(
                f"ask would wait in a circle: {' → '.join((*path, target.name))}. "
                "Nothing was sent. Send instead of ask on one of these edges."
            )
        if not self.outbox.empty and not self.outbox.let_out():
            timeout_s = await self._flush_for_ask(name, type_, timeout_s)
        if self.app.names.find(name) is not target:
            target = self.app.names.resolve(name)
        if target.waiting_for():
            self._refuse_circle(target)
        message = self.app.message(type_, body, self.name)
        message.path = path
        self.waits_on.append(target)
        if self.app.quiesce is not None:
            self.app.quiesce.look_again(self)
        try:
            reply = await target.ask(message, timeout_s, self)
        finally:
            self.waits_on.remove(target)
        return reply if returns is None else _typed(reply, returns, target, type_)

    async def _flush_for_ask(self, name: str, type_: str, timeout_s: float) -> float:
        """Let out what the unit sent before; returns how much of the ask's time is left. Raises AskTimeout."""
        clock = self.app.clock
        deadline = clock.now() + timeout_s
        try:
            await within(clock, self.outbox.flush(), timeout_s)
        except TimeoutError:
            room_at = self.outbox.room_at.name if self.outbox.room_at is not None else "a full mailbox"
            raise AskTimeout(
                f"{name} was not asked {type_!r}: what this unit sent before waits for room at {room_at}, and found "
                f"none in {timeout_s:g} s."
            ) from None
        return deadline - clock.now()

    def _refuse_circle(self, target: ModuleProxy) -> None:
        """Would `target`, directly or not, wait for this unit to end? Raises AskCycle.

        Where somebody in the circle only waits for room, room is made instead (DESIGN §7.4).
        """
        chain = chain_to(target, self)
        full = [proxy for proxy in chain if proxy.mailbox.late]
        for proxy in full:
            proxy.mailbox.admit_all()
        if chain and not full:
            raise AskCycle(
                f"ask would wait in a circle: {' → '.join(p.name for p in (self, *chain))}. "
                "Nothing was asked. Send instead of ask on one of these edges."
            )

    def waiting_for(self) -> Sequence[ModuleProxy]:
        """Whom this module waits for now: those its unit asks, and the one whose mailbox has no room for its output."""
        room_at = self.outbox.room_at
        return self.waits_on if room_at is None else [*self.waits_on, room_at]

    def _in_unit(self, what: str) -> Message:
        if self.unit is None:
            raise NotInService(
                f"{what}() was called in {self.name} outside a unit of work. Use it in a handler, an event or a tick; "
                "an intake returns its item and a handler of the same name sends."
            )
        return self.unit


def _typed(reply: object, returns: Any, target: ModuleProxy, type_: str) -> Any:
    try:
        return msgspec.convert(reply, returns)
    except msgspec.ValidationError as error:
        raise BodyRefused(
            f"the reply of {target.name} to {type_!r} is not what returns= asks for: {error}"
        ) from None
