"""What the demo saw, as plain values: the checks and the screen are made from these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Alert = Mapping[str, Any]  # Any: one JSON line of the sample's


@dataclass(frozen=True, slots=True)
class Step:
    """One push: what was expected, and what came of it. `version` None: the module is not there."""

    title: str
    tag: str
    module: str
    expected: str  # the version that should serve afterwards
    good: bool  # False: the push must be refused
    before: str | None = None
    after: str | None = None
    exit_code: int = 0
    tag_stays: bool = True
    outcome: str = ""
    reason: str = ""
    pause_us: float = 0.0
    held_messages: int = 0
    handled_before: int = 0  # by all modules together
    handled_after: int = 0
    feed_ended: bool = False  # had the feed come to its end when the push was over?
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One module's mailbox after the feed: messages since the host started."""

    accepted: int
    handled: int
    waiting: int
    dead: int

    @property
    def lost(self) -> int:
        return self.accepted - self.handled - self.waiting - self.dead


@dataclass(frozen=True, slots=True)
class Seen:
    """What a whole feed says: read once in a straight line, or through the modules while they were upgraded."""

    records: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks need to know."""

    steps: Sequence[Step] = ()
    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)
    expected: Seen = field(default_factory=Seen)
    seen: Seen = field(default_factory=Seen)
    availability: float = 0.0
    log: Sequence[str] = ()
    decided: int = 0  # transactions in the history
    host_exit_code: int | None = None
    seconds: float = 0.0
