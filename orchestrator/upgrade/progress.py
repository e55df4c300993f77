"""News of the upgrader for whoever watches: a push that waits, a command, the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One step: of which tags, in which phase, said in words. `txn` is 0 before there is a transaction."""

    tags: tuple[str, ...]
    phase: str
    text: str
    txn: int = 0


Listener = Callable[[Event], None]


class Progress:
    """Passes each event to all who listen; a listener that fails cannot fail the upgrade."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener(event)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call `listener` with each event inside the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
