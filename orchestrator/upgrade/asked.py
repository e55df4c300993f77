"""What persons have asked of tags: to go through a hold, to be one transaction though their commits differ.

It holds from before the tags are written, since they may be acted on at once, until a look that knew of it has seen them
and left nothing of them to do. A look that was under way when it was asked knows neither it nor the tags, and must not
end it: the parts of a rollback would then go live one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Wish:
    tags: frozenset[str]
    together: bool
    seen: bool = False  # at least one of the tags was in the repository


@dataclass(frozen=True, slots=True)
class Wishes:
    """The wishes at the begin of a look."""

    all: tuple[_Wish, ...]

    @property
    def together(self) -> Sequence[frozenset[str]]:
        """Sets of tags that are one transaction each."""
        return [wish.tags for wish in self.all if wish.together]

    @property
    def by_hand(self) -> Collection[str]:
        """Tags that go through a hold."""
        return {tag for wish in self.all for tag in wish.tags}


class Asked:
    """The wishes that are open."""

    def __init__(self) -> None:
        self._wishes: list[_Wish] = []

    def now(self) -> Wishes:
        return Wishes(tuple(self._wishes))

    def deploy(self, tags: Collection[str], *, together: bool = False) -> None:
        """Let these tags go live though a hold keeps others from it; `together`: as one transaction."""
        self._wishes.append(_Wish(frozenset(tags), together))

    def forget(self, tags: Collection[str]) -> None:
        """These tags were not written after all."""
        self._wishes = [wish for wish in self._wishes if wish.tags != frozenset(tags)]

    def done(self, known: Wishes, refs: Collection[str], left: Collection[str]) -> None:
        """End what a look that knew these wishes, and saw these refs, has left nothing of to do."""
        for wish in known.all:
            wish.seen = wish.seen or not wish.tags.isdisjoint(refs)
        over = [wish for wish in known.all if wish.seen and wish.tags.isdisjoint(left)]
        self._wishes = [wish for wish in self._wishes if wish not in over]
