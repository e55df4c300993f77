"""The way back of a version that has failed: what it failed on is handled again by the one before (DESIGN §7.7).

Only where the first try left no trace, which the dead letter says. The messages stand at the head of the mailbox, marked,
in the order in which they failed, before what waits. Of a durable module they leave the letters and enter the inbox in the
write that holds COMMITTED: a kill finds each as a letter or as a message, never as both or neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.runtime.durability import InboxRow, LetterGone, Write
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.message import Message, encode_message
from orchestrator.runtime.proxy import ModuleProxy

GIVEN_MAX = 5_000  # that are given again: they are encoded in the pause; those after them stay letters


class GivenAgain:
    """What one module gets of its dead letters in a switch."""

    def __init__(self, proxy: ModuleProxy, version: str, since: float) -> None:
        """`version` has served and failed since `since` (seconds since the epoch)."""
        self._proxy = proxy
        self._version = version
        self._since = since
        self._letters: Sequence[DeadLetter] = ()
        self._messages: Sequence[Message] = ()

    def __len__(self) -> int:
        return len(self._messages)

    def writes(self, *, durable: bool) -> list[Write]:
        """Choose what is given again; returns what goes with COMMITTED, after all else of the module. Cannot raise.

        `durable`: the version that comes is. Between two units, so that no letter comes after it.
        """
        proxy, app = self._proxy, self._proxy.app
        failed = app.letters.failed_on(proxy.name, self._version, self._since)[:GIVEN_MAX]
        row = app.durability.rows_before_all(len(failed)) if durable else 0
        letters, messages = [], []
        writes: list[Write] = []
        for letter in failed:
            message = msgspec.structs.replace(letter.message, again=True)
            if durable:
                try:
                    writes.append(InboxRow(row, proxy.name, encode_message(message)))
                except (TypeError, ValueError, OverflowError, RecursionError):
                    continue  # no plain data: a durable module can take it only by hand, which says so
                message.row = row
                row += 1
            if durable or letter.durable:
                writes.append(LetterGone(letter.number))
            letters.append(letter)
            messages.append(message)
        self._letters, self._messages = letters, messages
        return writes

    def attach(self) -> None:
        """They are messages from now on. Cannot raise."""
        self._proxy.app.letters.gone(self._letters)
        self._proxy.mailbox.put_first(self._messages)
