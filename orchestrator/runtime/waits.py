"""Who waits for whom: asks under way and outputs that wait for room, as one graph of modules (DESIGN §7.4).

An edge is only ever added where it closes no circle: an ask that would is refused, an output that would is taken over the
limit of the mailbox, and its sender rests until that was worked off (overrun.py). So there is always a module that can go
on, and nobody waits for ever by the graph's doing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from orchestrator.runtime.places import place_of_coroutine, place_of_task, place_of_thread

if TYPE_CHECKING:
    from orchestrator.runtime.message import Message
    from orchestrator.runtime.proxy import ModuleProxy

ASKS = "asks"
ROOM = "waits for room at"


class Wait(msgspec.Struct, frozen=True):
    """One reason why a module does not go on: it waits for `whom`. `message` is what it asks."""

    why: str
    whom: ModuleProxy
    message: Message | None = None

    @property
    def over(self) -> bool:
        """Whether it was answered: its task has not gone on yet, or the answer waits for the disk, and so for no module."""
        message = self.message
        if message is None:
            return False
        return not message.path or (message.reply is not None and message.reply.done())


def waits_of(proxy: ModuleProxy) -> list[Wait]:
    """All that a module waits for now: whom its unit asks, and who has no room for what its units gave out."""
    return [
        *(wait for wait in proxy.waits_on if not wait.over),
        *(Wait(ROOM, room_at) for room_at in proxy.outbox.rooms),
    ]


def waited_for_by(proxies: Iterable[ModuleProxy]) -> dict[str, ModuleProxy]:
    """These modules, and all whom they wait for, over any number of others."""
    found: dict[str, ModuleProxy] = {}
    ahead = list(proxies)
    while ahead:
        proxy = ahead.pop()
        if proxy.name not in found:
            found[proxy.name] = proxy
            ahead.extend(wait.whom for wait in waits_of(proxy))
    return found


def leads_to(start: ModuleProxy, goal: ModuleProxy) -> bool:
    """Does `start` wait, over any number of others, for `goal`? A module waits for itself."""
    return bool(chain_to(start, goal))


def chain_to(
    start: ModuleProxy, goal: ModuleProxy, of: Callable[[Wait], bool] = lambda _wait: True
) -> list[ModuleProxy]:
    """The modules from `start` to `goal`, each waiting for the next; none if `start` does not wait for `goal`.

    `of` chooses which waits count.
    """
    chains = [[start]]
    seen: set[int] = set()
    while chains:
        chain = chains.pop()
        if chain[-1] is goal:
            return chain
        if id(chain[-1]) not in seen:
            seen.add(id(chain[-1]))
            chains.extend([*chain, wait.whom] for wait in waits_of(chain[-1]) if of(wait))
    return []


def circle_of_asks(asker: ModuleProxy, target: ModuleProxy) -> list[ModuleProxy]:
    """The modules of the circle that an ask of `target` by `asker` would close; none: it may ask.

    Where somebody in a circle only waits for room, room is made instead, but not without end.
    """
    asks = chain_to(target, asker, lambda wait: wait.why == ASKS)
    if asks:
        return [asker, *asks]
    while chain := chain_to(target, asker):  # at least one wait for room is in it, and that ends here
        if not let_in_along(chain):
            return [asker, *chain]
    return []


def let_in_along(chain: Sequence[ModuleProxy]) -> bool:
    """Make room for all in a chain of waits who wait for it; False: for somebody too much was made already."""
    rooms = [(waiter, whom) for waiter, whom in itertools.pairwise(chain) if whom in waiter.outbox.rooms]
    if any(whom.mailbox.overrun for _, whom in rooms):
        return False
    for waiter, whom in rooms:
        waiter.outbox.let_in_at(whom)
    return True


# -- as a sentence ----------------------------------------------------------------------------------------------


def describe_waits(proxies: Iterable[ModuleProxy]) -> str:
    """The units under way and the chain of whom each waits for and why, as one line that a person can act on."""
    return "; ".join(_chain(proxy) for proxy in proxies if proxy.unit is not None) or "no unit under way"


def _chain(proxy: ModuleProxy) -> str:
    parts, seen = list[str](), set[int]()
    while id(proxy) not in seen:
        seen.add(id(proxy))
        waits = waits_of(proxy)
        if not waits:
            return " → ".join([*parts, f"{_node(proxy)}{stand(proxy)}"])
        wait = waits[-1]
        what = f" {wait.message.type!r}" if wait.message is not None else ""
        parts.append(f"{_node(proxy)} {wait.why} {wait.whom.name}{what}")
        proxy = wait.whom
    return " → ".join([*parts, proxy.name])


def _node(proxy: ModuleProxy) -> str:
    return f"{proxy.name} in {proxy.unit.type!r}" if proxy.unit is not None else proxy.name


def stand(proxy: ModuleProxy) -> str:
    """Where a module that waits for no other stands: the line of its function, thread or task; or what holds it."""
    if proxy.unit is None:
        return " is held for the switch" if proxy.held is not None else ""
    if proxy.outbox.for_name is not None:
        return f" waits for the name {proxy.outbox.for_name!r} to be bound, which it sent to with wait_s"
    loaded = proxy.implementation.loaded if proxy.implementation is not None else None
    if proxy.thread is not None:
        return f" runs in a thread at {place_of_thread(proxy.thread.ident, loaded)}"
    if proxy.tasks is not None and proxy.tasks.waited_for:
        places = sorted({place_of_task(task, loaded) for task in proxy.tasks})
        return (
            f" has ended but for its task at {', '.join(places)} (a task keeps its unit open: `attach` what it serves, or "
            "let an @intake read it)"
        )
    place = place_of_coroutine(proxy.pump.body, loaded)
    return f" is at {place}"
