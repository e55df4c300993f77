"""Who waits for whom: asks under way and sends that wait for room, as one graph (DESIGN §7.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


def leads_to(start: ModuleProxy, goal: ModuleProxy) -> bool:
    """Does `start` wait, over any number of others, for `goal`? A module waits for itself."""
    return bool(chain_to(start, goal))


def chain_to(start: ModuleProxy, goal: ModuleProxy) -> list[ModuleProxy]:
    """The modules from `start` to `goal`, each waiting for the next; none if `start` does not wait for `goal`."""
    chains = [[start]]
    seen: set[int] = set()
    while chains:
        chain = chains.pop()
        if chain[-1] is goal:
            return chain
        if id(chain[-1]) not in seen:
            seen.add(id(chain[-1]))
            chains.extend([*chain, proxy] for proxy in chain[-1].waiting_for())
    return []


def describe_waits(proxies: Iterable[ModuleProxy]) -> str:
    """The units under way and the chain of whom each waits for, as one line a person can act on."""
    chains = []
    for proxy in proxies:
        if proxy.unit is None:
            continue
        chain, seen = [f"{proxy.name} in {proxy.unit.type!r}"], {id(proxy)}
        while (waits := proxy.waiting_for()) and id(waits[-1]) not in seen:
            proxy = waits[-1]  # noqa: PLW2901  # walking the chain
            seen.add(id(proxy))
            chain.append(f"{proxy.name} in {proxy.unit.type!r}" if proxy.unit is not None else proxy.name)
        chains.append(" waits for ".join(chain))
    return "; ".join(chains) or "no unit under way"
