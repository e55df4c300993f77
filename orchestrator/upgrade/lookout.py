"""When to look at the repository: whenever asked, when something is due, and again where it could not be read.

Every wake-up only means "look again"; what is done depends on what is found, never on the order of arrival.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger

from orchestrator.runtime.clock import Clock, Timer, sleep_until
from orchestrator.runtime.give_way import giving_way
from orchestrator.upgrade.errors import JournalFailed
from repo_store.errors import StoreError

AGAIN_S = 3.0  # after a look that failed, or found something that it cannot read or write yet


class Lookout:
    """Looks one time after the other, never twice at once. What a look does, and when one is due, a subclass says."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.trouble = ""  # why the last look could not be done
        self._again: Timer | None = None
        self._ended_s = 0.0
        self._asked = 0
        self._done = 0
        self._passes = 0
        self._settled_push = False
        self._looking = False
        self._leaving = False
        self._wake = asyncio.Event()
        self._asked_again = asyncio.Event()  # during a look, for whoever in it waits for long
        self._passed = asyncio.Condition()

    async def _look(self, *, push_over: bool) -> None:
        """Look at the refs and do what is to be done. May raise StoreError or JournalFailed."""
        raise NotImplementedError

    def look_again(self) -> None:
        """Have a look made in a while: this one has found something to do that cannot be done now."""
        if self._again is None:
            self._again = self.clock.call_at(self.clock.now() + AGAIN_S, self.look)

    def _due(self) -> float | None:
        """When a look is due that nobody asked for, by the clock; None: never."""
        raise NotImplementedError

    def look(self, *, push_over: bool = False) -> int:
        """Ask for a look at the refs; returns a number for `passed`. `push_over`: the refs are whole, one read will do."""
        self._asked += 1
        self._settled_push = self._settled_push or push_over
        self._wake.set()
        self._asked_again.set()
        return self._asked

    async def asked_again(self) -> None:
        """Return when a further look is asked for: something is to be seen since this one has begun, or since the last call."""
        await self._asked_again.wait()
        self._asked_again.clear()

    async def passed(self, number: int) -> None:
        """Return once a look that began after `look` returned this number has ended."""
        async with self._passed:
            await self._passed.wait_for(lambda: self._done >= number)

    async def next_pass(self) -> None:
        """Return once a further look has ended, asked for or due by itself."""
        async with self._passed:
            number = self._passes
            await self._passed.wait_for(lambda: self._passes > number)

    @property
    def will_look_again(self) -> bool:
        """Whether a further look is under way or due: asked for, a retry, or a repository that could not be read."""
        waits = self._due() is not None or self._again is not None
        return waits or self._looking or self._wake.is_set()

    async def leave(self, running: asyncio.Task[None]) -> None:
        """End `run`, which is that task. A look under way ends as the protocol says.

        What fails while it does (a journal that cannot be written any more) must not take the place of the cancellation:
        the host would wait for its end for ever.
        """
        self._leaving = True
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def run(self) -> None:
        """Look whenever asked, and when a retry is due, until it is told to `leave`."""
        while not self._leaving:
            await self._wait()
            asked, push_over = self._asked, self._settled_push
            self._wake.clear()
            self._asked_again.clear()
            self._settled_push = False
            self._looking = True
            self.trouble = await self._look_safely(push_over=push_over)
            self._looking = False
            self._ended_s = self.clock.now()
            async with self._passed:
                self._done = asked
                self._passes += 1
                self._passed.notify_all()

    async def _look_safely(self, *, push_over: bool) -> str:
        """Look; returns why it could not be done, empty if it was."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            async with giving_way():  # Git, the trial and the import run in threads
                await self._look(push_over=push_over)
        except (StoreError, OSError) as error:  # OSError: a disk that is full or broken in this moment
            trouble = f"the repository could not be read: {str(error).strip().rstrip('.')}. livetag doctor says what to do"
            if trouble != self.trouble:
                logger.warning("{}. Looking again every {:g} s.", trouble, AGAIN_S)
            self.look_again()
            return trouble
        except JournalFailed as error:  # the journal has logged it
            return str(error)
        except Exception as error:  # noqa: BLE001  # a bug in one look must not end the upgrader; it is logged as one
            logger.exception("a look at the repository failed")
            return f"a bug in livetag, {type(error).__name__}: {error}; see the host's log"
        return ""

    async def _wait(self) -> None:
        due = self._due()
        if due is None:
            await self._wake.wait()
            return
        if self.trouble:  # what is due could not be done, and stays due: it must not be tried without a rest
            due = max(due, self._ended_s + AGAIN_S)
        timer = asyncio.ensure_future(sleep_until(self.clock, due))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait([timer, wake], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            wake.cancel()
