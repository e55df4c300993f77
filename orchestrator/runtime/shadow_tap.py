"""The tap: notes each unit of one module, of the version in service or of its shadow (DESIGN §6, a shadow).

A module without a tap pays nothing for there being taps: while one is attached the pump is one of another class, and the
instance speaks by another voice; neither path has a question in it. What the tap notes must never harm the unit: whatever
goes wrong in noting ends the tap, and the unit goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.runtime.errors import ModuleError, Overrun, Stalled, error_text
from orchestrator.runtime.plain import apart
from orchestrator.runtime.pump import Pump
from orchestrator.runtime.shadow_record import UNKNOWN, Asked, UnitRecord
from orchestrator.runtime.voice import Voice, typed

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import BoundHandler
    from orchestrator.runtime.message import Message
    from orchestrator.runtime.proxy import ModuleProxy
    from orchestrator.runtime.table_live import LiveTable


class Tap:
    """Attached to one module."""

    __slots__ = ("_at_once", "_pump", "_voice", "broken", "notes_units", "proxy", "record", "watcher")

    def __init__(
        self, proxy: ModuleProxy, watcher: Watcher, pump: type[TappedPump], voice: Voice | None
    ) -> None:
        """`voice`: by which the instance speaks meanwhile; None: it has the right one already."""
        self.proxy = proxy
        self.watcher: Watcher | None = watcher
        self.record: UnitRecord | None = None  # of the unit under way
        self.broken = ""  # why nothing is noted any more
        self.notes_units = True  # False: only what they write to Tables is told
        self._pump = pump
        self._voice = voice
        self._at_once: UnitRecord | None = None  # that has ended, and its reply is still to come

    def attach(self) -> None:
        """Each unit from the next one on is noted. Between two units."""
        proxy = self.proxy
        proxy.tap = self
        proxy.pump.__class__ = self._pump
        if self._voice is not None and proxy.implementation is not None:
            proxy.implementation.instance._voice = self._voice  # noqa: SLF001  # the runtime is its other side

    def detach(self) -> None:
        """Note nothing more: the module is as if there had never been a tap. Also right in the middle of a unit."""
        proxy, self.watcher, self.record, self._at_once = self.proxy, None, None, None
        if proxy.tap is not self:
            return
        proxy.tap = None
        proxy.pump.__class__ = Pump
        instance = proxy.implementation.instance if proxy.implementation is not None else None
        if instance is not None and self._voice is not None and instance._voice is self._voice:  # noqa: SLF001
            instance._voice = proxy.voice  # noqa: SLF001

    def guarded(self, note: Callable[..., None], *arguments: Any) -> None:
        """Note something; what fails in it must not be the unit's failure."""
        try:
            note(*arguments)
        except Exception as error:  # noqa: BLE001  # a body that is no plain data, a bug of ours: the service goes on
            watcher, self.broken = self.watcher, error_text(error)
            self.detach()
            if watcher is not None:
                watcher.broke(self.broken)

    # -- what the pump tells -----------------------------------------------------------------------------------

    def begins(self, message: Message, at_once: bool) -> None:
        """A unit is about to begin; `at_once`: in the task of who asks."""
        if self.watcher is not None and self.notes_units:
            self.record = UnitRecord(message, at_once=at_once, began_s=perf_counter())

    def replied(self, message: Message) -> None:
        """The unit's function has returned: the reply as it is now, before who asked can change it."""
        record, reply = self.record, message.reply
        if record is None or reply is None or record.reply is not UNKNOWN:
            return
        durable = self.proxy.durable
        if durable is not None and not reply.done():
            record.reply = apart(durable.reply)
        elif reply.done() and not reply.cancelled() and reply.exception() is None:
            record.reply = apart(reply.result())

    def interrupted(self) -> None:
        """The unit's code did not return and was interrupted."""
        if self.record is not None:
            self.record.hung = True

    def ending(self, message: Message) -> None:
        """The unit is about to end: what it wrote is still told apart from what was there."""
        self.replied(message)
        if (watcher := self.watcher) is not None:
            for table in self.proxy.written:
                watcher.wrote(table)

    def ended(self, failed: str) -> None:
        """The unit has ended, and the next one may begin."""
        record, self.record = self.record, None
        if (watcher := self.watcher) is not None and record is not None:
            record.took_s = perf_counter() - record.began_s
            record.failed = failed
            if record.at_once and record.reply is UNKNOWN and not failed:
                self._at_once = record  # its asker has the reply in a moment
            else:
                watcher.ended(record)

    def answered(self, result: object) -> None:
        """An ask was answered at once: its unit has ended, or waits for tasks that it has started."""
        if (record := self._at_once) is not None:
            self._at_once = None
            record.reply = apart(result)
            if self.watcher is not None:
                self.watcher.ended(record)
        elif self.record is not None:
            self.record.reply = apart(result)

    # -- what the voice tells ----------------------------------------------------------------------------------

    def said(self, name: str, type_: str | None, body: object) -> None:
        if self.record is not None:
            self.record.says(name, type_, body)

    def asks(self, name: str, type_: str, body: object) -> Asked | None:
        """Note that the unit asks; what comes of it is put into what is returned."""
        if self.record is None:
            return None
        asked = Asked(name, type_, body)
        self.record.asks.append(asked)
        return asked


