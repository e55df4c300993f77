"""The event manager: topics, publishers, subscribers; nobody knows whom (paper §3.2.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.runtime.message import TOPIC_MARK, Message
from orchestrator.runtime.topics import topic_matches

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


TOPICS_MAX = 10_000  # topics may be made of data: what is kept of them has a limit


class Counts:
    """What became of the events of one subscription, over all versions of its module."""

    __slots__ = ("delivered", "dropped")

    def __init__(self) -> None:
        self.delivered = 0
        self.dropped = 0


class Subscription:
    """One module's wish for one pattern; `type` is the message type its events arrive under."""

    __slots__ = ("counts", "pattern", "proxy", "type")

    def __init__(self, pattern: str, proxy: ModuleProxy) -> None:
        self.pattern = pattern
        self.proxy = proxy
        self.type = TOPIC_MARK + pattern
        self.counts = proxy.event_counts.setdefault(pattern, Counts())

    @property
    def drops_oldest(self) -> bool:
        """Whether the version in service would rather lose old events than keep a publisher waiting."""
        implementation = self.proxy.implementation
        return implementation is not None and self.pattern in implementation.blueprint.drop_oldest

    def give(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        """Give an event to the subscriber; None: it has it, or dropped one as it wished. Else a future: done once it has it."""
        proxy = self.proxy
        mailbox = proxy.mailbox
        # As `mailbox.full`, written out: each delivery comes by here.
        if (len(mailbox.queue) >= mailbox.limit or mailbox.late) and self.drops_oldest:
            box = proxy if proxy.keeps else mailbox
            if not box.replace_oldest(message):
                self.counts.dropped += (
                    1  # itself: none of this subscription waits, and others are not to suffer
                )
                return None
            self.counts.dropped += 1
            self.counts.delivered += 1
            proxy.pump.rouse()
            return None
        self.counts.delivered += 1
        return proxy.accept(message, sender)


class EventManager:
    """Who gets what is published. `table` is one immutable value; a switch replaces it by one assignment."""

    __slots__ = ("_found", "_table", "published")

    def __init__(self) -> None:
        self._table: Sequence[Subscription] = ()
        self._found: dict[str, tuple[Subscription, ...]] = {}
        self.published: dict[str, dict[str, int]] = {}  # topic → who published on it, how often

    @property
    def table(self) -> Sequence[Subscription]:
        return self._table

    @table.setter
    def table(self, table: Sequence[Subscription]) -> None:
        self._table, self._found = table, {}

    def subscribers(self, topic: str) -> tuple[Subscription, ...]:
        """The subscriptions that take this topic, each once. Answers are kept until the table changes."""
        found = self._found.get(topic)
        if found is None:
            found = tuple(s for s in self._table if topic_matches(s.pattern, topic))
            if len(self._found) < TOPICS_MAX:
                self._found[topic] = found
        return found

    def note(self, topic: str, publisher: str) -> None:
        """Count an event for those who ask who publishes."""
        by = self.published.get(topic)
        if by is None:
            if len(self.published) >= TOPICS_MAX:
                return
            by = self.published[topic] = {}
        by[publisher] = by.get(publisher, 0) + 1
