"""The mailbox: a module's input queue, bounded and first in, first out (paper §3.2.1, DESIGN §3).

It belongs to the proxy, so that a swap never moves a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from orchestrator.runtime.message import Message


class Mailbox:
    """Messages in order of arrival, at most `limit` of them; whoever comes later waits outside, in order."""

    __slots__ = ("accepted", "dropped", "late", "limit", "queue")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queue: deque[Message] = deque()
        self.late: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self.accepted = 0
        self.dropped = 0  # accepted, and given up for a newer one as their subscriber wished

    def __len__(self) -> int:
        return len(self.queue) + len(self.late)

    @property
    def full(self) -> bool:
        return len(self.queue) >= self.limit or bool(self.late)

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
            late, admitted = self.late.popleft()
            if admitted.cancelled():
                continue  # its sender gave up waiting: it was never accepted
            self.queue.append(late)
            self.accepted += 1
            admitted.set_result(None)
        return message

    def admit_all(self) -> None:
        """Let in all who wait outside, over the limit: a switch holds this module, and may wait for their units."""
        while self.late:
            late, admitted = self.late.popleft()
            if not admitted.cancelled():
                self.put_over_limit(late)
                admitted.set_result(None)

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
