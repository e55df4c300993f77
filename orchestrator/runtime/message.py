"""The message: what one module hands to another (paper §3.2.1). No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

#: Types of messages that the runtime makes itself are marked by their first character; no author's name can start so.
TOPIC_MARK = "@"  # an event: "@clock.*" is the subscription it was delivered for
TIMER_MARK = "%"  # a tick: "%report" is the method that is due
TEST_MARK = "?"  # no message at all: stands for a self_test() while that has the module to itself

#: The trace of every ask: see traces.py.
ASKED_BY = "somebody asked, and was told that it failed"


def is_authors(type_: str) -> bool:
    """Whether it is a type that an author names, not an event, a tick or a test."""
    return type_[:1] not in {TOPIC_MARK, TIMER_MARK, TEST_MARK, ""}


class Message(msgspec.Struct, gc=False):
    """One message on its way to one module. `body` is plain data and belongs to the receiver once it was sent.

    `sent_at` is seconds since the epoch; `topic` is set on events; `again` marks a second delivery. `reply` and `path`
    are the runtime's: the asker's future, and the modules whose units wait for this one; so are `row` and `trace`.
    """

    type: str
    body: object = None
    sender: str = ""
    id: int = 0
    sent_at: float = 0.0
    topic: str | None = None
    again: bool = False
    reply: asyncio.Future[object] | None = None
    path: tuple[str, ...] = ()
    row: int = 0  # its place in the inbox of a durable module, below 0 if it is given again; 0: it has none
    trace: str = (
        ""  # why a failure of its unit may have had effects, as far as that is known before: see traces.py
    )


class StoredMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message as it is kept over a stop of the host: without its asker, who did not survive it."""

    type: str
    body: object
    sender: str
    id: int
    sent_at: float
    topic: str | None
    again: bool
    trace: str = ""  # who read it before there was one, takes no notice


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(StoredMessage)


def encode_message(message: Message) -> bytes:
    """The message as bytes (msgpack).

    Raises TypeError or ValueError if the body is not plain data (DESIGN §5).
    """
    m = message
    trace = m.trace if m.reply is None else ASKED_BY
    return _ENCODER.encode(StoredMessage(m.type, m.body, m.sender, m.id, m.sent_at, m.topic, m.again, trace))


def decode_message(data: bytes) -> Message:
    """The message that `encode_message` was given, without reply and path."""
    return as_message(_DECODER.decode(data))


def as_message(stored: StoredMessage) -> Message:
    """A stored message, to be handled."""
    s = stored
    return Message(s.type, s.body, s.sender, s.id, s.sent_at, s.topic, s.again, trace=s.trace)


def waiting_for(messages: Sequence[Message], busy: Mapping[str, object]) -> int:
    """How many messages at the head must still run so that every unit in `busy` gets the reply it waits for."""
    for behind, message in enumerate(reversed(messages)):
        if any(name in busy for name in message.path):
            return len(messages) - behind
    return 0
