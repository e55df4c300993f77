"""Who asked for a change, and why, as far as somebody has said so: for the records that it leads to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.upgrade.plan import Group


@dataclass(frozen=True, slots=True)
class Cause:
    """Who asked for a change, why, and which transaction it takes back."""

    who: str
    why: str = ""
    reverts: int | None = None


class Causes:
    """Tag → who moved it. What a command asks for has its cause in its overrides."""

    def __init__(self) -> None:
        self._by_tag: dict[str, Cause] = {}

    def told(self, tags: Iterable[str], cause: Cause) -> None:
        """Remember who moved these tags and why."""
        self._by_tag.update(dict.fromkeys(tags, cause))

    def who(self, tag: str) -> str:
        """Who moved a tag; `refs`: nobody has said so."""
        return self._by_tag.get(tag, Cause("refs")).who

    def of(self, group: Group) -> Cause:
        """Who asked for a group of changes."""
        if group.overrides:
            newest = max(group.overrides, key=lambda override: override.seq)
            return Cause(newest.who, newest.why, newest.reverts)
        return next((self._by_tag[tag] for tag in group.tags if tag in self._by_tag), Cause("refs"))
