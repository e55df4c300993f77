"""What one unit took in and gave out: noted of the version in service and of its shadow alike, to be compared.

All of it is copied when it is noted, in containers of its own: what either version does to a body later is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from orchestrator.runtime.message import TIMER_MARK, Message
from orchestrator.runtime.plain import apart
from orchestrator.runtime.shadow_compare import DIFFERENCES_MAX, NOTHING, Difference, Shower, same

UNKNOWN: Final = object()
"""A reply that nobody has seen: not given yet, or to an asker who had gone."""


class Said(NamedTuple):
    """A message for a name, or, without a type, an event on a topic."""

    name: str
    type: str | None
    body: Any


class Asked:
    """An ask that a unit made, and what came of it: a reply, an error, or nothing before it gave up."""

    __slots__ = ("body", "error", "name", "replayed", "reply", "type")

    def __init__(self, name: str, type_: str, body: Any) -> None:
        self.name = name
        self.type = type_
        self.body = apart(body)
        self.reply: Any = UNKNOWN
        self.error: Exception | None = None
        self.replayed = False

    def is_for(self, name: str, type_: str, body: Any) -> bool:
        return self.name == name and self.type == type_ and same(self.body, body)


class UnitRecord:
    """One unit. `message` is as it came, with a body of its own; `took_s` counts from its begin to its end."""

    __slots__ = (
        "asked",
        "asks",
        "at_once",
        "began_s",
        "failed",
        "hung",
        "message",
        "reply",
        "said",
        "took_s",
    )

    def __init__(self, message: Message, *, at_once: bool, began_s: float) -> None:
        self.message = copy_of(message)
        self.at_once = at_once  # in the task of who asks, who has no future
        self.asked = at_once or message.reply is not None
        self.began_s = began_s
        self.took_s = 0.0
        self.said: list[Said] = []
        self.asks: list[Asked] = []
        self.reply: Any = UNKNOWN
        self.failed = ""  # why it failed
        self.hung = False  # it did not return, and was interrupted

    def says(self, name: str, type_: str | None, body: Any) -> None:
        self.said.append(Said(name, type_, apart(body)))


def copy_of(message: Message) -> Message:
    """The message for another module: nothing of the runtime's own, and a body that is nobody else's."""
    m = message
    return Message(m.type, apart(m.body), m.sender, m.id, m.sent_at, m.topic, m.again, path=m.path)


def compare(before: UnitRecord, after: UnitRecord, shower: Shower) -> list[Difference]:
    """What the new version did otherwise, the first few; none: it did the same.

    A unit that failed in both is the same in both, whatever it says of it: it has sent nothing.
    """
    if before.failed or after.failed:
        return (
            []
            if before.failed and after.failed
            else [_of_failure(before, after, shower), *_more_asks(after, shower)]
        )
    found = _differences(before, after, shower)
    return [each for each, _ in zip(found, range(DIFFERENCES_MAX), strict=False)]


def _differences(before: UnitRecord, after: UnitRecord, shower: Shower) -> Iterator[Difference]:
    if before.asked and before.reply is not UNKNOWN and after.reply is not UNKNOWN:
        yield from shower.differences(before.reply, after.reply, "reply")
    for place in range(max(len(before.said), len(after.said))):
        one, other = (r.said[place] if place < len(r.said) else None for r in (before, after))
        yield from _of_said(one, other, shower)
    for ask in before.asks:
        if not ask.replayed:
            yield Difference(f"ask {_ask(ask, shower)}", shower.value(ask.body), NOTHING)
    yield from _more_asks(after, shower)


def _of_failure(before: UnitRecord, after: UnitRecord, shower: Shower) -> Difference:
    one, other = (f"fails, {shower.text(r.failed)}" if r.failed else "succeeds" for r in (before, after))
    return Difference("the unit", one, other)


def _more_asks(after: UnitRecord, shower: Shower) -> Iterator[Difference]:
    """What the shadow asks and the version in service did not: of its asks only those are noted."""
    for ask in after.asks:
        yield Difference(f"ask {_ask(ask, shower)}", NOTHING, shower.value(ask.body))


def _of_said(before: Said | None, after: Said | None, shower: Shower) -> Iterator[Difference]:
    if before is not None and after is not None and before[:2] == after[:2]:
        yield from shower.differences(before.body, after.body, _said(before, shower))
        return
    if before is not None:
        yield Difference(_said(before, shower), shower.value(before.body), NOTHING)
    if after is not None:
        yield Difference(_said(after, shower), NOTHING, shower.value(after.body))


def _said(said: Said, shower: Shower) -> str:
    if said.type is None:
        return f"publish {shower.name(said.name)}"
    return f"send {shower.name(said.name)} {shower.name(said.type)}"


def _ask(ask: Asked, shower: Shower) -> str:
    return f"{shower.name(ask.name)} {shower.name(ask.type)}"


def title(message: Message, shower: Shower) -> str:
    """The message, to be shown above what differs: `'tick' {'key': 'a'}`."""
    if message.topic is not None:
        return f"event {shower.name(message.topic)} {shower.value(message.body)}"
    if message.type[:1] == TIMER_MARK:
        return f"tick of {shower.name(message.type[1:])}"
    return f"{shower.name(message.type)} {shower.value(message.body)}"
