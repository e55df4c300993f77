"""What becomes of a message that is not handled: its reason as a sentence, and its way to the dead letters (DESIGN §6, P2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runtime.durability import InboxGone
from orchestrator.runtime.errors import (
    BodyRefused,
    HandlerFailed,
    Leaving,
    Misfit,
    ModuleError,
    ReplyRefused,
    UnknownMessage,
)
from orchestrator.runtime.message import TIMER_MARK, Message, is_authors
from orchestrator.runtime.traces import trace_of

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


def is_tick(proxy: ModuleProxy, message: Message) -> bool:
    """Whether it is a tick of one of the module's own timers: nobody sent it, so nobody misses it."""
    return message.type[:1] == TIMER_MARK and message.sender == proxy.name


def unknown(proxy: ModuleProxy, message: Message) -> UnknownMessage:
    """The version in service has no handler for it."""
    if message.topic is not None:
        return UnknownMessage(f"{_title(proxy)} no longer subscribes to {message.type[1:]!r}")
    known = ", ".join(sorted(t for t in proxy.handlers if is_authors(t))) or "nothing"
    return UnknownMessage(f"{_title(proxy)} does not handle {message.type!r}; it handles: {known}")


def refused(proxy: ModuleProxy, message: Message, error: BodyRefused) -> BodyRefused:
    """Its body does not fit the handler's parameters."""
    return BodyRefused(f"{_title(proxy)} refuses the body of {message.type!r}: {error}")


def failure_of(proxy: ModuleProxy, message: Message, error: BaseException) -> ModuleError:
    """What the author's code raised in a unit, as what an asker gets."""
    if isinstance(error, Misfit):
        return refused(proxy, message, error)
    if isinstance(error, ReplyRefused):
        return HandlerFailed(f"{_title(proxy)} failed on {message.type!r}: {error}")
    if proxy.implementation is not None:
        return proxy.implementation.failure(message.type, error)
    return Leaving(f"{proxy.name} has no implementation in service")


def bury_failed(
    proxy: ModuleProxy,
    message: Message,
    failure: ModuleError,
    *,
    answer: bool = True,
    trace: str | None = None,
) -> None:
    """Put the message of a unit that has failed to the dead letters, with what the unit may have left behind.

    `trace`: what that is, if it is not for the rules to say.
    """
    version = proxy.implementation.version if proxy.implementation is not None else ""
    found = trace_of(proxy, message, failure) if trace is None else trace
    bury(proxy, message, failure, answer=answer, version=version, trace=found)


def bury(
    proxy: ModuleProxy,
    message: Message,
    reason: ModuleError,
    *,
    answer: bool = True,
    version: str = "",
    trace: str = "",
) -> None:
    """Put the message to the dead letters; an asker who still waits gets the reason, if `answer`.

    Of a durable module it leaves the inbox in the same write. `version`: what failed on it; empty, no unit of it began.
    """
    proxy.dead += 1
    app = proxy.app
    if proxy.keeps:
        app.durability.begin()
        app.letters.add(
            proxy.name, message, str(reason), app.clock.wall(), durable=True, version=version, trace=trace
        )
        if message.row:
            app.durability.add(InboxGone(message.row))
            message.row = 0
        app.durability.end()
    else:
        app.letters.add(proxy.name, message, str(reason), app.clock.wall(), version=version, trace=trace)
    if answer and message.reply is not None and not message.reply.done():
        message.reply.set_exception(reason)


def _title(proxy: ModuleProxy) -> str:
    return f"{proxy.name} {proxy.implementation.version if proxy.implementation else '?'}"
