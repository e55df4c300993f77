"""At which moment the tags say what somebody meant: when nothing moves them, or when a push has said that it is over.

A script that moves a tag a thousand times, or a push that has written the first of its tags, is seen in the middle by any
single read. That two reads give the same does not help: a tag that goes back and forth gives it by chance. So a read counts
if nobody has touched the tags for a while before it, and until it was done.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.runtime.clock import Clock, sleep_until
from orchestrator.upgrade.repository import Repository
from repo_store.release import RefMap
from repo_store.stamp import Stamp

AGREE_S = 0.03  # nothing touches the tags for so long; more than a tick of any file system's clock
AGREE_MAX_S = (
    5.0  # tags that never rest, a script's say, must not keep a push from going live: then any read counts
)


class Agreement:
    """Reads the tags for one look at them. `over()`: since it began, a push has said that it is over."""

    def __init__(self, repository: Repository, clock: Clock, over: Callable[[], bool]) -> None:
        self._repository = repository
        self._clock = clock
        self._over = over
        self._waited_s = 0.0
        self._stamp: Stamp | None = None  # taken before the last read
        self._tells = False  # whether each touch since then shows in it

    async def refs(self, *, push_over: bool = False) -> RefMap:
        """The tags at rest; `push_over`: one read will do. Raises StoreError."""
        while True:
            stamp = await self._repository.stamp()
            counts = push_over or self._over() or self._waited_s >= AGREE_MAX_S
            began = self._clock.now()
            if not counts:
                await sleep_until(self._clock, began + AGREE_S)
            refs = await self._repository.refs()
            rest = not counts and await self._repository.is_unmoved(stamp)
            # Taken within a tick of a change, a stamp does not tell of another one in that tick.
            self._stamp, self._tells = stamp, rest or stamp.rested(AGREE_S)
            if counts or rest or self._over():
                return refs
            self._waited_s += self._clock.now() - began

    async def refs_again(self, before: RefMap) -> RefMap:
        """The tags at rest, given what they were when last asked. Raises StoreError."""
        if self._stamp is None or not await self._repository.is_unmoved(self._stamp):
            return await self.refs()
        return before if self._tells else await self._repository.refs()
