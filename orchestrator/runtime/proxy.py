"""The module proxy: a module's port (paper §3.2.2, DESIGN §3).

It owns the mailbox, and is where others reach the module; between two units the implementation behind it can be
replaced. Its units run in the pump, speak by the voice, and what they give out leaves by the outbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.asking import ask_in_turn
from orchestrator.runtime.durable import Durable
from orchestrator.runtime.errors import (
    Disabled,
    DurabilityLost,
    Leaving,
    MailboxFull,
    NotInService,
)
from orchestrator.runtime.failures import bury, failure_of, is_tick, unknown
from orchestrator.runtime.intakes import Intakes
from orchestrator.runtime.mailbox import Mailbox
from orchestrator.runtime.message import TIMER_MARK, Message, is_authors
from orchestrator.runtime.outbox import Outbox
from orchestrator.runtime.overrun import takes_over_limit
from orchestrator.runtime.pump import Pump
from orchestrator.runtime.resources import Resources
from orchestrator.runtime.table_sweep import Sweep
from orchestrator.runtime.tables import ModuleTables, first_tables
from orchestrator.runtime.timers import Timers
from orchestrator.runtime.vitals import Vitals
from orchestrator.runtime.voice import Voice
from orchestrator.runtime.waits import Wait

if TYPE_CHECKING:
    from orchestrator.runtime.application import Application
    from orchestrator.runtime.events import Counts
    from orchestrator.runtime.implementation import BoundHandler, Implementation
    from orchestrator.runtime.letters import DeadLetter
    from orchestrator.runtime.quiesce import Quiesce
    from orchestrator.runtime.rest import Resting
    from orchestrator.runtime.shadow_tap import Tap
    from orchestrator.runtime.table_live import LiveTable
    from orchestrator.runtime.tasks import UnitTasks
    from orchestrator.runtime.threads import ThreadCall


class ModuleProxy:
    """One module: its mailbox, its pump, and the implementation in service."""

    __slots__ = (
        "_left",
        "_timers",
        "admit",
        "also",
        "app",
        "dead",
        "durable",
        "event_counts",
        "handled",
        "handlers",
        "held",
        "implementation",
        "intakes",
        "mailbox",
        "name",
        "outbox",
        "pump",
        "resources",
        "resting",
        "stored",
        "sweep",
        "tables",
        "tap",
        "tasks",
        "thread",
        "ticks",
        "unit",
        "vitals",
        "voice",
        "waits_on",
        "written",
    )

    def __init__(self, app: Application, name: str, mailbox_messages: int) -> None:
        self.app = app
        self.name = name
        self.also: tuple[str, ...] = ()  # more names it is bound to
        self.mailbox = Mailbox(mailbox_messages)
        self.event_counts: dict[str, Counts] = {}  # by pattern, over all its versions
        self.implementation: Implementation | None = None
        self.handlers: dict[str, BoundHandler] = {}
        self.unit: Message | None = None  # the message that is being handled
        self.held: Quiesce[Any] | Resting | None = (
            None  # what keeps new units from starting: a switch, or a rest
        )
        self.resting: Resting | None = None  # out of service: loaded, but disabled
        self.admit = 0  # while held: messages at the head that must still run
        self.tasks: UnitTasks | None = None  # that the unit started, if any
        self.thread: ThreadCall | None = None  # that the unit runs in, if in any
        self.waits_on: list[Wait] = []  # whom the unit asks
        self.durable: Durable | None = None  # of a durable module
        self.stored = 0  # what its units put into inboxes of durable modules, and was not seen on disk yet
        self.handled = 0
        self.dead = 0
        self.vitals = Vitals(self)
        self.ticks: set[str] = set()  # timers whose tick waits in the mailbox
        self.tables = ModuleTables()
        self.written: list[LiveTable] = []  # tables that the unit under way has written to
        self.outbox = Outbox(self)
        self.voice = Voice(self)
        self.pump = Pump(self)
        self.sweep = Sweep(self)
        self.tap: Tap | None = None  # notes what its units do, while a version is shadowed
        self._timers = Timers(app.clock, self._tick)
        self.intakes = Intakes(self)
        self.resources = Resources(name)
        self._left: str | None = None  # why the module is no longer part of the application

    # -- service: what a switch does to a module ---------------------------------------------------------------

    def serve(
        self, implementation: Implementation, state: object, tables: ModuleTables | None = None
    ) -> None:
        """Put an implementation in service with its state and its tables (None: empty ones).

        Cannot raise; called between two units.
        """
        self.sweep.stop()
        if self.implementation is not None:
            self.implementation.detach()
            self.tables.detach(self.implementation.instance)
        self.implementation = implementation
        self.handlers = implementation.handlers
        self.tables = first_tables(implementation) if tables is None else tables
        self.tables.attach(self, implementation.instance)
        implementation.attach(self.voice, state)

    @property
    def keeps(self) -> bool:
        """Whether it is durable: what it accepts and does is on disk."""
        return self.durable is not None and self.durable.stores

    def become_durable(self, package: str, state: bytes) -> None:
        """What its units do from now on is written; `state` is queued already. Between two units; cannot raise."""
        if self.durable is None:
            self.durable = Durable(self)
            self.outbox.given = deque()
            self.pump.collect_anew()
        self.durable.attach(package, state)

    def become_volatile(self) -> None:
        """Nothing of its time as a durable module waits for the disk any more."""
        self.durable = None
        self.outbox.given = self.outbox.queue
        self.pump.collect_anew()

    def start(self) -> None:
        """Begin to handle messages, and run timers and intakes of the implementation in service."""
        implementation = self.implementation
        if implementation is None:
            raise NotInService(f"{self.name} has no implementation to start.")
        if self.resting is None:
            self._timers.set(implementation.blueprint.timers)
            self.intakes.set(implementation.blueprint.intakes)
        self.pump.start()
        self.sweep.start()

    async def close(self, reason: str) -> None:
        """Leave service: end timers, intakes and the pump; a unit still under way is cut and goes to the dead letters."""
        self._timers.stop()
        await self.intakes.stop()
        await self.pump.close(reason)
        self.sweep.stop()
        if self.durable is not None:
            with suppress(DurabilityLost):
                await self.durable.accepted()
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
            if is_tick(self, message):
                self.ticks.discard(message.type[1:])
                self.handled += 1  # nobody sent it, so nobody misses it
            elif message.reply is not None and message.sender != self.name:  # its own are the ends of sources
                bury(self, message, Disabled(f"{resting.reason}. It was not handled"))
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
            if is_tick(self, message):
                self.handled += 1
            else:
                bury(self, message, self._leaving())

    @property
    def left(self) -> bool:
        """Whether it was removed."""
        return self._left is not None

    def _leaving(self) -> Leaving:
        return Leaving(f"{self.name} left service before this was handled: {self._left}")

    # -- receiving ---------------------------------------------------------------------------------------------

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        """Take a message into the mailbox; None: accepted. Else a future: done once there was room.

        A unit's message to a module that a switch holds, or that waits for that unit, is taken over the limit, so that
        nobody waits in a circle (DESIGN §7.4); see overrun.py.
        """
        if self._left is not None:  # an event on its way when the module was removed
            self.mailbox.accepted += 1
            bury(self, message, self._leaving())
            return None
        if self.durable is not None and not self.durable.take_in(message, sender):
            self.mailbox.accepted += 1
            return None
        admitted = self.mailbox.put(message)
        if admitted is not None and sender is not None and takes_over_limit(self, message, sender):
            self.mailbox.late.pop()  # itself, just put there
            self.mailbox.put_over_limit(message)
            admitted = None
        if self.pump.wake is not None:
            self.pump.rouse()
        return admitted

    def check(self, message: Message) -> None:
        """Would the version in service take this message? Nothing is handled.

        Raises UnknownMessage, BodyRefused; HandlerFailed if the author's code that reads the body (an upcast) raises.
        """
        handler = self.handlers.get(message.type) if is_authors(message.type) else None
        if handler is None:
            raise unknown(self, message)
        try:
            handler.arguments(message)
        except BaseException as error:  # noqa: BLE001  # outside a unit, too, sys.exit() there is not the host's end
            raise failure_of(self, message, error) from None

    async def post(self, message: Message, timeout_s: float) -> None:
        """Accept a message from outside; returns once it is accepted.

        Raises MailboxFull if there was no room for `timeout_s`; the message was not accepted.
        """
        self.refuse()
        admitted = self.accept(message)
        if admitted is not None:
            await self.room_for(message, admitted, timeout_s, self.app.clock.now() + timeout_s)
        if self.durable is not None:
            await self.durable.accepted()

    def refuse(self) -> None:
        """Raises DurabilityLost if it is durable and the disk has failed."""
        if self.durable is not None and (failed := self.durable.failed) is not None:
            raise failed

    async def accepted(self) -> None:
        """Return when what a durable module has accepted is on disk. Raises DurabilityLost."""
        if self.durable is not None:
            await self.durable.accepted()

    def withdraw(self, message: Message, letter: DeadLetter | None = None) -> None:
        """Take back what waits for room: its sender gave up, so it never was accepted; it is the letter that it was."""
        self.app.durability.begin()  # a kill must find it in the inbox or as a letter, never in neither
        self.mailbox.withdraw(message)
        if self.durable is not None:
            self.durable.withdrawn(message)
        if letter is not None:
            self.app.letters.put_back(letter, durable=self.keeps)
        self.app.durability.end()

    def replace_oldest(self, message: Message) -> bool:
        """Take an event in place of the oldest of its kind, into a durable mailbox."""
        oldest = next((each for each in self.mailbox.queue if each.type == message.type), None)
        if self.durable is None or oldest is None:
            return False
        self.app.durability.begin()
        if taken := self.durable.take_in(message, None):
            self.durable.withdrawn(oldest)
            self.mailbox.replace_oldest(message)
        self.app.durability.end()
        return taken

    async def room_for(
        self,
        message: Message,
        admitted: asyncio.Future[None],
        timeout_s: float,
        until: float,
        letter: DeadLetter | None = None,
    ) -> None:
        """Return once a message from outside that waits for room is accepted; it may be a `letter` that is given again.

        Raises MailboxFull at `until`, and DurabilityLost if it then cannot be taken back from the disk.
        """
        timed_out = False

        def give_up() -> None:
            nonlocal timed_out
            timed_out = admitted.cancel()

        timer = self.app.clock.call_at(until, give_up)
        try:
            await admitted
        except asyncio.CancelledError:
            self.withdraw(message, letter)
            if not timed_out:  # the caller was cancelled, which cancels what it awaits
                raise
            await (
                self.accepted()
            )  # "not accepted" must be true after a kill, too: its row is gone from the disk
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
        if self.durable is not None:
            with suppress(DurabilityLost):  # the module has stopped, and its intakes with it
                await self.durable.accepted()

    def _tick(self, name: str) -> None:
        if name not in self.ticks and not self.mailbox.full:
            self.ticks.add(name)
            self.accept(self.app.message(TIMER_MARK + name, None, self.name))

    async def ask(self, message: Message, timeout_s: float, sender: ModuleProxy | None = None) -> Any:
        """Handle a message and return the reply. An idle module with a plain handler answers here and now.

        Raises AskTimeout, MailboxFull, HandlerFailed, BodyRefused, UnknownMessage, Leaving.
        """
        if (
            self.unit is None
            and not self.mailbox.queue
            and self.held is None
            and self.outbox.empty
            and self.durable is None
        ):
            handler = self.handlers.get(message.type)
            try:
                if handler is not None and not handler.is_async and self.app.turn.begins():
                    result = self.pump.answer_at_once(message, handler)
                    if self.stored:
                        await self.stored_on_disk()
                    return result
            finally:
                del handler  # who waits here, and who keeps what is raised, must not hold the version
        return await ask_in_turn(self, message, timeout_s, sender)

    async def stored_on_disk(self) -> None:
        """A reply leaves after what the units before it put into inboxes of durable modules is there. Raises DurabilityLost."""
        stored = self.stored
        await self.app.durability.reached(stored)
        if self.stored == stored:
            self.stored = 0
