"""The outbox: what a module's units give out, on its way to other mailboxes (DESIGN §5, "a unit of work").

What a unit sends leaves when the unit ends, in order; what finds no room waits, before the next unit begins. It belongs
to the proxy, so a version can be swapped while the outputs of its last unit still wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from orchestrator.runtime.events import Subscription
    from orchestrator.runtime.proxy import ModuleProxy


class Output(msgspec.Struct, frozen=True, gc=False):
    """What a unit gave out: a message for a name, or, without a type, an event on a topic.

    `until`: the clock's time up to which the name may be unbound. An event that some subscribers have already is one
    output for each subscription that has to wait.
    """

    name: str
    type: str | None
    body: object
    until: float | None = None
    subscription: Subscription | None = None
    letter: int = 0  # by which it is on disk while it waits for its name


class Outbox:
    """Outputs of one module in their order. What is behind one that waits, for room or for its name, waits with it.

    Only the deliveries of one event wait side by side: a subscriber without room keeps none of the others from theirs.
    """

    __slots__ = ("_event", "_gives_up", "_owner", "_rests", "_waits", "given", "owes", "queue")

    def __init__(self, owner: ModuleProxy) -> None:
        self.queue: deque[Output] = deque()  # what leaves
        self.given = self.queue  # where the unit under way puts it; of a durable module it leaves later
        self._owner = owner
        #: What waits, and at whose mailbox; None: for a name.
        self._waits: dict[asyncio.Future[None], ModuleProxy | None] = {}
        self._gives_up = False
        self._event: Output | None = None  # of which some deliveries wait
        self.owes: list[ModuleProxy] = []  # who took something of it over the limit: see overrun.py
        self._rests: asyncio.Future[None] | None = None

    @property
    def empty(self) -> bool:
        return not self.queue and not self._waits

    @property
    def room_at(self) -> ModuleProxy | None:
        """A module in whose mailbox an output waits for room now."""
        if not self._waits:
            return None
        return next(iter(self.rooms), None)

    @property
    def rooms(self) -> list[ModuleProxy]:
        """The modules in whose mailboxes outputs wait for room now."""
        return [proxy for waits, proxy in self._waits.items() if proxy is not None and not waits.done()]

    @property
    def for_name(self) -> str | None:
        """The name that the first output waits for, if it is not bound."""
        waits = any(proxy is None and not wait.done() for wait, proxy in self._waits.items())
        return self.queue[0].name if waits and self.queue else None

    def let_out(self) -> bool:
        """Deliver outputs in order until one has to wait; True: all have left."""
        app, owner = self._owner.app, self._owner
        while self.queue:
            if self._waits and not self._beside(self.queue[0]):
                return False
            output = self.queue.popleft()
            if output.subscription is not None:
                self._event = output
                self.give(output.subscription, output)
            elif output.type is None:
                self._publish(output)
            elif (target := app.names.find(output.name)) is not None:
                if output.letter:
                    self.put(target, output)
                    continue
                admitted = target.accept(app.message(output.type, output.body, owner.name), owner)
                if admitted is not None:
                    self._wait(admitted, target)
            else:
                self.unbound(output, output.type)
            if output.subscription is None:
                self._event = None
        self._event = None
        return not self._waits

    def _beside(self, output: Output) -> bool:
        """Whether it is one more delivery of the event whose others wait, and its own subscriber does not."""
        event, to = self._event, output.subscription
        if event is None or to is None or event.body is not output.body or event.name != output.name:
            return False
        return to.proxy not in self._waits.values()

    def put(self, target: ModuleProxy, output: Output) -> None:
        """Deliver one output out of turn: into the inbox of a durable module, as part of a write."""
        app = self._owner.app
        app.durability.begin()  # a kill must find it in the inbox or as a letter, never as both or neither
        admitted = target.accept(app.message(output.type or "", output.body, self._owner.name), self._owner)
        app.letters.arrived(output.letter)
        app.durability.end()
        if admitted is not None:
            self._wait(admitted, target)

    def unbound(self, output: Output, type_: str) -> None:
        """Nobody has the name: wait for it as long as the sender said, else it is a dead letter."""
        app = self._owner.app
        if output.until is not None and app.clock.now() < output.until and not self._gives_up:
            self.queue.appendleft(self.promised(output))
            self._wait(app.names.when_bound(output.name, app.clock, output.until), None)
        else:
            message = app.message(type_, output.body, self._owner.name)
            why, durable = self._why_unbound(output), self._owner.keeps or app.keeps(output.name)
            app.durability.begin()
            app.letters.add(output.name, message, why, app.clock.wall(), durable=durable)
            app.letters.arrived(output.letter)
            app.durability.end()

    def promised(self, output: Output) -> Output:
        """What waits for its name, on disk if the sender is durable: after a kill it is a dead letter, and says so."""
        app = self._owner.app
        if output.letter or not self._owner.keeps:
            return output
        message = app.message(output.type or "", output.body, self._owner.name)
        reason = f"the host ended while it waited for a module to be bound to {output.name!r} (wait_s)"
        return msgspec.structs.replace(
            output, letter=app.letters.promise(output.name, message, reason, app.clock.wall())
        )

    def _why_unbound(self, output: Output) -> str:
        absent = self._owner.app.names.absent.get(output.name)
        if absent:
            return absent
        if output.until is None:
            return f"no module is bound to {output.name!r} any more"
        return f"no module was bound to {output.name!r} in the time that the sender gave it (wait_s)"

    def _publish(self, event: Output) -> None:
        """Deliver an event to all who have room; those who have not wait side by side."""
        events = self._owner.app.events
        events.note(event.name, self._owner.name)
        later: list[Output] = []
        for subscription in events.subscribers(event.name):
            if (
                subscription.proxy in self._waits.values()
            ):  # its events stay in the order of its subscriptions
                later.append(msgspec.structs.replace(event, subscription=subscription))
            else:
                self.give(subscription, event)
        self.queue.extendleft(reversed(later))

    def give(self, subscription: Subscription, event: Output) -> None:
        """Deliver an event to one subscriber."""
        message = self._owner.app.message(subscription.type, event.body, self._owner.name, event.name)
        admitted = subscription.give(message, self._owner)
        if admitted is not None:
            self._wait(admitted, subscription.proxy)

    async def flush(self) -> None:
        """Return when all outputs have left."""
        while not self.let_out():
            waits = [each for each in self._waits if not each.done()]
            if waits:
                await asyncio.wait(waits)  # never cancels them: what was given must arrive
            else:
                await asyncio.sleep(0)  # its callback is due in this turn of the loop

    def owe(self, target: ModuleProxy) -> None:
        """The target has taken something over its limit: no other work before there is room (see overrun.py)."""
        if target is not self._owner and target not in self.owes:
            self.owes.append(target)

    def let_in_at(self, target: ModuleProxy) -> None:
        """What waits for room at the target is taken over its limit; a rest for its sake ends."""
        waits = {wait for wait, proxy in self._waits.items() if proxy is target and wait is not self._rests}
        if waits:
            self.owe(target)
            target.mailbox.let_in(waits)
        self.look_again()

    def look_again(self) -> None:
        """Have the pump see whether it still has to rest."""
        if self._rests is not None:
            self._rests.cancel()

    async def rest_for(self, target: ModuleProxy) -> None:
        """Return when there is room at the target, which is owed no more; or when the pump has to look again."""
        rests = self._rests = target.mailbox.rest()
        self._waits[rests] = target
        try:
            await asyncio.wait([rests])
        finally:
            self._rests = None
            self._waits.pop(rests, None)
            target.mailbox.rest_no_more(rests)
        if not rests.cancelled():
            self.owes.remove(target)

    def hand_in(self) -> None:
        """Put what is left before the targets, in order, without waiting: the module ends, what its units gave stays."""
        self._gives_up = True
        for wait, target in self._waits.items():
            if target is None:  # for a name
                wait.cancel()
        self._waits = {}
        while not self.let_out():
            self._waits = {}
        self._gives_up = False

    def _wait(self, admitted: asyncio.Future[None], target: ModuleProxy | None) -> None:
        self._waits[admitted] = target
        admitted.add_done_callback(self._go_on)
        if target is not None and self._owner.app.quiesce is not None:
            self._owner.app.quiesce.look_again(self._owner)

    def _go_on(self, admitted: asyncio.Future[None]) -> None:
        self._waits.pop(admitted, None)
