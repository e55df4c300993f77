"""The pump: runs the units of work of one module, one at a time and in order (DESIGN §5).

One task takes message after message from the mailbox; an ask of an idle module may be answered in the asker's own task
instead. In both cases what the unit sends leaves when it ends, and between two units a switch may happen.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from loguru import logger

from orchestrator.runtime.errors import Leaving, ModuleError, UnknownMessage, error_text
from orchestrator.runtime.failures import bury, failure_of, is_tick, unknown
from orchestrator.runtime.implementation import NOTHING
from orchestrator.runtime.message import TIMER_MARK, Message
from orchestrator.runtime.table_live import keep_writes, undo_writes

if TYPE_CHECKING:
    from orchestrator.runtime.application import Turn
    from orchestrator.runtime.implementation import BoundHandler
    from orchestrator.runtime.proxy import ModuleProxy


class Pump:
    """The task that handles the messages of one module."""

    __slots__ = ("_app", "_closing", "_given", "_outbox", "_proxy", "_task", "_written", "wake")

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._app = proxy.app
        self._outbox = proxy.outbox
        self._given = proxy.outbox.queue
        self._written = proxy.written
        self.wake: asyncio.Future[None] | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Handle what is in the mailbox, and what comes."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pump {self._proxy.name}")
            self._task.add_done_callback(self._ended)
        self.rouse()

    async def close(self, reason: str) -> None:
        """Handle nothing more; a unit still under way is cut, sends nothing and goes to the dead letters."""
        proxy = self._proxy
        self._closing = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        if proxy.unit is not None:
            self._given.clear()
            undo_writes(self._written)
            bury(proxy, proxy.unit, Leaving(f"{proxy.name} left service while it was handled: {reason}"))
            proxy.unit = None

    def rouse(self) -> None:
        """Let the pump look again."""
        wake = self.wake
        if wake is not None:
            self.wake = None
            if not wake.done():
                wake.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only closing ends a pump; anything else is a fault of the runtime, and must not be silent."""
        if not task.cancelled() and (error := task.exception()) is not None and not self._closing:
            logger.bind(module=self._proxy.name).opt(exception=error).critical(
                "{} handles nothing more: its pump ended by {}. Restart the host; this is a bug of livetag.",
                self._proxy.name,
                error_text(error),
            )

    async def _run(self) -> None:
        turn = self._proxy.app.turn
        turn.awake += 1
        try:
            await self._until_closed(turn)
        finally:
            turn.awake -= 1

    async def _until_closed(self, turn: Turn) -> None:
        proxy = self._proxy
        queue, outbox = proxy.mailbox.queue, proxy.outbox
        while not self._closing:
            if not outbox.empty:
                await outbox.flush()
            while not queue or proxy.unit is not None or (proxy.held is not None and not proxy.admit):
                self.wake = asyncio.get_running_loop().create_future()
                turn.awake -= 1
                try:
                    await self.wake
                finally:
                    turn.awake += 1
                if not outbox.empty:
                    await outbox.flush()
            end = perf_counter() + turn.share_s()
            while queue and (proxy.held is None or proxy.admit):
                await self._unit(proxy.mailbox.take())
                if perf_counter() >= end:
                    break
            if queue:
                await asyncio.sleep(0)

    async def _unit(self, message: Message) -> None:  # noqa: C901, PLR0912  # the hot path, written out
        proxy = self._proxy
        proxy.unit = message
        if (
            proxy.admit
        ):  # counted when it begins: a unit under way when the switch came was not among the admitted
            proxy.admit -= 1
        if proxy.ticks and message.type[:1] == TIMER_MARK:
            proxy.ticks.discard(message.type[1:])
        handler = proxy.handlers.get(message.type)
        try:
            if handler is None:
                handler = self._unhandled(message)
            result = handler.call(*handler.arguments(message))
            if handler.is_async:
                result = await result
                if proxy.unit is not message:
                    return  # it was cut meanwhile, and is in the dead letters: what it swallowed was its end
        except (
            BaseException
        ) as error:  # CancelledError and SystemExit of a handler are its failures (DESIGN §5)
            if self._closing or (isinstance(error, GeneratorExit) and (handler is None or handler.is_async)):
                raise  # the module is closed, or the loop throws the pump away
            self._failed(message, error, handler)
        else:
            proxy.handled += 1
            if message.reply is not None and not message.reply.done():
                message.reply.set_result(result)
        task = self._task
        if task is not None and task._must_cancel:  # type: ignore[attr-defined]  # noqa: SLF001  # told nowhere else
            await self._outlive(task)
        everything_left = not self._given or self._outbox.let_out()
        if self._written:
            keep_writes(self._written)
        proxy.unit = None
        if self._app.quiesce is not None:
            self._app.quiesce.try_now()
        if not everything_left:
            await self._outbox.flush()

    def answer_at_once(self, message: Message, handler: BoundHandler) -> Any:
        """Run a plain handler here and now, in the task of whoever asks; returns the reply, or raises the failure."""
        proxy = self._proxy
        proxy.mailbox.accepted += 1
        proxy.unit = message
        try:
            result = handler.call(*handler.arguments(message))
        except BaseException as error:  # noqa: BLE001  # the wrapper of a unit catches all (DESIGN §5)
            raise self._failed(message, error, handler) from None
        else:
            proxy.handled += 1
            return result
        finally:
            everything_left = not self._given or self._outbox.let_out()
            if self._written:
                keep_writes(self._written)
            proxy.unit = None
            if self._app.quiesce is not None:
                self._app.quiesce.try_now()
            if proxy.mailbox.queue or not everything_left:
                self.rouse()  # a message that came while we ran, or an output that the pump waits with

    async def _outlive(self, task: asyncio.Task[None]) -> None:
        """Take the cancellation that a unit left behind for the task it ran in, which is the pump of all units."""
        name = self._proxy.name
        logger.bind(module=name).warning("a handler of {} cancelled the task that it runs in", name)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if sys.version_info >= (3, 11):
            task.uncancel()

    def _unhandled(self, message: Message) -> BoundHandler:
        """What to do with a message that the version in service has no handler for. Raises UnknownMessage."""
        if is_tick(self._proxy, message):
            return NOTHING  # a tick of a timer that the version before had
        raise unknown(self._proxy, message)

    def _failed(self, message: Message, error: BaseException, handler: BoundHandler | None) -> ModuleError:
        """A unit that raised: it sends nothing, its message goes to the dead letters; returns what an asker gets."""
        proxy = self._proxy
        self._given.clear()
        if self._written:
            undo_writes(self._written)
        if handler is None and isinstance(error, UnknownMessage):
            failure: ModuleError = error
        else:
            failure = failure_of(proxy, message, error)
        bury(proxy, message, failure)
        return failure
