"""A durable module in a switch: what is written with COMMITTED, in the same write (DESIGN §7.6).

The state in the schema of the version that comes; of a module that becomes durable, its Tables, its dead letters and what
waits for it, too.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec

from orchestrator.runtime.application import Application
from orchestrator.runtime.durability import Forget, InboxRow, LetterRow, StateRow, Write
from orchestrator.runtime.durable import all_rows, check_size, record_row
from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.message import TIMER_MARK, Message, encode_message
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.table_replace import Replacement
from orchestrator.runtime.tables import ModuleTables
from orchestrator.upgrade.errors import PauseExceeded, VoteRefused
from orchestrator.upgrade.incoming import Incoming, KeptState

RECORDS_MAX = 10_000  # that a module may have in Tables when it becomes durable: they are copied in the pause
WAITING_MAX = 5_000  # messages and dead letters that it may have then: they are encoded in the pause


class DurableSide:
    """What one participant of a transaction has to do with the disk."""

    def __init__(
        self, proxy: ModuleProxy, package: str, incoming: Incoming | None, kept: KeptState | None
    ) -> None:
        self._proxy = proxy
        self._package = package
        self._kept = kept
        self.before = proxy.keeps
        self.after = incoming is not None and incoming.durable
        self._state = b""
        self._letters: list[LetterRow] = []  # those that it has had in memory

    @property
    def _rows_are_there(self) -> bool:
        return self.before or (self._kept is not None and self._kept.stored)

    def check(self, tables: ModuleTables) -> None:
        """May it become durable? Raises VoteRefused."""
        count = sum(map(len, tables.stores.values()))
        if self.after and not self._rows_are_there and count > RECORDS_MAX:
            raise VoteRefused(
                f"it becomes durable with {count} records in its Tables, and {RECORDS_MAX} can be written in a pause. "
                "Release it durable with empty Tables: `livetag state NAME --export FILE` first, then move the records to a "
                "Table of another name in small units, or remove the module, push it durable, and "
                "`livetag state NAME --import FILE`"
            )

    def writes(
        self, new: Implementation | None, state: object, tables: ModuleTables, *, same: bool
    ) -> list[Write]:
        """What goes with COMMITTED; `same`: the state is by reference that of the version before. Raises VoteRefused.

        `tables` are those before the switch. Of a module that leaves the rows stay: they are what is kept of it.
        """
        if new is None:
            return []
        if not self.after:
            return [Forget(self._proxy.name)] if self._rows_are_there else []
        durable = self._proxy.durable
        try:
            self._state = new.blueprint.codec.encode(state)
            if self.before and same and durable is not None and durable.state == self._state:
                return []  # else hand_over() has changed it: what serves must be what is on disk
            check_size(self._state)
            new.blueprint.codec.decode(self._state)
        except StateInvalid as error:
            raise VoteRefused(str(error).rstrip(".")) from None
        row = StateRow(self._proxy.name, self._package, new.blueprint.state_version, self._state)
        return [row] if self._rows_are_there else [*self._first(tables), row]

    def _first(self, tables: ModuleTables) -> list[Write]:
        """All that a module in memory has, which becomes durable."""
        self.check(tables)
        proxy, name = self._proxy, self._proxy.name
        waiting = [*proxy.mailbox.queue, *(late for late, _ in proxy.mailbox.late if late is not None)]
        waiting += self._kept.messages if self._kept is not None else ()
        count = len(waiting) + sum(letter.module == name for letter in proxy.app.letters)
        if count > WAITING_MAX:
            raise PauseExceeded(
                f"{name} becomes durable with {count} waiting messages and dead letters, and {WAITING_MAX} can be "
                "written in a pause. Let it catch up, or `livetag dead-letters retry` or `drop`, then push again"
            )
        self._letters = proxy.app.letters.rows_of(name)
        return [
            Forget(name),
            *all_rows(name, tables.stores),
            *self._letters,
            *(self._row(m) for m in waiting if m.reply is None and m.type[:1] != TIMER_MARK),
        ]

    def _row(self, message: Message) -> InboxRow:
        try:
            data = encode_message(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise VoteRefused(
                f"it becomes durable, and the {message.type!r} that waits for it from {message.sender or 'outside'} is "
                f"not plain data: {error}"
            ) from None
        message.row = self._proxy.app.durability.next_row()
        return InboxRow(message.row, self._proxy.name, data)

    def attach(self) -> None:
        """The version serves: its units are written from now on, or no more. Cannot raise."""
        proxy = self._proxy
        if self.after:
            proxy.become_durable(self._package, self._state)
            proxy.app.letters.written(self._letters)
        elif self.before and proxy.durable is not None:
            proxy.durable.let_go()


def inbox_rows(app: Application, name: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put messages into the inbox of a durable module that leaves, for its return; returns them with their rows."""
    found = []
    for message in messages:
        mine = msgspec.structs.replace(message, row=app.durability.next_row())
        app.durability.add(InboxRow(mine.row, name, encode_message(mine)))
        found.append(mine)
    return tuple(found)


def replaced_rows(name: str, records: Replacement) -> Generator[None, None, list[Write]]:
    """The rows of Tables that an import puts in place of those there are."""
    rows: list[Write] = [Forget(name, records.names)]
    for store in records.aside.values():
        rows += all_rows(name, {store.name: store})
        yield
    for table, shards in records.live.items():
        for shard in shards:
            rows += [
                record_row(name, table, key, data, records.versions[table]) for key, data in shard.items()
            ]
            yield
    return rows


def writes_of(
    proxy: ModuleProxy, package: str, version: int, state: bytes, rows: Sequence[Write]
) -> Sequence[Write]:
    """What an import writes of a durable module; of one in memory nothing."""
    return [*rows, StateRow(proxy.name, package, version, state)] if proxy.keeps else ()
