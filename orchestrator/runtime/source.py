"""One source: a connection or the like, read by a task of its own in an @intake(each=True) (DESIGN §5, attach)."""

from __future__ import annotations

import asyncio
import errno
import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.runtime.clock import look_away
from orchestrator.runtime.errors import Overrun, error_text
from orchestrator.runtime.guard import runs_now, was_cancelled
from orchestrator.runtime.message import TIMER_MARK, Message
from orchestrator.runtime.reader import Reader
from orchestrator.runtime.resources import close_object

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.sources import Sources

SourceId = str | int
#: What an operating system answers for a connection that is no more, beside the ConnectionErrors.
GONE = frozenset(
    {errno.EBADF, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
)


class SourceReader(Reader):
    """Reads one source. At its end the module gets `<name>.closed`, and when that was handled the source is closed."""

    __slots__ = ("_closed", "_left", "_opening", "_sources", "_told", "id", "source")

    def __init__(self, name: str, id_: SourceId, source: object, sources: Sources) -> None:
        self.id = id_
        self.source = source
        self._sources = sources
        self._opening = inspect.isawaitable(source)
        self._left: str | None = None  # why it ends, though there may be more to read
        self._told = False  # that it ended
        self._closed = False
        super().__init__(name, sources.proxy, sources.failed)
        if not self._opening:
            sources.opened(self)

    @property
    def label(self) -> str:
        return f"intake {self.proxy.name}.{self.name} of {self.id!r}"

    # -- what others do to it ----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more for now."""
        if not self._told:
            self.stop()

    def go_on(self) -> None:
        """Read again after a pause."""
        if self._stopping and self._left is None and not self._told:
            self._stopping = False
            if self.task.done():
                self.task = asyncio.get_running_loop().create_task(self._run(), name=self.label)

    def leave(self, reason: str) -> None:
        """Read no more, and tell the module why. The source is closed later, by `close`."""
        self._left = reason
        self.stop()
        if self._opening or self._told:
            self.task.cancel()
        elif self.task.done():
            self._tell(reason)

    def drop(self) -> None:
        """Read no more, and tell nobody: it was the module's own wish."""
        if self._told:
            self.task.cancel()
        self._told = True
        self.stop()
        if self._opening:
            self.task.cancel()

    async def close(self) -> None:
        """Close the source, once."""
        if self._closed or self._opening:
            return
        self._closed = True
        source, self.source = self.source, None
        try:
            await close_object(source)
        except BaseException as error:  # it is gone in any case
            cut = isinstance(error, asyncio.CancelledError) and was_cancelled()
            if cut or isinstance(error, (GeneratorExit, Overrun)):
                raise
            logger.bind(module=self.proxy.name).debug("closing {}: {}", self.label, error_text(error))

    # -- its task ----------------------------------------------------------------------------------------------

    def _reads(self, implementation: Implementation) -> bool:
        return self.name in implementation.blueprint.each

    def _read(self, implementation: Implementation) -> Awaitable[object]:
        given: Awaitable[object] = getattr(implementation.instance, self.name)(self.source)
        return given

    def _body(self, item: object) -> object:
        return {"source": self.id, "item": item}

    def _end_of(self, error: BaseException) -> str | None:
        if isinstance(error, asyncio.IncompleteReadError):
            return f"it ended, {len(error.partial)} bytes into an item" if error.partial else "it ended"
        if isinstance(error, EOFError):
            return str(error) or "it ended"
        if isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno in GONE):
            return error_text(error)
        return None

    async def _run(self) -> None:
        if self._opening and not await self._open():
            return
        await super()._run()
        if self._left is not None:
            self._tell(self._left)

    async def _open(self) -> bool:
        """Wait for a source that was given while it is being opened; a swap does not interrupt that."""
        opening, self.source = self.source, None
        try:
            self.source = await opening  # type: ignore[misc]  # it was seen to be awaitable
        except BaseException as error:  # whatever it raises: this source has ended before it began
            if isinstance(error, GeneratorExit) and not runs_now(self.task):
                raise  # the loop throws the task away
            await self._ended(self._left or f"it could not be opened: {error_text(error)}")
            return False
        finally:
            self._opening = False
        self._sources.opened(self)
        return True

    def ending(self, reason: str) -> Message:
        """The message that tells of its end."""
        body = {"source": self.id, "reason": reason}
        return self.proxy.app.message(f"{self.name}.closed", body, self.proxy.name)

    def _tell(self, reason: str) -> asyncio.Future[object] | None:
        """Put the end before the module, behind all that the source gave; returns what is done when it was handled.

        If the module has no handler for it, a message of the runtime's own takes its turn, and does nothing.
        """
        proxy, type_ = self.proxy, f"{self.name}.closed"
        heard = type_ in proxy.handlers
        waits = self._left is None and bool(
            proxy.handlers
        )  # a module that was removed handles nothing any more
        if self._told or not (heard or waits):
            return None
        self._told = True
        nothing = TIMER_MARK + type_
        message = self.ending(reason) if heard else proxy.app.message(nothing, None, proxy.name)
        handled: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        handled.add_done_callback(look_away)
        message.reply = handled
        proxy.accept(message)
        return handled

    async def _ended(self, reason: str) -> None:
        """Tell the module, and close the source once it has handled that: until then it may still be written to."""
        handled = self._tell(reason)
        if handled is not None and self._left is None:
            try:
                await asyncio.wait([handled])
            except asyncio.CancelledError:
                return  # the module or the host stops, which closes all sources
            self._sources.forget(self)
            await self.close()
