"""Intakes: the author's input coroutines, each run by one task that belongs to the proxy (DESIGN §5).

The task outlives a swap. Only while it is inside author code may it be interrupted, and an intake consumes nothing
unless it returns; so no item is lost between the old version and the new one, and the two never read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.errors import error_text
from orchestrator.runtime.loader import author_line

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 30.0


class Intakes:
    """The intake tasks of one module."""

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._runners: dict[str, _Runner] = {}
        self.failures = 0

    def set(self, names: Iterable[str]) -> None:
        """Run exactly these intakes of the implementation now in service; what ran before goes on in its code."""
        wanted = set(names)
        for name in [n for n in self._runners if n not in wanted]:
            self._runners.pop(name).stop()
        for name in wanted:
            runner = self._runners.get(name)
            if runner is None or runner.task.done():
                self._runners[name] = _Runner(name, self._proxy, self._failed)
            else:
                runner.move()

    @property
    def quiet(self) -> bool:
        """Whether no intake is about to run: each waits for what has not come yet, or delivers what it has."""
        return all(runner.quiet for runner in self._runners.values())

    async def stop(self) -> None:
        """End all intakes; an item that one has returned is still delivered."""
        runners, self._runners = list(self._runners.values()), {}
        for runner in runners:
            runner.stop()
        if runners:
            _, still_there = await asyncio.wait([runner.task for runner in runners], timeout=1.0)
            for task in still_there:
                logger.bind(module=self._proxy.name).warning(
                    "{} did not end when it was cancelled; an intake may not swallow CancelledError",
                    task.get_name(),
                )

    def _failed(self) -> None:
        self.failures += 1


class _Runner:
    """One intake's task: call the author's coroutine, deliver what it returns, again."""

    def __init__(self, name: str, proxy: ModuleProxy, failed: Callable[[], None]) -> None:
        self._name = name
        self._proxy = proxy
        self._count_failure = failed
        self._interruptible = False
        self._reads: object = None  # the call of author code that it is in
        self._stopping = False
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"intake {proxy.name}.{name}")

    @property
    def quiet(self) -> bool:
        if not self._interruptible or self.task.done():
            return True
        waits_for: asyncio.Future[object] | None = getattr(self.task, "_fut_waiter", None)
        return waits_for is not None and not waits_for.done()

    def move(self) -> None:
        """Leave the old version's code, if inside it, and go on with the new version's."""
        if not self._interruptible:
            return
        waits_for: asyncio.Future[object] | None = getattr(self.task, "_fut_waiter", None)
        if waits_for is not None and waits_for.done():
            # It has what it waited for and only has not run yet: a cancellation now would lose that, as asyncio
            # throws it in place of the result. Look again when it has run.
            asyncio.get_running_loop().call_soon(self._move_from, self._reads)
        else:
            self.task.cancel()

    def _move_from(self, read: object) -> None:
        if read is not None and self._reads is read:
            self.move()

    def stop(self) -> None:
        self._stopping = True
        self.move()

    async def _run(self) -> None:
        pause_s = FIRST_RETRY_S
        while not self._stopping:
            implementation = self._proxy.implementation
            if implementation is None or self._name not in implementation.blueprint.intakes:
                return  # a switch has just been, and the version in service has no such intake
            read: Callable[[], Awaitable[object]] = getattr(implementation.instance, self._name)
            try:
                self._interruptible, self._reads = True, object()
                item = await read()
                self._interruptible = False  # no await between the return and here: what was returned is ours
            except asyncio.CancelledError:
                self._interruptible = False
                if self._proxy.implementation is implementation and not self._stopping:
                    await self._restart_later(pause_s, "CancelledError", "it cancelled itself")
                    pause_s = min(pause_s * 2, LAST_RETRY_S)
                continue
            except BaseException as error:  # an intake that raises is restarted, whatever it raised
                self._interruptible = False
                if isinstance(error, GeneratorExit):
                    raise
                await self._restart_later(
                    pause_s, error_text(error), author_line(error, implementation.loaded)
                )
                pause_s = min(pause_s * 2, LAST_RETRY_S)
                continue
            finally:
                self._reads = None
                del read, implementation  # the old version must not be held while the next item is delivered
            pause_s = FIRST_RETRY_S
            if item is not None:
                await self._proxy.deliver_intake(self._name, item)
            else:
                await asyncio.sleep(0)  # an intake that never waits may not starve the loop

    async def _restart_later(self, pause_s: float, what: str, where: str) -> None:
        self._count_failure()
        logger.bind(module=self._proxy.name).warning(
            "intake {}.{} raised {} ({}); again in {} s", self._proxy.name, self._name, what, where, pause_s
        )
        clock = self._proxy.app.clock
        try:
            self._interruptible = True
            await sleep_until(clock, clock.now() + pause_s)
        except asyncio.CancelledError:
            pass  # a swap or a stop: the loop looks which
        finally:
            self._interruptible = False
