"""The lookout: one look after the other, and a rest after one that failed, whatever is due."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.runtime.clock import LoopClock
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.lookout import Lookout
from repo_store.errors import GitFailed


class Failing(Lookout):
    """Something is always due, and no look succeeds."""

    def __init__(self, error: Exception) -> None:
        super().__init__(LoopClock())
        self.error = error
        self.looks = 0

    def _due(self) -> float | None:
        return self.clock.now() - 1.0

    async def _look(self, *, push_over: bool) -> None:
        self.looks += 1
        raise self.error


@pytest.mark.parametrize("error", [GitFailed("gone"), JournalFailed("full"), RuntimeError("a bug")])
def test_a_look_that_fails_is_not_made_again_at_once_though_something_is_due(error: Exception) -> None:
    async def story() -> None:
        lookout = Failing(error)
        running = asyncio.ensure_future(lookout.run())
        try:
            await asyncio.wait_for(lookout.passed(lookout.look()), 5.0)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lookout.next_pass(), 0.3)
            assert lookout.looks <= 2  # one that was due before, and the one that was asked for
            assert str(error) in lookout.trouble
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


class Cut(Failing):
    """A look that a stop of the host cuts off, and that cannot record its end: the journal has failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.begun = asyncio.Event()

    def _due(self) -> float | None:
        return None

    async def _look(self, *, push_over: bool) -> None:
        self.looks += 1
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise self.error from None


@pytest.mark.parametrize("error", [GitFailed("gone"), JournalFailed("full"), RuntimeError("a bug")])
def test_what_fails_while_it_leaves_does_not_keep_it(error: Exception) -> None:
    async def story() -> None:
        lookout = Cut(error)
        running = asyncio.ensure_future(lookout.run())
        lookout.look()
        await lookout.begun.wait()
        await asyncio.wait_for(lookout.leave(running), 5.0)
        assert running.done()
        assert lookout.looks == 1

    asyncio.run(story())
