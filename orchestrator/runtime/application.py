"""The running application: its modules, their names and topics, and the way in from outside (paper §3.2)."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import msgspec
from loguru import logger

from orchestrator.runtime.clock import Clock, LoopClock
from orchestrator.runtime.closing import Closing
from orchestrator.runtime.durability import Durability, WriteAhead
from orchestrator.runtime.errors import MailboxFull
from orchestrator.runtime.events import EventManager, Subscription
from orchestrator.runtime.letters import DeadLetter, DeadLetters
from orchestrator.runtime.message import Message
from orchestrator.runtime.names import NameService
from orchestrator.runtime.overdue import Overdue
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.secrets import Secrets
from orchestrator.runtime.threads import Threads
from orchestrator.runtime.whose import TaskOwnership

_Waits = tuple[ModuleProxy, Message, "asyncio.Future[None]"]  # an event that waits for room
SLICE_S = 0.001  # what all pumps together, and asks answered at once, may use of one turn of the loop
DEFAULT_TIMEOUT_S = 5.0


class Turn:
    """Shares a turn of the event loop among all who work in it, so that no busy module starves the others."""

    __slots__ = ("_end", "_loop", "awake")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = 0.0
        self.awake = 0

    def share_s(self) -> float:
        """How long one pump may run before it lets the loop turn."""
        return SLICE_S / max(self.awake, 1)

    def begins(self) -> bool:
        """May an ask be answered at once? The first of a turn starts its clock; False: this turn's time is spent."""
        if not self._end:
            self._end = perf_counter() + SLICE_S
            self._loop.call_soon(self._over)
            return True
        return perf_counter() < self._end

    def _over(self) -> None:
        self._end = 0.0


