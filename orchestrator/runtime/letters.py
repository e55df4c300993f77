"""Dead letters: messages that were accepted and could not be handled, each with its reason (DESIGN §6, P2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec
from loguru import logger

from orchestrator.runtime.message import Message


class DeadLetter(msgspec.Struct, frozen=True):
    """A message, the module it was for, why it was not handled, and when (seconds since the epoch)."""

    number: int
    module: str
    message: Message
    reason: str
    at: float


class DeadLetters:
    """The last `limit` dead letters; what falls out at the end is counted and logged, never silent."""

    def __init__(self, limit: int = 10_000) -> None:
        self._letters: OrderedDict[int, DeadLetter] = OrderedDict()
        self._limit = limit
        self._next = 1
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(list(self._letters.values()))

    def add(self, module: str, message: Message, reason: str, at: float) -> DeadLetter:
        # Without its asker's future: the error in it holds the frames, and so the version, of whoever asked.
        kept = msgspec.structs.replace(message, reply=None, path=())
        letter = DeadLetter(self._next, module, kept, reason, at)
        self._next += 1
        self._letters[letter.number] = letter
        if len(self._letters) > self._limit:
            _, lost = self._letters.popitem(last=False)
            self.dropped += 1
            logger.bind(module=lost.module).warning(
                "dead letter {} was dropped: more than {}", lost.number, self._limit
            )
        return letter

    def take(self, number: int) -> DeadLetter | None:
        """Remove and return one letter; None if there is none of this number."""
        return self._letters.pop(number, None)

    def restore(self, letters: Iterable[DeadLetter]) -> None:
        """Put back the letters of an earlier run, under their old numbers."""
        for letter in letters:
            self._letters[letter.number] = letter
            self._next = max(self._next, letter.number + 1)
