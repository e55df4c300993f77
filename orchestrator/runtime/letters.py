"""Dead letters: messages that were accepted and could not be handled, each with its reason (DESIGN §6, P2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec
from loguru import logger

from orchestrator.runtime.durability import Durability, LetterGone, LetterRow
from orchestrator.runtime.message import Message, StoredMessage, as_message
from orchestrator.runtime.secrets import Secrets


class DeadLetter(msgspec.Struct, frozen=True):
    """A message, the module it was for, why it was not handled, and when (seconds since the epoch).

    `version`: what failed on it; empty if no unit of it has begun. `trace`: why that may have had effects.
    """

    number: int
    module: str
    message: Message
    reason: str
    at: float
    durable: bool = False  # it is on disk, too
    version: str = ""
    trace: str = ""


class _StoredLetter(StoredMessage, frozen=True, array_like=True):
    """A letter's message as it is kept, with what failed on it; `trace` is the letter's."""

    version: str = ""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_StoredLetter)


def encode_letter(letter: DeadLetter) -> bytes:
    """What is kept of it beside its number, module, reason and time. Whoever knows messages alone reads it as its message.

    Raises TypeError or ValueError if the body is not plain data.
    """
    m = letter.message
    return _ENCODER.encode(
        _StoredLetter(
            m.type, m.body, m.sender, m.id, m.sent_at, m.topic, m.again, letter.trace, letter.version
        )
    )


def decode_letter(
    number: int, module: str, data: bytes, reason: str, at: float, *, durable: bool = False
) -> DeadLetter:
    """The letter that `encode_letter` was given."""
    found = _DECODER.decode(data)
    message = as_message(found)
    message.trace = ""
    return DeadLetter(number, module, message, reason, at, durable, found.version, found.trace)


class DeadLetters:
    """The last `limit` dead letters; what falls out at the end is counted and logged, never silent."""

    def __init__(
        self, limit: int = 10_000, disk: Durability | None = None, secrets: Secrets | None = None
    ) -> None:
        self._secrets = secrets
        self._disk = disk
        self._letters: OrderedDict[int, DeadLetter] = OrderedDict()
        self._limit = limit
        self._next = 1
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(list(self._letters.values()))

    def add(
        self,
        module: str,
        message: Message,
        reason: str,
        at: float,
        *,
        durable: bool = False,
        version: str = "",
        trace: str = "",
    ) -> DeadLetter:
        """Keep a message that was not handled; `durable`: on disk as well, with what is being written."""
        # Without its asker's future: the error in it holds the frames, and so the version, of whoever asked.
        kept = msgspec.structs.replace(message, reply=None, path=(), row=0, trace="")
        reason = reason if self._secrets is None else self._secrets.hide(reason)
        durable = durable and self._disk is not None
        letter = DeadLetter(self._next, module, kept, reason, at, durable, version, trace)
        if letter.durable and not self._write(letter):
            letter = msgspec.structs.replace(letter, durable=False)
        self._next += 1
        self._letters[letter.number] = letter
        if len(self._letters) > self._limit:
            _, lost = self._letters.popitem(last=False)
            self.dropped += 1
            self._gone(lost)
            logger.bind(module=lost.module).warning(
                "dead letter {} was dropped: more than {}", lost.number, self._limit
            )
        return letter

    def promise(self, module: str, message: Message, reason: str, at: float) -> int:
        """On disk alone: what is a dead letter if the host ends now; returns its number, 0 if it is no plain data."""
        letter = DeadLetter(self._next, module, message, reason, at)
        if self._disk is None or not self._write(letter):
            return 0
        self._next += 1
        return letter.number

    def arrived(self, number: int) -> None:
        """What was promised by this number is elsewhere now, as part of what is being written."""
        if number and self._disk is not None:
            self._disk.add(LetterGone(number))

    def take(self, number: int) -> DeadLetter | None:
        """Remove and return one letter; None if there is none of this number."""
        letter = self._letters.pop(number, None)
        if letter is not None:
            self._gone(letter)
        return letter

    def failed_on(self, module: str, version: str, since: float) -> list[DeadLetter]:
        """Those that a version of a module has failed on since a time and that may be given again, in their order."""
        found = (each for each in self._letters.values() if each.version == version and not each.trace)
        return sorted(
            (each for each in found if each.module == module and each.at >= since),
            key=lambda each: each.number,
        )

    def gone(self, letters: Iterable[DeadLetter]) -> None:
        """These are letters no more, by what is written already."""
        for letter in letters:
            self._letters.pop(letter.number, None)

    def put_back(self, letter: DeadLetter, *, durable: bool) -> None:
        """Put a letter back that was taken, and could not be given again; `durable`: its module is so now."""
        wanted = (letter.durable or durable) and self._disk is not None
        kept = wanted and self._write(letter)
        self._letters[letter.number] = msgspec.structs.replace(letter, durable=kept)

    def rows_of(self, module: str) -> list[LetterRow]:
        """What there is to write of a module that becomes durable: its letters that are in memory alone.

        A body that is no plain data cannot be kept. Once they are queued, `written` has to be told.
        """
        mine = (each for each in self._letters.values() if each.module == module and not each.durable)
        return [row for letter in mine if (row := _row(letter)) is not None]

    def written(self, rows: Iterable[LetterRow]) -> None:
        """These are on disk from now on; one that has fallen out at the end meanwhile leaves again."""
        for row in rows:
            letter = self._letters.get(row.number)
            if letter is not None:
                self._letters[row.number] = msgspec.structs.replace(letter, durable=True)
            elif self._disk is not None:
                self._disk.add(LetterGone(row.number))

    def _write(self, letter: DeadLetter) -> bool:
        """Whether it can be kept."""
        row = _row(letter)
        if row is not None and self._disk is not None:
            self._disk.add(row)
        return row is not None

    def _gone(self, letter: DeadLetter) -> None:
        if letter.durable and self._disk is not None:
            self._disk.add(LetterGone(letter.number))

    def restore(self, letters: Iterable[DeadLetter]) -> None:
        """Put back the letters of an earlier run, under their old numbers."""
        for letter in letters:
            self._letters[letter.number] = letter
            self._next = max(self._next, letter.number + 1)


def _row(letter: DeadLetter) -> LetterRow | None:
    """As it is written; None: its body is no plain data."""
    try:
        data = encode_letter(letter)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return LetterRow(letter.number, letter.module, data, letter.reason, letter.at)