class Watcher(Protocol):
    """Who is told of each unit, between two of them, and never to wait."""

    def wrote(self, table: LiveTable) -> None:
        """The unit that ends has written to a Table, which still knows what was there before."""

    def ended(self, record: UnitRecord) -> None:
        """A unit has ended."""

    def broke(self, why: str) -> None:
        """Nothing can be noted any more."""


class TappedPump(Pump):
    """The pump of a module with a tap. The units themselves run in `Pump`, as ever: it is found on their stacks.

    Never by `super()`: a tap that breaks makes this a plain pump again in the middle of a call.
    """

    __slots__ = ()

    async def _unit(self, message: Message) -> None:
        tap = self._proxy.tap
        if tap is not None:
            tap.guarded(tap.begins, message, False)
        await Pump._unit(self, message)  # noqa: SLF001  # a pump itself

    def answer_at_once(self, message: Message, handler: BoundHandler) -> Any:
        tap = self._proxy.tap
        if tap is None:
            return Pump.answer_at_once(self, message, handler)
        tap.guarded(tap.begins, message, True)
        result = Pump.answer_at_once(self, message, handler)
        tap.guarded(tap.answered, result)
        return result

    async def _tasks_ended(self, message: Message, failure: ModuleError | None) -> ModuleError | None:
        tap = self._proxy.tap
        if tap is not None:
            tap.guarded(tap.replied, message)
        return await Pump._tasks_ended(self, message, failure)  # noqa: SLF001

    def _failure(self, message: Message, error: BaseException, handler: BoundHandler | None) -> ModuleError:
        if isinstance(error, (Stalled, Overrun)) and self._proxy.tap is not None:
            self._proxy.tap.interrupted()
        return Pump._failure(self, message, error, handler)  # noqa: SLF001

    def _end(self, message: Message, failure: ModuleError | None) -> bool:
        proxy = self._proxy
        tap, dead = proxy.tap, proxy.dead
        if tap is not None:
            tap.guarded(tap.ending, message)
        everything_left = Pump._end(self, message, failure)  # noqa: SLF001
        if tap is not None:
            # A durable unit may fail at its very end: its state is too large.
            failed = str(failure or "its end") if proxy.dead != dead else ""
            tap.guarded(tap.ended, failed)
        return everything_left


class TappedVoice(Voice):
    """The voice of the version in service while there is a tap: it says what it says, and that is noted."""

    __slots__ = ()

    def send(self, name: str, type_: str, body: object, wait_s: float | None = None) -> None:
        super().send(name, type_, body, wait_s)
        if (tap := self.proxy.tap) is not None:
            tap.guarded(tap.said, name, type_, body)

    def publish(self, topic: str, body: object) -> None:
        super().publish(topic, body)
        if (tap := self.proxy.tap) is not None:
            tap.guarded(tap.said, topic, None, body)

    async def ask(self, name: str, type_: str, body: object, timeout_s: float, returns: Any) -> Any:
        tap, asked = self.proxy.tap, None
        if tap is not None:
            try:
                asked = tap.asks(name, type_, body)
            except Exception as error:  # noqa: BLE001  # a body that is no plain data is refused below, as ever
                del error
        try:
            reply = await super().ask(name, type_, body, timeout_s, None)
        except ModuleError as error:
            if asked is not None:
                asked.error = type(error)(str(error))
            raise
        if asked is not None:
            asked.reply = apart(reply)
        return reply if returns is None else typed(reply, returns, name, type_)
