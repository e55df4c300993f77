"""The event manager: topics, publishers, subscribers; nobody knows whom (paper §3.2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.runtime.message import TOPIC_MARK
from orchestrator.runtime.topics import topic_matches

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class Subscription:
    """One module's wish for one pattern; `type` is the message type its events arrive under."""

    __slots__ = ("pattern", "proxy", "type")

    def __init__(self, pattern: str, proxy: ModuleProxy) -> None:
        self.pattern = pattern
        self.proxy = proxy
        self.type = TOPIC_MARK + pattern


class EventManager:
    """Who gets what is published. `table` is one immutable value; a switch replaces it by one assignment."""

    __slots__ = ("_found", "_table")

    def __init__(self) -> None:
        self._table: Sequence[Subscription] = ()
        self._found: dict[str, tuple[Subscription, ...]] = {}

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
            if len(self._found) < 10_000:  # topics may be made of data: what is kept has a limit
                self._found[topic] = found
        return found
