"""What is taken over the limit of a mailbox so that nobody waits in a circle, and how it is worked off (DESIGN §6 P4, §7.4).

A module that asks may have a full mailbox, and whom it asks may have something for it: that is taken over the limit, else
both would wait for ever. But whoever gave it owes: until the mailbox has room again it does no other work than what is
asked of it by those who wait, out of turn. So a busy module that asks gets what one unit of each of its senders gave out
over its limit, not what stands before its ask in their mailboxes. Where an answer cannot be had without ever more (its
senders must first handle what the asker's own chain has sent them), the asks are refused, at twice the limit.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from orchestrator.runtime.errors import AskCycle
from orchestrator.runtime.waits import ASKS, chain_to, leads_to, let_in_along, waited_for_by, waits_of

if TYPE_CHECKING:
    from orchestrator.runtime.message import Message
    from orchestrator.runtime.proxy import ModuleProxy


def takes_over_limit(target: ModuleProxy, message: Message, sender: ModuleProxy) -> bool:
    """Whether a full mailbox takes a unit's message: a switch holds it, or it waits, over any number of others, for the sender."""
    if target.held is not None:
        return True
    if not leads_to(target, sender):
        return False
    if message.reply is not None or target is sender:
        return True  # as many as there are units that ask; and what it sends itself is its own doing
    if target.mailbox.overrun and _refuse_asks(target, sender):
        return False
    sender.outbox.owe(target)
    return True


def _refuse_asks(target: ModuleProxy, sender: ModuleProxy) -> bool:
    """Have the asks of the target fail that wait for the sender; False: it is no ask that it waits by."""
    asks = [wait for wait in target.waits_on if leads_to(wait.whom, sender)]
    for wait in asks:
        reply = wait.message.reply if wait.message is not None else None
        if reply is not None and not reply.done():
            chain = " → ".join(each.name for each in (target, *chain_to(wait.whom, sender), target))
            reply.set_exception(
                AskCycle(
                    f"ask would wait in a circle: {chain}, and {target.name} holds {len(target.mailbox.queue)} messages "
                    f"with a limit of {target.mailbox.limit}, sent by those whom it asks. It was asked and may still be "
                    "handled. Send instead of ask on one of these edges, or send less."
                )
            )
    return bool(asks)


async def work_off(proxy: ModuleProxy, run: Callable[[Message], Awaitable[None]]) -> None:
    """Return when the module may take its next message: it owes nothing, or a switch holds it.

    Meanwhile it handles, out of turn, what those ask for whom it rests, and all for whom these wait.
    """
    outbox = proxy.outbox
    while outbox.owes and proxy.held is None:
        outbox.owes[:] = [
            each for each in outbox.owes if each.mailbox.full and each.held is None and not each.left
        ]
        if not outbox.owes:
            break
        asked = proxy.mailbox.take_for(waited_for_by(outbox.owes))
        if asked is not None:
            await run(asked)
            continue
        circle = next((chain for each in outbox.owes if (chain := chain_to(each, proxy))), [])
        if circle and not (_asks_in(circle) and let_in_along(circle) and not leads_to(circle[0], proxy)):
            outbox.owes.clear()  # they wait for room here, and get it only by work
        else:
            await outbox.rest_for(outbox.owes[0])


def _asks_in(chain: list[ModuleProxy]) -> bool:
    return any(
        wait.why == ASKS and wait.whom is whom
        for waiter, whom in itertools.pairwise(chain)
        for wait in waits_of(waiter)
    )
