"""Who asked for a change, and why, as far as somebody has said so: for the records that it leads to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.upgrade.plan import Group


@dataclass(frozen=True, slots=True)
class Cause:
    """Who asked for a change, why, and which transaction it takes back."""

    who: str
    why: str = ""
    reverts: int | None = None


class Causes:
    """Tag → who moved it, until that has led to a change. What a command asks for has its cause in its overrides."""

    def __init__(self) -> None:
        self._by_tag: dict[str, Cause] = {}
        self._announced: dict[str, tuple[str | None, Cause]] = {}
        self._noted: set[str] = set()  # tags that were recorded where he who was told of them has moved them
        self._to: dict[str, str | None] = {}  # where that is, as far as it is known

    def announced(self, moves: Mapping[str, str | None], cause: Cause) -> None:
        """Remember who is about to make these tags point at these objects (None: to delete them).

        A look may find them moved before it is told so. Only that very move is his.
        """
        self._announced.update({tag: (object_id, cause) for tag, object_id in moves.items()})

    def told(self, tags: Iterable[str], cause: Cause) -> None:
        """Remember who moved these tags and why."""
        tags = list(tags)
        for tag in tags:
            self._forget(tag)
            self._announced.pop(tag, None)
        self._by_tag.update(dict.fromkeys(tags, cause))

    def told_of(
        self, moves: Mapping[str, str | None], cause: Cause, recorded: Mapping[str, str | None]
    ) -> None:
        """The same, and where he has moved them: what leads them elsewhere after that is not his.

        `recorded`: where each of them is by the records, if it is anywhere.
        """
        self.told(moves, cause)
        self._to.update(moves)
        self._noted.update(tag for tag, object_id in moves.items() if recorded.get(tag) == object_id)

    def noted(self, tag: str, object_id: str | None) -> None:
        """A move was recorded."""
        if tag not in self._to:
            return
        if self._to[tag] == object_id:
            self._noted.add(tag)
        elif tag in self._noted:  # else it is one of before that was recorded late
            self._forget(tag)

    def _forget(self, tag: str) -> None:
        self._by_tag.pop(tag, None)
        self._to.pop(tag, None)
        self._noted.discard(tag)

    def who(self, tag: str, object_id: str | None) -> str:
        """Who moved a tag to where it points now; `refs`: nobody has said so."""
        to, cause = self._announced.get(tag, ("", Cause("refs")))
        if to == object_id:
            return cause.who
        return self._by_tag.get(tag, Cause("refs")).who

    def of(self, group: Group) -> Cause:
        """Who asked for a group of changes."""
        if group.overrides:
            newest = max(group.overrides, key=lambda override: override.seq)
            return Cause(newest.who, newest.why, newest.reverts)
        return next((self._by_tag[tag] for tag in _tags_of(group) if tag in self._by_tag), Cause("refs"))

    def spent(self, group: Group, cause: Cause) -> None:
        """Forget it for tags that serve now: they may serve again one day, and for another reason.

        What somebody has said of such a tag meanwhile stays.
        """
        for tag in _tags_of(group):
            if self._by_tag.get(tag) is cause:
                self._forget(tag)


def _tags_of(group: Group) -> tuple[str, ...]:
    """The tags that ask for it, then those that it replaces: who deletes one asks for what served before."""
    replaced = (change.before.tag for change in group.changes if change.before is not None)
    return (*group.tags, *replaced)
