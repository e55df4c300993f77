"""A reader: one of the author's input coroutines, awaited again and again by a task that belongs to the proxy (DESIGN §5).

The task outlives a swap. Only while it is inside author code may it be interrupted, and an intake consumes nothing
unless it returns; so no item is lost between the old version and the new one, and the two never read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.errors import error_text
from orchestrator.runtime.guard import runs_now
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.plain import check_body

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.proxy import ModuleProxy

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 30.0
ITEMS_A_TURN = 16  # of one input that never waits, before the loop turns


class Reader:
    """One input's task: call the author's coroutine, deliver what it returns, again. `name` is the intake's."""

    __slots__ = (
        "_count_failure",
        "_in",
        "_interrupted",
        "_interruptible",
        "_stopping",
        "name",
        "proxy",
        "task",
    )

    def __init__(self, name: str, proxy: ModuleProxy, failed: Callable[[], None]) -> None:
        self.name = name
        self.proxy = proxy
        self._count_failure = failed
        self._interruptible = False
        self._interrupted = False  # once is enough: what it does about that must not be interrupted too
        self._in: Implementation | None = None  # the version in whose code it is
        self._stopping = False
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._run(), name=self.label)

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"intake {self.proxy.name}.{self.name}"

    @property
    def quiet(self) -> bool:
        """Whether it is not about to run: it waits for what has not come yet, or delivers what it has."""
        if not self._interruptible or self.task.done():
            return True
        waits_for: asyncio.Future[object] | None = getattr(self.task, "_fut_waiter", None)
        return waits_for is not None and not _has_come(waits_for)

    @property
    def behind(self) -> bool:
        """Whether it is still in the code of a version that does not serve any more."""
        return self._in is not None and self._in is not self.proxy.implementation and not self.task.done()

    def move(self) -> None:
        """Leave the old version's code, if inside it, and go on with the new version's."""
        if not self._interruptible or self._interrupted:
            return
        waits_for: asyncio.Future[object] | None = getattr(self.task, "_fut_waiter", None)
        if waits_for is not None and _has_come(waits_for):
            # It has what it waited for and only has not run yet: a cancellation now would lose that, as asyncio
            # throws it in place of the result. Look again when it has run.
            asyncio.get_running_loop().call_soon(self._move_from, self._in)
        else:
            self._interrupted = True
            self.task.cancel()

    def _move_from(self, version: Implementation | None) -> None:
        if version is not None and self._in is version:
            self.move()

    def stop(self) -> None:
        """Read no more; an item that was returned is still delivered."""
        self._stopping = True
        self._interrupted = False
        self.move()

    # -- what an intake and a source differ in -----------------------------------------------------------------

    def _reads(self, implementation: Implementation) -> bool:
        """Whether this version has the intake."""
        return self.name in implementation.blueprint.intakes

    def _read(self, implementation: Implementation) -> Awaitable[object]:
        given: Awaitable[object] = getattr(implementation.instance, self.name)()
        return given

    def _body(self, item: object) -> object:
        return item

    def _end_of(self, error: BaseException) -> str | None:  # noqa: ARG002  # an intake never ends by an error
        """Why this error is the end of the input; None: it is tried again."""
        return None

    async def _ended(self, reason: str) -> None:
        """There is nothing more to read."""

    # -- the task ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:  # noqa: C901  # every way in which a read can end, written out
        pause_s, items = FIRST_RETRY_S, 0
        while not self._stopping:
            implementation = self.proxy.implementation
            if implementation is None or not self._reads(implementation):
                # A switch has just been, and the version in service has no such intake.
                version = "" if implementation is None else f" {implementation.version}"
                await self._ended(f"{self.proxy.name}{version} has no intake {self.name!r}")
                return
            try:
                self._interruptible, self._interrupted, self._in = True, False, implementation
                item = await self._read(implementation)
                self._interruptible = False  # no await between the return and here: what was returned is ours
                check_body(item)  # it may be the next version that gets it
            except asyncio.CancelledError:
                self._interruptible = False
                if self.proxy.implementation is implementation and not self._stopping:
                    await self._restart_later(pause_s, "CancelledError", "it cancelled itself")
                    pause_s = min(pause_s * 2, LAST_RETRY_S)
                continue
            except BaseException as error:  # an intake that raises is restarted, whatever it raised
                self._interruptible = False
                if isinstance(error, GeneratorExit) and not runs_now(self.task):
                    raise  # the loop throws the task away
                end = self._end_of(error)
                if end is None:
                    await self._restart_later(
                        pause_s, error_text(error), author_line(error, implementation.loaded)
                    )
                    pause_s = min(pause_s * 2, LAST_RETRY_S)
                    continue
            else:
                end = None
            finally:
                self._in = None
                del implementation  # the old version must not be held while the next item is delivered
            if end is not None:
                await self._ended(end)
                return
            pause_s = FIRST_RETRY_S
            if item is not None:
                await self.proxy.deliver_intake(self.name, self._body(item))
                items += 1
            if item is None or not items % ITEMS_A_TURN:
                await asyncio.sleep(0)  # an intake that never waits may not starve the loop

    async def _restart_later(self, pause_s: float, what: str, where: str) -> None:
        self._count_failure()
        logger.bind(module=self.proxy.name).warning(
            "{} raised {} ({}); again in {} s", self.label, what, where, pause_s
        )
        clock = self.proxy.app.clock
        try:
            self._interruptible, self._interrupted = True, False
            await sleep_until(clock, clock.now() + pause_s)
        except asyncio.CancelledError:
            pass  # a swap or a stop: the loop looks which
        finally:
            self._interruptible = False


def _has_come(future: asyncio.Future[object]) -> bool:
    """Whether what is waited for is there, or on its way through the tasks in between."""
    waits_for: asyncio.Future[object] | None = future
    while waits_for is not None:
        if waits_for.done():
            return True
        waits_for = getattr(waits_for, "_fut_waiter", None)
    return False
