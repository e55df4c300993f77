"""Overrides and holds: what persons changed by hand, as the journal tells it (DESIGN §4 "Overrides", §9). Pure."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from orchestrator.upgrade.records import Change, Deed, Overridden, OverrideEnded

OverrideKey = tuple[str, str]
"""(module, aspect): of each aspect one override holds. A name is an aspect of no module: it can only be bound once."""

PRESENCE, RELEASE, SERVICE = "presence", "release", "service"
_ASPECTS: Mapping[Deed, str] = {
    "load": PRESENCE,
    "unload": PRESENCE,
    "swap": RELEASE,
    "enable": SERVICE,
    "disable": SERVICE,
}


@dataclass(frozen=True, slots=True)
class Override:
    """One command that holds. `against` is the release (tag, commit id) that the refs gave; `at` unix seconds."""

    module: str
    what: Deed
    value: str
    who: str
    why: str
    against: tuple[str, str] | None
    at: float = 0.0
    seq: int = 0
    reverts: int | None = None
    replaced: Override | None = None  # holds again if this one does not go live

    @property
    def key(self) -> OverrideKey:
        return key_of(self.module, self.what, self.value)

    @property
    def command(self) -> str:
        """The command that made it: `livetag swap counter 1.0.0`."""
        if self.what in {"bind", "unbind"}:
            return f"livetag {self.what} {self.value}" + (f" {self.module}" if self.what == "bind" else "")
        more = f" {self.value}" if self.what == "swap" else ""
        return f"livetag {self.what} {self.module}{more}"

    @property
    def text(self) -> str:
        """What is so because of it, as a phrase: `disabled`, `bound to total`."""
        return {
            "load": f"loaded from {self.value}",
            "unload": "unloaded",
            "enable": "enabled",
            "disable": "disabled",
            "swap": f"swapped to {self.value}",
            "bind": f"bound to {self.value}",
            "unbind": f"no longer bound to {self.value}",
        }[self.what]

    @property
    def said(self) -> str:
        """The phrase with who and why: `disabled by ada: spring cleaning`."""
        return f"{self.text} by {self.who}: {self.why}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing deploys on its own for `module` (empty: for any)."""

    module: str
    who: str
    why: str
    at: float

    @property
    def said(self) -> str:
        """`held by ada: release freeze; livetag unhold`."""
        return f"held by {self.who}: {self.why}; livetag unhold{' ' if self.module else ''}{self.module}"


def key_of(module: str, what: Deed, value: str) -> OverrideKey:
    """Which override a command replaces."""
    return (module, _ASPECTS[what]) if what in _ASPECTS else ("", f"name {value}")


def begin(overrides: MutableMapping[OverrideKey, Override], fact: Overridden, at: float, seq: int) -> None:
    """Take the fact into `overrides`; the one it replaces is kept with it until the next."""
    made = Override(
        fact.module, fact.what, fact.value, fact.who, fact.why, fact.against, at, seq, fact.reverts
    )
    before = overrides.pop(made.key, None)
    overrides[made.key] = replace(made, replaced=replace(before, replaced=None) if before else None)


def end(overrides: MutableMapping[OverrideKey, Override], fact: OverrideEnded) -> None:
    """Take the fact into `overrides`."""
    ended = overrides.pop(key_of(fact.module, fact.what, fact.value), None)
    if ended is not None and fact.restores and ended.replaced is not None:
        overrides[ended.replaced.key] = ended.replaced


def explains(override: Override, change: Change) -> bool:
    """Whether the change does what the override asks for."""
    before, after, mine = change.before, change.after, change.name == override.module
    if override.what in {"bind", "unbind"}:
        had = before is not None and override.value in before.also
        return had != (after is not None and override.value in after.also)
    if override.what == "load":
        return mine and before is None
    if override.what == "unload":
        return mine and after is None
    if after is None or not mine:
        return False
    if override.what == "swap":
        return before is None or before.commit_id != after.commit_id
    was = before.enabled if before is not None else True
    return was != after.enabled == (override.what == "enable")


def apart(change: Change, asked: Sequence[Override]) -> tuple[Change, Change | None]:
    """What the overrides ask for, and what is left of the change: a release that waits, or is held, is not theirs."""
    before, after = change.before, change.after
    if before is None or after is None or not change.brings_code or any(o.what == "swap" for o in asked):
        return change, None
    enabled, also = before.enabled, list(before.also)
    for override in asked:
        if override.what in {"enable", "disable"}:
            enabled = after.enabled
        else:
            also = [name for name in also if name != override.value]
            also += [override.value] if override.value in after.also else []
    between = msgspec.structs.replace(before, enabled=enabled, also=tuple(also))
    return Change(change.name, before, between), Change(change.name, between, after)


def held_back(holds: Mapping[str, Hold], module: str) -> Hold | None:
    """The hold that a change of the module waits for."""
    return holds.get(module) or holds.get("")
