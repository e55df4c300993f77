"""An ask that goes through the mailbox: the asker waits for its turn, and for so long as it said.

Apart from `ModuleProxy.ask`, whose variables no inner function is to hold: that costs each ask of an idle module.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.errors import AskTimeout, MailboxFull
from orchestrator.runtime.message import ASKED_BY, Message

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


async def ask_in_turn(
    proxy: ModuleProxy, message: Message, timeout_s: float, sender: ModuleProxy | None
) -> Any:
    """Put the message into the mailbox and return the reply. Raises what `ModuleProxy.ask` raises."""
    proxy.refuse()
    reply = message.reply = asyncio.get_running_loop().create_future()
    clock = proxy.app.clock
    timer = clock.call_at(clock.now() + timeout_s, lambda: _give_up(proxy, message, timeout_s))
    try:
        proxy.accept(message, sender)
        if proxy.held is not None and proxy.held.admits(message.path):
            proxy.admit = len(proxy.mailbox.queue)  # with all that stands before it: order is kept
            proxy.pump.rouse()
        result = await reply
        if proxy.stored:
            await proxy.stored_on_disk()
        return result
    finally:
        timer.cancel()
        message.trace = ASKED_BY  # the unit may still be under way, and fail later
        message.reply = None  # an error's frames hold the message: this circle would never be freed
        del reply


def _give_up(proxy: ModuleProxy, message: Message, timeout_s: float) -> None:
    reply = message.reply
    if reply is None or reply.done():
        return
    if proxy.mailbox.withdraw(message):
        reply.set_exception(
            MailboxFull(
                f"{proxy.name}'s mailbox made no room in {timeout_s:g} s; {message.type!r} was not accepted. Ask again later."
            )
        )
    else:
        reply.set_exception(
            AskTimeout(
                f"{proxy.name} did not answer {message.type!r} in {timeout_s:g} s; it was accepted and may still be "
                "handled. Ask with a longer timeout, or look at `livetag status`."
            )
        )
