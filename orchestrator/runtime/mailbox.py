"""The mailbox: a module's input queue, bounded and first in, first out (paper §3.2.1, DESIGN §3).

It belongs to the proxy, so that a swap never moves a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from orchestrator.runtime.message import Message

#: Messages over any limit that asks may bring; of a larger limit, as many again. A durable sender has units ahead.
OVERRUN_MIN = 2000


class Mailbox:
    """Messages in order of arrival, at most `limit` of them; whoever comes later waits outside, in order.

    Outside stands, without a message, also who has given one over the limit and rests until there is room.
    """

    __slots__ = ("accepted", "dropped", "late", "limit", "queue")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queue: deque[Message] = deque()
        self.late: deque[tuple[Message | None, asyncio.Future[None]]] = deque()
        self.accepted = 0
        self.dropped = 0  # accepted, and given up for a newer one as their subscriber wished

    def __len__(self) -> int:
        return len(self.queue) + len(self.late)

    @property
    def full(self) -> bool:
        return len(self.queue) >= self.limit or bool(self.late)

    @property
    def overrun(self) -> bool:
        """Whether so much was taken over the limit for its owner's asks that no more is."""
        return len(self.queue) >= self.limit + max(self.limit, OVERRUN_MIN)

    def put(self, message: Message) -> asyncio.Future[None] | None:
        """Take the message; None: it is accepted. Else a future that is done once it is, in order, within the limit."""
        if self.late or len(self.queue) >= self.limit:
            admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.late.append((message, admitted))
            return admitted
        self.queue.append(message)
        self.accepted += 1
        return None

    def put_over_limit(self, message: Message) -> None:
        """Take the message though the mailbox may be full: whoever sends it is what the mailbox waits for.

        Order per sender holds: a sender that waits outside has no later message to give.
        """
        self.queue.append(message)
        self.accepted += 1

    def put_first(self, messages: Sequence[Message]) -> None:
        """Take messages before all that wait, in their order, over the limit: they stood before these once."""
        self.queue.extendleft(reversed(messages))
        self.accepted += len(messages)

    def replace_oldest(self, message: Message) -> bool:
        """Take the message in place of the oldest of its type that waits, at the end; False: there is none, nothing was done.

        For those who would rather lose the oldest: it is counted as `dropped`. The mailbox is as long as before.
        """
        for index, waiting in enumerate(self.queue):
            if waiting.type == message.type:
                del self.queue[index]
                self.queue.append(message)
                self.accepted += 1
                self.dropped += 1
                return True
        return False

    def take(self) -> Message:
        """The oldest message; the first who waits outside comes in."""
        message = self.queue.popleft()
        while self.late and len(self.queue) < self.limit:
            self._come_in(*self.late.popleft())
        return message

    def take_for(self, asking: Collection[str]) -> Message | None:
        """The oldest message of whoever asks for one of these modules, out of turn; None: nobody does.

        Order per sender holds: what the asker sent before its ask is taken first.
        """
        waiting = [*self.queue, *(late for late, _ in self.late if late is not None)]
        for ask in waiting:
            if ask.reply is not None and not ask.reply.done() and any(name in asking for name in ask.path):
                return self._take_out(next(each for each in waiting if each.sender == ask.sender))
        return None

    def _take_out(self, message: Message) -> Message:
        self._let_in(lambda late, _: late is message)
        del self.queue[next(place for place, each in enumerate(self.queue) if each is message)]
        while self.late and len(self.queue) < self.limit:
            self._come_in(*self.late.popleft())
        return message

    def admit_all(self) -> None:
        """Let in all who wait outside, over the limit: a switch holds this module, and may wait for their units."""
        while self.late:
            self._come_in(*self.late.popleft())

    def let_in(self, waiting: Collection[asyncio.Future[None]]) -> None:
        """Let in those who wait outside for one of these, over the limit: what they wait for waits for them."""
        self._let_in(lambda _, admitted: admitted in waiting)

    def _let_in(self, chosen: Callable[[Message | None, asyncio.Future[None]], bool]) -> None:
        outside = list(self.late)
        self.late.clear()
        for late, admitted in outside:
            if chosen(late, admitted):
                self._come_in(late, admitted)
            else:
                self.late.append((late, admitted))

    def _come_in(self, late: Message | None, admitted: asyncio.Future[None]) -> None:
        if admitted.cancelled():
            return  # its sender gave up waiting: it was never accepted
        if late is not None:
            self.put_over_limit(late)
        admitted.set_result(None)

    def rest(self) -> asyncio.Future[None]:
        """Stand outside without a message: done when there is room, in order."""
        rested: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.late.append((None, rested))
        return rested

    def rest_no_more(self, rested: asyncio.Future[None]) -> None:
        """Leave the place outside; nothing happens if it was left already."""
        self.late = deque(each for each in self.late if each[1] is not rested)

    def withdraw(self, message: Message) -> bool:
        """Take back a message that still waits outside; False: it was accepted meanwhile."""
        for index, (late, _) in enumerate(self.late):
            if late is message:
                del self.late[index]
                return True
        return False

    def drain(self) -> Iterator[Message]:
        """Empty the mailbox, oldest first, those who wait outside included."""
        self.admit_all()
        while self.queue:
            yield self.queue.popleft()
