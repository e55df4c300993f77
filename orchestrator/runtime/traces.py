"""What a unit that failed may have left behind, and so whether its message may be given again (DESIGN §7.7).

A unit that fails sends nothing, its writes to Tables are undone, and of a durable module `self.state` is read again. What
is left are the traces below; each is a reason, in words, why nobody gives the message again on his own. It is judged
where the unit has failed, when all its tasks and threads have ended; a unit that goes well pays nothing for it.

What cannot be seen is not looked for: I/O of the handler's own, threads that it began itself. Its author says
`again=False` where that matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runtime.errors import BodyRefused, ModuleError, UnknownMessage
from orchestrator.runtime.message import ASKED_BY, TIMER_MARK, Message

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy

ASKED = "its unit asked another module, and what it had sent before left with that"
SOURCES = "its unit attached or detached a source"
CUT = "it was cut in the middle"
TICK = "it was a tick, and the next one comes by itself"
TWICE = "it had been given again before"
REFUSED = "its handler says again=False"


def trace_of(proxy: ModuleProxy, message: Message, failure: ModuleError) -> str:
    """Why the message of a unit that has failed may not be given again; empty: it left no trace.

    An ask never is, as who asked has the error and may have asked anew. `again=True` stands for what the unit did and
    for its state, not for that, nor for a third time.
    """
    if message.reply is not None:
        return ASKED_BY
    if message.again:
        return TWICE
    if message.type[:1] == TIMER_MARK:
        return TICK
    handler = proxy.handlers.get(message.type)
    if message.trace == ASKED_BY:
        return ASKED_BY
    if handler is None or failure.__class__ in {BodyRefused, UnknownMessage}:
        return ""  # none of the author's code began; an error of these classes that it raised itself is a HandlerFailed
    if handler.again is not None:
        return "" if handler.again else REFUSED
    return message.trace or _of_state(proxy)


def _of_state(proxy: ModuleProxy) -> str:
    """Whether plain state in memory may have been changed: nobody knows how it was when the unit began.

    All that can be shown is that this version never so much as read it since it came into service, which is how modules
    are whose state is in Tables.
    """
    implementation = proxy.implementation
    if proxy.keeps or implementation is None or not implementation.state_touched:
        return ""
    return f"self.state is in memory, and {proxy.name} {implementation.version} may have changed it"
