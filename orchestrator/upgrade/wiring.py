"""How the application is wired after a switch: modules, names and subscriptions as one value (paper §3.2.3, §3.2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.runtime.application import Application, Wiring
from orchestrator.runtime.events import Subscription
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.rest import Resting
from orchestrator.upgrade.errors import VoteRefused
from orchestrator.upgrade.participant import Participant


def next_wiring(app: Application, participants: Sequence[Participant]) -> Wiring:
    """Modules, names and subscriptions as they are after the switch. What is out of service keeps its names to itself.

    Raises VoteRefused if two modules want one name.
    """
    modules: dict[str, ModuleProxy] = dict(app.modules)
    also: dict[str, tuple[str, ...]] = {name: proxy.also for name, proxy in modules.items()}
    patterns: dict[str, Sequence[str]] = {
        name: proxy.implementation.blueprint.subscriptions
        for name, proxy in modules.items()
        if proxy.implementation is not None
    }
    resting: dict[str, Resting | None] = {name: proxy.resting for name, proxy in modules.items()}
    for participant in participants:
        name, after, serves = participant.name, participant.change.after, participant.serves
        for table in (modules, also, patterns, resting):
            table.pop(name, None)
        if after is not None and serves is not None:
            modules[name] = participant.proxy
            also[name] = after.also
            patterns[name] = serves.blueprint.subscriptions
            resting[name] = participant.resting
    names = _names(modules, also)
    absent = {n: rest.reason for n, proxy in names.items() if (rest := resting[proxy.name]) is not None}
    subscriptions = [
        Subscription(pattern, modules[name])
        for name in modules
        for pattern in patterns.get(name, ())
        if resting[name] is None
    ]
    bound = {name: proxy for name, proxy in names.items() if name not in absent}
    return Wiring(modules, bound, subscriptions, also, absent)


def _names(modules: Mapping[str, ModuleProxy], also: Mapping[str, tuple[str, ...]]) -> dict[str, ModuleProxy]:
    names = dict(modules)
    for module, more in also.items():
        for name in more:
            if name in names:
                raise VoteRefused(
                    f"the name {name!r} would stand for {names[name].name} and for {module}; give it to one in app.toml"
                )
            names[name] = modules[module]
    return names