class AtBoundary(Protocol):
    """What waits for a moment between two units."""

    def try_now(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which modules there are, the names they are bound to, who subscribes to what: one value, replaced whole.

    `absent` are the names of modules that are out of service, each with the reason.
    """

    modules: Mapping[str, ModuleProxy]
    names: Mapping[str, ModuleProxy]
    subscriptions: Sequence[Subscription]
    also: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str] = field(default_factory=dict)


class Application:
    """All modules of one host. Made inside a running event loop."""

    def __init__(
        self, clock: Clock | None = None, *, first_message_id: int = 1, ahead: WriteAhead | None = None
    ) -> None:
        """`ahead`: the disk of durable modules; without one they are durable in memory only, as in a test."""
        self.clock: Clock = clock or LoopClock()
        self.durability = Durability(self.clock, ahead)
        self.durability.on_failure(self._stop_durable)
        self.turn = Turn()
        self.thread = threading.get_ident()  # of the event loop
        self.names = NameService()
        self.events = EventManager()
        self.secrets = Secrets()  # what the modules' config has from the host, to be kept out of texts
        self.letters = DeadLetters(disk=self.durability, secrets=self.secrets)
        self.ownership = TaskOwnership()
        self.threads = Threads()
        self.closing = Closing()
        self.overdue = Overdue(self)
        self.modules: Mapping[str, ModuleProxy] = {}
        self.quiesce: Quiesce[Any] | None = None  # the switch that waits for its moment
        self.at_boundary: tuple[AtBoundary, ...] = ()  # what each pump tells that a unit has ended
        self._ids = itertools.count(first_message_id)

    def message(self, type_: str, body: object, sender: str, topic: str | None = None) -> Message:
        """A new message with its id and time; an event with its topic."""
        return Message(type_, body, sender, next(self._ids), self.clock.wall(), topic)

    def keeps(self, name: str) -> bool:
        """Whether it is the name of a durable module, in service or not."""
        proxy = self.modules.get(name)
        return proxy is not None and proxy.keeps

    def _stop_durable(self, why: str) -> None:
        """The disk has failed: durable modules handle nothing more, the others serve on."""
        for proxy in self.modules.values():
            if proxy.durable is not None:
                proxy.durable.stop(why)

    def rewire(self, wiring: Wiring) -> None:
        """Replace modules, names and subscriptions. Cannot raise."""
        self.modules = wiring.modules
        self.names.table, self.names.absent = wiring.names, wiring.absent
        self.events.table = wiring.subscriptions
        for name, proxy in wiring.modules.items():
            proxy.also = wiring.also.get(name, ())
        for proxy in wiring.modules.values():
            if proxy.durable is not None:
                proxy.durable.hand_in()
        self.names.tell_who_waits()

    async def send(
        self,
        name: str,
        type_: str,
        body: object = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        wait_s: float = 0.0,
    ) -> int:
        """Send a message from outside; returns its id once it is accepted. `wait_s`: so long the name may be unbound.

        Raises UnknownName; MailboxFull if there was no room in `timeout_s` seconds.
        """
        if wait_s:
            await self.bound(name, wait_s)
        message = self.message(type_, body, "")
        await self.names.resolve(name).post(message, timeout_s)
        return message.id

    async def bound(self, name: str, wait_s: float) -> None:
        """Return when the name is bound, or after `wait_s` seconds."""
        until = self.clock.now() + wait_s
        while self.names.find(name) is None and self.clock.now() < until:
            await self.names.when_bound(name, self.clock, until)

    async def ask(
        self, name: str, type_: str, body: object = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Any:
        """Ask a module from outside; returns the reply.

        Raises UnknownName and what `ModuleProxy.ask` raises.
        """
        return await self.names.resolve(name).ask(self.message(type_, body, ""), timeout_s)

    async def publish(self, topic: str, body: object = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """Publish an event from outside; returns how many subscriptions took it. One that is slow keeps none from theirs.

        Raises MailboxFull, which names those that made no room in time; the others have it.
        """
        subscriptions = self.events.subscribers(topic)
        self.events.note(topic, "")
        waits: list[_Waits] = []
        for subscription in subscriptions:
            message = self.message(subscription.type, body, "", topic)
            admitted = subscription.give(message)
            if admitted is not None:
                waits.append((subscription.proxy, message, admitted))
        full = await self._room_for_all(waits, timeout_s) if waits else ()
        for subscription in subscriptions:
            if subscription.proxy.durable is not None:
                await subscription.proxy.accepted()
        if full:
            had = len(subscriptions) - len(full)
            raise MailboxFull(f"{' '.join(full)} {had} of {len(subscriptions)} subscriptions have the event.")
        return len(subscriptions)

    async def _room_for_all(self, waits: list[_Waits], timeout_s: float) -> Sequence[str]:
        """Return when each of these was accepted or gave up; of those that gave up, why."""
        until = self.clock.now() + timeout_s
        full = []
        try:
            while waits:
                proxy, message, admitted = waits.pop(0)
                try:
                    await proxy.room_for(message, admitted, timeout_s, until)
                except MailboxFull as error:
                    full.append(str(error))
        finally:
            for proxy, message, admitted in waits:  # the caller was cancelled
                admitted.cancel()
                proxy.withdraw(message)
        return full

    async def give_again(self, letter: DeadLetter, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Send a dead letter once more, marked; it is a letter no more in the same write that accepts it.

        Raises UnknownName, DurabilityLost; MailboxFull if there was no room in time, and then it still is a letter.
        """
        proxy = self.names.resolve(letter.module)
        proxy.refuse()
        message = msgspec.structs.replace(letter.message, again=True, reply=None, path=())
        self.durability.begin()
        self.letters.take(letter.number)
        admitted = proxy.accept(message)
        self.durability.end()
        if admitted is not None:
            await proxy.room_for(message, admitted, timeout_s, self.clock.now() + timeout_s, letter)
        await self._on_disk(letter, proxy)

    async def drop(self, letter: DeadLetter) -> None:
        """Let a dead letter go. Raises DurabilityLost."""
        self.letters.take(letter.number)
        await self._on_disk(letter)

    async def _on_disk(self, letter: DeadLetter, proxy: ModuleProxy | None = None) -> None:
        """Return when what became of a durable letter is on disk."""
        if letter.durable or (proxy is not None and proxy.keeps):
            await self.durability.settled()

    def announce(self, topic: str, body: object) -> None:
        """Publish an event of the framework's own; a subscriber without room goes without, and it is logged."""
        for subscription in self.events.subscribers(topic):
            if subscription.proxy.mailbox.full and not subscription.drops_oldest:
                logger.warning("{} had no room for the event {}", subscription.proxy.name, topic)
                continue
            subscription.give(self.message(subscription.type, body, "livetag", topic))
