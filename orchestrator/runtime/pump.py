"""The pump: runs the units of work of one module, one at a time and in order (DESIGN §5).

One task takes message after message from the mailbox; an ask of an idle module may be answered in the asker's own task
instead. In both cases what the unit sends leaves when it ends, and between two units a switch may happen.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from loguru import logger

from orchestrator.runtime.errors import (
    HandlerFailed,
    Leaving,
    ModuleError,
    Stalled,
    UnknownMessage,
    error_text,
)
from orchestrator.runtime.failures import bury_failed, failure_of, is_tick, unknown
from orchestrator.runtime.implementation import NOTHING
from orchestrator.runtime.message import ASKED_BY, TEST_MARK, TIMER_MARK, Message
from orchestrator.runtime.overrun import work_off
from orchestrator.runtime.plain import FLAT, check_reply
from orchestrator.runtime.self_tests import SelfTests
from orchestrator.runtime.table_live import keep_writes, undo_writes
from orchestrator.runtime.threads import ThreadCall
from orchestrator.runtime.traces import CUT
from orchestrator.runtime.vitals import UNTIMED

if TYPE_CHECKING:
    from orchestrator.runtime.application import Turn
    from orchestrator.runtime.implementation import BoundHandler
    from orchestrator.runtime.proxy import ModuleProxy


class Pump:
    """The task that handles the messages of one module."""

    __slots__ = (
        "_answered",
        "_app",
        "_closing",
        "_given",
        "_outbox",
        "_proxy",
        "_vitals",
        "_written",
        "body",
        "task",
        "tests",
        "wake",
    )

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._app = proxy.app
        self._outbox = proxy.outbox
        self._given = proxy.outbox.given
        self._written = proxy.written
        self._vitals = proxy.vitals
        self.wake: asyncio.Future[None] | None = None
        self._closing = False
        self._answered: tuple[Message, ModuleError | None] | None = None  # at once, and a task of it goes on
        self.tests = SelfTests(proxy)
        self.task: asyncio.Task[None] | None = None
        self.body: Any = None  # the coroutine of the task: only it tells at no cost whether the pump runs now

    def collect_anew(self) -> None:
        """What units give out is collected elsewhere from now on: the module has become durable, or is no more."""
        self._given = self._outbox.given

    def start(self) -> None:
        """Handle what is in the mailbox, and what comes."""
        if self.task is None:
            self._app.ownership.begin()
            loop, name = asyncio.get_running_loop(), f"pump {self._proxy.name}"
            self.body = self._run()
            # Whatever kind of task the loop's factory makes, this is a plain one.
            self.task = asyncio.Task(self.body, loop=loop, name=name)
            self.task.add_done_callback(self._ended)
        self.rouse()

    async def close(self, reason: str) -> None:
        """Handle nothing more; a unit still under way is cut, sends nothing and goes to the dead letters."""
        proxy = self._proxy
        self._closing = True
        task, self.task = self.task, None
        thread = proxy.thread
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        unit, proxy.unit = proxy.unit, None  # from here its code can neither send nor write
        if proxy.tasks is not None:
            for left in await proxy.tasks.cut(1.0):
                logger.bind(module=proxy.name).warning(
                    "{!r} of {} did not end when it was cancelled; a task may not swallow CancelledError",
                    left,
                    proxy.name,
                )
        self.tests.give_up()
        if unit is not None and unit.type[:1] != TEST_MARK:
            if thread is not None:
                await thread.out_of_the_framework(1.0)  # it may have been let in before
            self._given.clear()
            if proxy.durable is not None:
                proxy.durable.undo()
            undo_writes(self._written)
            waits_on_disk = unit.row and proxy.keeps and not proxy.left  # the next start handles it
            if not waits_on_disk:
                why = Leaving(f"{proxy.name} left service while it was handled: {reason}")
                bury_failed(proxy, unit, why, trace=CUT)

    def rouse(self) -> None:
        """Let the pump look again."""
        self._outbox.look_again()
        wake = self.wake
        if wake is not None:
            self.wake = None
            if not wake.done():
                wake.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only closing ends a pump; anything else is a fault of the runtime, and must not be silent.

        Or of what a unit awaited: Python closes the whole chain of coroutines that meets a GeneratorExit, up to this task.
        """
        self._app.ownership.end()
        error = None if task.cancelled() or self._closing else task.exception()
        if isinstance(error, GeneratorExit):
            self._go_on_after(error)
        elif error is not None:
            logger.bind(module=self._proxy.name).opt(exception=error).critical(
                "{} handles nothing more: its pump ended by {}. Restart the host; this is a bug of livetag.",
                self._proxy.name,
                error_text(error),
            )

    def _go_on_after(self, error: GeneratorExit) -> None:
        """The unit that raised it has failed; the next ones have a task of their own."""
        unit, self.task = self._proxy.unit, None
        if unit is not None:
            failure = self._raised(unit, error)
            if self._proxy.tasks is None:
                self._end(unit, failure)
            else:
                self._answered = unit, failure
        self.start()

    async def _run(self) -> None:
        turn = self._proxy.app.turn
        turn.awake += 1
        try:
            await self._until_closed(turn)
        finally:
            turn.awake -= 1

    async def _until_closed(self, turn: Turn) -> None:  # noqa: C901  # the hot path, written out
        proxy = self._proxy
        queue, outbox, tests = proxy.mailbox.queue, proxy.outbox, self.tests
        while not self._closing:
            if not outbox.empty and proxy.unit is None:  # else it is of the unit that was answered at once
                await outbox.flush()
            if tests.due:
                await tests.run()
            while not queue or proxy.unit is not None or (proxy.held is not None and not proxy.admit):
                if self._answered is not None:
                    await self._end_what_was_answered()
                    continue
                if tests.due:
                    await tests.run()
                    continue
                self.wake = asyncio.get_running_loop().create_future()
                turn.awake -= 1
                try:
                    await self.wake
                finally:
                    turn.awake += 1
                if not outbox.empty and proxy.unit is None:
                    await outbox.flush()
            end = perf_counter() + turn.share_s()
            while queue and (proxy.held is None or proxy.admit):
                if outbox.owes and proxy.held is None:
                    await work_off(proxy, self._unit)
                    continue
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
        failure: ModuleError | None = None
        vitals = self._vitals
        began = vitals.now() if vitals.slow_s is not None or not proxy.handled & UNTIMED else None
        try:
            if handler is None:
                handler = self._unhandled(message)
            result = handler.call(*handler.arguments(message))
            if handler.is_async:
                result = await result
                if proxy.unit is not message:
                    return  # it was cut meanwhile, and is in the dead letters: what it swallowed was its end
            if result.__class__ not in FLAT and message.reply is not None:
                check_reply(result)
        except (
            BaseException
        ) as error:  # CancelledError and SystemExit of a handler are its failures (DESIGN §5)
            if self._closing or (isinstance(error, GeneratorExit) and (handler is None or handler.is_async)):
                raise  # the module is closed, the loop throws the pump away; or see _ended()
            failure = self._failure(message, error, handler)
            self._forgive()
            if message.reply is not None and proxy.durable is None and not message.reply.done():
                message.reply.set_exception(failure)
        else:
            if message.reply is not None and not message.reply.done():
                if proxy.durable is None:
                    message.reply.set_result(result)
                else:
                    proxy.durable.reply = result  # it leaves once the unit is on disk
        task = self.task
        if task is not None and task._must_cancel:  # type: ignore[attr-defined]  # noqa: SLF001  # told nowhere else
            await self._outlive()
        if proxy.tasks is not None:
            failure = await self._tasks_ended(message, failure)
            if proxy.unit is not message:
                return
        if began is not None:
            vitals.took(vitals.now() - began)
        if not self._end(message, failure):
            await self._until_it_left()

    def answer_at_once(self, message: Message, handler: BoundHandler) -> Any:
        """Run a plain handler here and now, in the task of whoever asks; returns the reply, or raises the failure.

        If it started a task, the pump waits for that, and then ends the unit.
        """
        proxy = self._proxy
        proxy.mailbox.accepted += 1
        proxy.unit = message
        failure, result = None, None
        vitals = self._vitals
        began = vitals.now() if vitals.slow_s is not None or not proxy.handled & UNTIMED else None
        try:
            result = handler.call(*handler.arguments(message))
            if result.__class__ not in FLAT:
                check_reply(result)
        except BaseException as error:  # noqa: BLE001  # the wrapper of a unit catches all (DESIGN §5)
            message.trace = ASKED_BY
            failure = self._failure(message, error, handler)
        if began is not None:
            vitals.took(vitals.now() - began)
        if proxy.tasks is not None:
            message.path, message.trace = (), ASKED_BY  # who asked has the reply, and waits no more
            self._answered = message, failure
            self.rouse()
        else:
            everything_left = self._end(message, failure)
            if proxy.mailbox.queue or not everything_left:
                self.rouse()  # a message that came while we ran, or an output that the pump waits with
        if failure is None:
            return result
        try:
            raise failure  # here, so that the author's error is not its context: who asked may keep it
        finally:
            del failure, handler, result  # it holds this frame: a circle, and the version

    def _end(self, message: Message, failure: ModuleError | None) -> bool:
        """End the unit: what it gave out leaves, then the next may begin; False: an output waits for room first."""
        proxy = self._proxy
        if proxy.durable is not None:
            return proxy.durable.end(message, failure)
        if failure is None:
            proxy.handled += 1
        else:  # it sends nothing, and its writes to tables are undone
            self._given.clear()
            if self._written:
                undo_writes(self._written)
            bury_failed(proxy, message, failure)
        everything_left = not self._given or self._outbox.let_out()
        if self._written:
            keep_writes(self._written)
        proxy.unit = None
        if self._app.at_boundary:
            for each in self._app.at_boundary:
                each.try_now()
        return everything_left

    async def _end_what_was_answered(self) -> None:
        """End a unit that was answered at once, when the tasks that it started have ended."""
        assert self._answered is not None  # noqa: S101  # looked at before the call
        (message, failure), self._answered = self._answered, None
        failure = await self._tasks_ended(message, failure)
        if self._proxy.unit is message and not self._end(message, failure):
            await self._until_it_left()

    async def _until_it_left(self) -> None:
        """Return when the next unit may begin, after one that could not give out all at once."""
        if self._proxy.durable is not None:
            await self._proxy.durable.room()
        await self._outbox.flush()

    async def _tasks_ended(self, message: Message, failure: ModuleError | None) -> ModuleError | None:
        """Wait for the tasks of the unit; returns why it failed, if it did, by itself or by a task nobody looked at."""
        proxy = self._proxy
        tasks = proxy.tasks
        assert tasks is not None  # noqa: S101  # looked at before the call
        if proxy.durable is None:
            message.path = ()  # who asked has the reply, and waits no more
        while tasks.open:
            try:
                await tasks.ended()
            except asyncio.CancelledError:
                if self._closing:
                    raise
                self._forgive()
        proxy.tasks = None
        error = tasks.error()
        return self._raised(message, error) if failure is None and error is not None else failure

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a handler in a thread; the unit is done when the thread's function has returned, and not before."""
        proxy = self._proxy
        name = f"{proxy.name}.{function.__name__}"
        call = proxy.thread = ThreadCall(
            name, function, arguments
        )  # known before it runs: its code may send at once
        try:
            self._app.threads.begin(call)
            while not call.ended.done():
                try:
                    await asyncio.wait([call.ended])
                except asyncio.CancelledError:
                    if self._closing:
                        raise
                    self._forgive()
        finally:
            proxy.thread = None
        return call.outcome()

    async def _outlive(self) -> None:
        """Take the cancellation that a unit left behind for the task it ran in, which is the pump of all units."""
        name = self._proxy.name
        logger.bind(module=name).warning("a handler of {} cancelled the task that it runs in", name)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        self._forgive()

    def _forgive(self) -> None:
        """Forget that author code cancelled the task of all units: timeouts and task groups of later ones look at that."""
        if sys.version_info >= (3, 11) and self.task is not None:
            while self.task.cancelling():
                self.task.uncancel()

    def _unhandled(self, message: Message) -> BoundHandler:
        """What to do with a message that the version in service has no handler for. Raises UnknownMessage."""
        if is_tick(self._proxy, message):
            return NOTHING  # a tick of a timer that the version before had
        raise unknown(self._proxy, message)

    def _failure(self, message: Message, error: BaseException, handler: BoundHandler | None) -> ModuleError:
        """What an asker gets of a unit that failed."""
        if handler is None and isinstance(error, UnknownMessage):
            return error.with_traceback(None)  # the frames hold it: a circle that would hold the version, too
        return self._raised(message, error)

    def _raised(self, message: Message, error: BaseException) -> ModuleError:
        """The author's code raised; that it was interrupted is told in the log, too."""
        failure = failure_of(self._proxy, message, error)
        if isinstance(
            failure, HandlerFailed
        ):  # else what was sent did not fit, which is not this version's doing
            self._vitals.failed += 1
        if isinstance(error, Stalled):
            self._vitals.stalls += 1
            logger.bind(module=self._proxy.name).error("{}", failure)
        return failure
