"""One keeper started ahead while the host is at rest, so that a push need not wait for an interpreter to start.

A keeper serves one release and is gone then: what a release may do to it can poison no other one. It makes the description
of that release and tries it out; neither runs author code in it. Nothing is started while releases come one after the other.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

from loguru import logger

from orchestrator.runtime.clock import Clock, within
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.upgrade.trial_keeper import KeeperProcess

REST_S = 1.0
"""A host to which nothing was pushed for so long has a keeper started ahead."""


class Keepers:
    """Gives keepers, from any thread; holds one at the most, which waits for nobody yet or for the same release again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: KeeperProcess | None = None
        self._whose: tuple[int, int] | None = None  # the release that it has described; None: nobody's yet
        self._closed = False
        self._used = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self, folder: str, *, to_try: bool) -> KeeperProcess | None:
        """The one that is held, if it may serve the release in `folder`; None: start one.

        `to_try`: it may be the one that has described this very folder, whatever that was called then.
        """
        with self._lock:
            held, whose = self._held, self._whose
            if held is None or (whose is not None and not to_try):
                return None  # one that waits for its own release may still be asked by it
            if whose is not None and whose != _identity(folder):
                return None
            self._held = None
        self._touch()
        if held.fits:
            return held
        held.end()
        return None

    def keep(self, keeper: KeeperProcess, folder: str) -> None:
        """Hold one that has described the release in `folder`, for its trial."""
        whose = _identity(folder)
        left: KeeperProcess | None = keeper
        with self._lock:
            if whose is not None and not self._closed:
                left, self._held, self._whose = self._held, keeper, whose
        if left is not None:
            left.end()
        self._touch()

    def get_ready(self) -> None:
        """Start one ahead, in place of one that waits for a trial that does not come."""
        with self._lock:
            if self._closed or (self._held is not None and self._whose is None and self._held.fits):
                return
            before, self._held, self._whose = self._held, None, None
            if before is not None:
                before.end()
            try:
                self._held = KeeperProcess()
            except OSError as error:
                logger.debug("no keeper could be started ahead: {}; the next trial starts its own", error)

    def close(self) -> None:
        """Leave none behind."""
        with self._lock:
            held, self._held, self._closed = self._held, None, True
        if held is not None:
            held.end()

    async def run(self, clock: Clock) -> None:
        """Have one ready whenever the host is at rest, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._used.clear()
            try:
                await within(clock, self._used.wait(), REST_S)
            except TimeoutError:
                await in_own_thread(self.get_ready)
                await self._used.wait()

    def _touch(self) -> None:
        with suppress(RuntimeError):  # the loop was closed: the host has stopped
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._used.set)


def _identity(folder: str) -> tuple[int, int] | None:
    """Which folder it is, also after it was renamed to its place in the stage; None: it is not there."""
    with suppress(OSError):
        found = os.stat(folder)  # noqa: PTH116  # its two numbers are all that is wanted
        return found.st_dev, found.st_ino
    return None
