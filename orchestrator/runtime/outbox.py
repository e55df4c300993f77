"""The outbox: what a module's units give out, on its way to other mailboxes (DESIGN §5, "a unit of work").

What a unit sends leaves when the unit ends, in order; what finds no room waits, before the next unit begins. It belongs
to the proxy, so a version can be swapped while the outputs of its last unit still wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.runtime.message import Message

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class Output(NamedTuple):
    """What a unit gave out: a message for a name, or, without a type, an event on a topic.

    An event that was made into messages has them, each with its target.
    """

    name: str
    type: str | None
    body: object
    message: Message | None = None
    target: ModuleProxy | None = None


class Outbox:
    """Outputs of one module in their order; at most one of them waits for room, and those behind it with it."""

    __slots__ = ("_admission", "_owner", "_room_at", "queue")

    def __init__(self, owner: ModuleProxy) -> None:
        self.queue: deque[Output] = deque()
        self._owner = owner
        self._admission: asyncio.Future[None] | None = None  # room that the last output waits for
        self._room_at: ModuleProxy | None = None  # in whose mailbox

    @property
    def empty(self) -> bool:
        return not self.queue and self._admission is None

    @property
    def room_at(self) -> ModuleProxy | None:
        """The module in whose mailbox an output waits for room now."""
        return None if self._admission is None or self._admission.done() else self._room_at

    def let_out(self) -> bool:
        """Deliver outputs in order until one has to wait for room; True: all have left."""
        app, owner = self._owner.app, self._owner
        while self.queue:
            if self._admission is not None:
                return False
            output = self.queue.popleft()
            if output.type is None:
                self.queue.extendleft(reversed(self._deliveries(output)))
                continue
            message = output.message or app.message(output.type, output.body, owner.name)
            target = output.target or app.names.find(output.name)
            if target is None:
                reason = (
                    app.names.absent.get(output.name) or f"no module is bound to {output.name!r} any more"
                )
                app.letters.add(output.name, message, reason, app.clock.wall())
                continue
            admitted = target.accept(message, owner)
            if admitted is not None:
                self._wait_for_room(target, admitted)
        return self._admission is None

    async def flush(self) -> None:
        """Return when all outputs have left."""
        while not self.let_out():
            admission = self._admission
            if admission is not None and not admission.done():
                await asyncio.wait([admission])  # never cancels it: the output was given, it must arrive
            else:
                await asyncio.sleep(0)  # its callback is due in this turn of the loop

    def hand_in(self) -> None:
        """Put what is left before the targets, in order, without waiting: the module ends, what its units gave stays."""
        self._admission = None
        while not self.let_out():
            self._admission = None

    def _deliveries(self, event: Output) -> list[Output]:
        """An event as one message for each subscriber."""
        app = self._owner.app
        made = []
        for subscription in app.events.subscribers(event.name):
            message = app.message(subscription.type, event.body, self._owner.name)
            message.topic = event.name
            proxy = subscription.proxy
            made.append(Output(proxy.name, subscription.type, event.body, message, proxy))
        return made

    def _wait_for_room(self, target: ModuleProxy, admitted: asyncio.Future[None]) -> None:
        self._admission, self._room_at = admitted, target
        admitted.add_done_callback(self._room_made)
        if self._owner.app.quiesce is not None:
            self._owner.app.quiesce.look_again(self._owner)

    def _room_made(self, admitted: asyncio.Future[None]) -> None:
        if self._admission is admitted:
            self._admission = self._room_at = None
