"""A durable module: what each of its units writes, and what leaves once that is on disk (DESIGN §6 P2, §7).

A unit's end is one write: its Table records, `self.state` if it changed, the removal of its input, and what it sent to
durable modules, which is in their inboxes with it. The next unit begins at once; replies, and what goes to modules in
memory, wait until the write is on disk, in order. So a kill at any moment leaves each unit done or never begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.runtime.clock import within
from orchestrator.runtime.durability import (
    STATE_BYTES_MAX,
    InboxGone,
    InboxRow,
    RecordRow,
    StateRow,
    Write,
)
from orchestrator.runtime.errors import AskTimeout, DurabilityLost, ModuleError, StateInvalid
from orchestrator.runtime.failures import bury, bury_failed, failure_of
from orchestrator.runtime.message import TIMER_MARK, Message, encode_message
from orchestrator.runtime.plain import apart
from orchestrator.runtime.rest import Resting
from orchestrator.runtime.table_live import keep_writes, undo_writes
from orchestrator.runtime.table_store import TableStore, plain_key

if TYPE_CHECKING:
    from orchestrator.runtime.outbox import Output
    from orchestrator.runtime.proxy import ModuleProxy

UNITS_AHEAD_MAX = 1024  # units of one module that have ended and are not on disk; the next one waits

_KEYS = msgspec.msgpack.Encoder()


class _Ended(msgspec.Struct, frozen=True):
    """A unit that has ended, and what leaves of it."""

    outputs: list[Output]
    reply: asyncio.Future[object] | None
    result: object
    failure: ModuleError | None


class Durable:
    """The durable side of one module. `stores` is False once a release is no longer durable: then it only lets out the rest."""

    __slots__ = ("_ahead", "_converting", "_disk", "_proxy", "_room", "package", "reply", "state", "stores")

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self._disk = proxy.app.durability
        self._ahead: deque[_Ended] = deque()
        self._room: asyncio.Future[None] | None = None
        self._converting: list[TableStore] = []
        self.reply: object = None  # of the unit that ends
        self.package = ""
        self.state = b""  # as it was queued last
        self.stores = True

    # -- service -----------------------------------------------------------------------------------------------

    def attach(self, package: str, state: bytes) -> None:
        """A version enters service, whose state is queued as these bytes. Cannot raise."""
        self.package, self.state, self.stores = package, state, True
        self._converting = [store for store in self._proxy.tables.stores.values() if store.layers]
        for store in self._proxy.tables.stores.values():
            store.converted = [] if store.layers else None
        self._disk.put(
            ()
        )  # its replies wait for what was queued with the decision, also if they changed nothing

    def let_go(self) -> None:
        """The module is durable no more: nothing is written, what waits for the disk still leaves after it."""
        self.stores = False
        for store in self._proxy.tables.stores.values():
            store.converted = None

    def stop(self, why: str) -> None:
        """The disk has failed: handle nothing more. What was handled and not written is decided by the restart."""
        proxy = self._proxy
        if self.stores:
            proxy.rest(Resting(self._lost(why)))

    @property
    def failed(self) -> DurabilityLost | None:
        """Why it takes no message, or None."""
        return DurabilityLost(self._lost(self._disk.failed)) if self._disk.failed and self.stores else None

    def _lost(self, why: str) -> str:
        return f"{self._proxy.name} is durable and handles nothing until the host is restarted: {why}"

    # -- receiving ---------------------------------------------------------------------------------------------

    def take_in(self, message: Message, sender: ModuleProxy | None) -> bool:
        """A message is about to be accepted: into the inbox on disk, too, unless it is an ask or a tick.

        False: it cannot be, and is a dead letter. Who asks dies with the host, and a tick nobody sent.
        """
        if not self.stores:
            return True
        if self._disk.failed is not None:
            bury(self._proxy, message, DurabilityLost(self._lost(self._disk.failed)))
            return False
        if message.reply is not None or message.type[:1] == TIMER_MARK:
            return True
        try:
            data = encode_message(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            bury(
                self._proxy,
                message,
                StateInvalid(f"its body is not plain data, so it cannot be kept: {error}"),
            )
            return False
        message.row = self._disk.next_row()
        self._disk.add(InboxRow(message.row, self._proxy.name, data))
        if sender is not None:
            sender.stored = self._disk.number
        return True

    def withdrawn(self, message: Message) -> None:
        """It was never accepted: its sender waited for room and gave up, or a newer one takes its place."""
        if message.row:
            self._disk.add(InboxGone(message.row))
            message.row = 0

    async def accepted(self) -> None:
        """Return when what was accepted up to now is on disk. Raises DurabilityLost."""
        try:
            await self._disk.settled()
        except DurabilityLost as error:
            if self.stores:
                raise self.failed or error from None
            return  # it is a module in memory by now, which has the message and serves on
        if self.failed is not None:
            raise self.failed

    # -- a unit ------------------------------------------------------------------------------------------------

    def end(self, message: Message, failure: ModuleError | None) -> bool:
        """End the unit. False: the pump has to wait before the next one: for room at a target, or for the disk."""
        proxy, disk, given = self._proxy, self._disk, self._proxy.outbox.given
        rest: list[Output] = []
        # As it is now: it waits for the disk, while later units change the state that it may be a part of.
        reply, self.reply = apart(self.reply) if failure is None else None, None
        disk.begin()
        try:
            if self.failed is not None:
                failure = self.failed
                self.undo()
            else:
                failure = failure or self._keep(message)
                if failure is None:
                    proxy.handled += 1
                    rest = self._give(given)
                else:
                    self.undo()
                    bury_failed(proxy, message, failure, answer=False)
                if message.row:
                    disk.add(InboxGone(message.row))
        finally:
            given.clear()
            number = disk.end()
        proxy.unit = None
        message.path = ()  # who asked waits for the disk alone
        self._ahead.append(_Ended(rest, message.reply, reply, failure))
        if self.stores or len(self._ahead) > 1:
            disk.then(number, self._out)
        else:
            self._out(None)  # nothing of it is written, and nothing before it waits
        if not self.stores and not self._ahead and proxy.outbox.empty:
            proxy.become_volatile()
        for each in proxy.app.at_boundary:
            each.try_now()
        return proxy.outbox.empty and len(self._ahead) < UNITS_AHEAD_MAX

    def _keep(self, message: Message) -> ModuleError | None:
        """Write what the unit changed; or why it cannot be written, and then nothing was."""
        proxy, disk, implementation = self._proxy, self._disk, self._proxy.implementation
        if not self.stores or implementation is None:
            keep_writes(proxy.written)
            return None
        codec = implementation.blueprint.codec
        try:
            data = codec.encode(implementation.state)
            if data != self.state:
                check_size(data)
                codec.decode(data)  # what could not be read back must not be what a restart finds
            rows = [
                record_row(proxy.name, table.store.name, key, record, table.store.version)
                for table in proxy.written
                for key, record in table.changed().items()
            ]
        except (StateInvalid, AttributeError, TypeError, ValueError, OverflowError) as error:
            proxy.vitals.failed += 1
            return failure_of(proxy, message, error)
        self.write_converted()
        for row in rows:
            disk.add(row)
        keep_writes(proxy.written)
        if data != self.state:
            self.state = data
            disk.add(StateRow(proxy.name, self.package, implementation.blueprint.state_version, data))
        return None

    def undo(self) -> None:
        """The unit raised, or was cut: Tables and `self.state` are as they were when it began."""
        proxy = self._proxy
        proxy.outbox.given.clear()
        undo_writes(proxy.written)
        implementation = proxy.implementation
        if self.stores and implementation is not None:
            implementation.state = implementation.blueprint.codec.decode(self.state)
            self.write_converted()

    def write_converted(self) -> None:
        """Queue the records that were migrated by a touch or by the sweep: a step is pure, so whoever did it may fail."""
        for store in self._converting:
            if store.converted:
                self._disk.begin()
                for key, record in store.converted:
                    self._disk.add(record_row(self._proxy.name, store.name, key, record, store.version))
                self._disk.end()
                store.converted = []

    # -- what leaves -------------------------------------------------------------------------------------------

    def _give(self, given: deque[Output]) -> list[Output]:
        """Into the inboxes of durable targets, as part of the write; returns what leaves after it, in order."""
        proxy, outbox, app = self._proxy, self._proxy.outbox, self._proxy.app
        rest: list[Output] = []
        for output in given:
            if output.type is None:
                app.events.note(output.name, proxy.name)
                for subscription in app.events.subscribers(output.name):
                    if subscription.proxy.keeps:
                        outbox.give(subscription, output)
                    else:
                        rest.append(msgspec.structs.replace(output, subscription=subscription))
                continue
            target = app.names.find(output.name)
            if target is not None and target.keeps:
                outbox.put(target, output)
            elif target is None and output.until is None:
                outbox.unbound(output, output.type)
            else:
                rest.append(outbox.promised(output) if target is None else output)
        return rest

    def hand_in(self) -> None:
        """Names and subscriptions have moved: what waits and is for durable modules now goes there, in order.

        What later units send to them goes there at once, and must not come before it.
        """
        queue = self._proxy.outbox.queue
        waiting = list(queue)
        queue.clear()
        queue.extend(self._hand_in(waiting))
        for ended in self._ahead:
            ended.outputs[:] = self._hand_in(ended.outputs)

    def _hand_in(self, outputs: Iterable[Output]) -> list[Output]:
        """Returns what is not for durable modules."""
        rest, outbox, app = [], self._proxy.outbox, self._proxy.app
        for output in outputs:
            if output.subscription is not None and output.subscription.proxy.keeps:
                outbox.give(output.subscription, output)
                continue
            target = app.names.find(output.name) if output.type is not None else None
            if target is not None and target.keeps:
                outbox.put(target, output)
            else:
                rest.append(output)
        return rest

    def _out(self, error: str | None) -> None:
        """The oldest unit that has ended is on disk, or will not be: what it gave out leaves, or never does."""
        proxy = self._proxy
        ended = self._ahead.popleft()
        failure = ended.failure if error is None else DurabilityLost(self._lost(error))
        if ended.reply is not None and not ended.reply.done():
            if failure is None:
                ended.reply.set_result(ended.result)
            else:
                ended.reply.set_exception(failure)
        if ended.outputs and error is None:
            proxy.outbox.queue.extend(ended.outputs)
            if not proxy.outbox.let_out():
                proxy.pump.rouse()  # it waits with the next unit until there is room
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def room(self) -> None:
        """Return when another unit may end without being too far ahead of the disk."""
        while len(self._ahead) >= UNITS_AHEAD_MAX:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def before_ask(self, name: str, type_: str, timeout_s: float) -> float:
        """Return when all that came before is on disk: an ask carries what is; returns how much of its time is left.

        What the unit itself has sent leaves with its end, after the ask. Raises AskTimeout, DurabilityLost.
        """
        clock = self._proxy.app.clock
        deadline = clock.now() + timeout_s
        try:
            await within(clock, self._disk.settled(), timeout_s)
        except TimeoutError:
            raise AskTimeout(
                f"{name} was not asked {type_!r}: what {self._proxy.name} did before was not on disk in {timeout_s:g} s."
            ) from None
        return deadline - clock.now()


def check_size(data: bytes) -> None:
    """Raises StateInvalid for a state that is too large to be written whole at the end of each unit."""
    if len(data) > STATE_BYTES_MAX:
        raise StateInvalid(
            f"self.state is {len(data)} bytes, and that of a durable module may be {STATE_BYTES_MAX}, as it is written "
            "whole. Keep what grows in a Table, of which only the records that changed are written."
        )


def record_row(module: str, table: str, key: Any, data: bytes | None, version: int) -> RecordRow:
    """A record as it is written."""
    return RecordRow(module, table, _KEYS.encode(plain_key(key)), version, data)


def all_rows(module: str, stores: dict[str, TableStore]) -> list[Write]:
    """Every record that there is, each in the version that it has."""
    rows: list[Write] = []
    for store in stores.values():
        for version, shards in (
            (store.version, store.shards),
            *((la.version, la.shards) for la in store.layers),
        ):
            for shard in shards:
                rows += [record_row(module, store.name, key, data, version) for key, data in shard.items()]
    return rows
