"""The states of a module and what a person may do to it in each: one enum, one table (paper §3.1, Service state)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from orchestrator.upgrade.errors import UpgradeError


class ModuleState(str, Enum):
    """What `livetag status` says of a module."""

    LOADED = "loaded"  # in memory, tried and prepared; its transaction has not switched yet
    SWITCHING = "switching"  # switched in memory; COMMITTED is not on disk yet
    IN_SERVICE = "in service"
    DISABLED = "disabled"  # loaded, with its state and what waits for it; nobody can send to it
    UNLOADED = "unloaded"  # not in memory; its state is kept for its return
    FAILED = "failed"  # could not come back at the start of the host; its state is kept

    def __str__(self) -> str:
        return self.value


class Verb(str, Enum):
    """What a person does to a module by a command (DESIGN §9)."""

    LOAD = "load"
    UNLOAD = "unload"
    ENABLE = "enable"
    DISABLE = "disable"
    SWAP = "swap"
    BIND = "bind"
    UNBIND = "unbind"

    def __str__(self) -> str:
        return self.value


class CommandRefused(UpgradeError):
    """A command that makes no sense as things are; the message says what is so and what can be done instead."""


class AlreadySo(Exception):
    """What a command asks for is so already; the message says it. Nothing was changed, and that is no failure."""


_S, _V = ModuleState, Verb

VERBS: Mapping[ModuleState, Mapping[Verb, ModuleState]] = {
    _S.LOADED: {},
    _S.SWITCHING: {},
    _S.IN_SERVICE: {
        _V.UNLOAD: _S.UNLOADED,
        _V.DISABLE: _S.DISABLED,
        _V.SWAP: _S.IN_SERVICE,
        _V.BIND: _S.IN_SERVICE,
        _V.UNBIND: _S.IN_SERVICE,
    },
    _S.DISABLED: {
        _V.UNLOAD: _S.UNLOADED,
        _V.ENABLE: _S.IN_SERVICE,
        _V.SWAP: _S.DISABLED,
        _V.BIND: _S.DISABLED,
        _V.UNBIND: _S.DISABLED,
    },
    _S.UNLOADED: {_V.LOAD: _S.IN_SERVICE},
    _S.FAILED: {_V.UNLOAD: _S.UNLOADED, _V.SWAP: _S.IN_SERVICE},
}
"""What each command leads to from each state; what is not here is refused."""

_ALREADY = {
    (_S.IN_SERVICE, _V.LOAD): "in service",
    (_S.IN_SERVICE, _V.ENABLE): "in service",
    (_S.DISABLED, _V.LOAD): "loaded, and disabled",
    (_S.DISABLED, _V.DISABLE): "disabled",
    (_S.UNLOADED, _V.UNLOAD): "unloaded",
}
_INSTEAD = {
    _S.LOADED: "a transaction brings it into service at this moment. Look at livetag status, and try again",
    _S.SWITCHING: "a transaction switches it at this moment. Look at livetag status, and try again",
    _S.UNLOADED: "it is not loaded. livetag load brings it back, with the state that was kept",
    _S.FAILED: "it could not come back at the start of the host. Push a release that can, livetag swap it to one, or "
    "livetag unload it",
}


def after(name: str, state: ModuleState, verb: Verb) -> ModuleState:
    """The state that a command leads to.

    Raises AlreadySo if it is so already, CommandRefused if it cannot be done from this state.
    """
    found = VERBS[state].get(verb)
    if found is not None:
        return found
    already = _ALREADY.get((state, verb))
    if already is not None:
        raise AlreadySo(f"{name} is already {already}; nothing was changed.")
    raise CommandRefused(f"{name} cannot be {_participle(verb)}: {_INSTEAD[state]}. Nothing was changed.")


def out_of_reach(name: str) -> str:
    """Why nothing that a person says of a module that failed can be done while it keeps its release."""
    return f"{name}: {_INSTEAD[_S.FAILED]}"


def _participle(verb: Verb) -> str:
    return {_V.SWAP: "swapped", _V.BIND: "bound", _V.UNBIND: "unbound", _V.LOAD: "loaded"}.get(
        verb, f"{verb.value.rstrip('e')}ed"
    )
