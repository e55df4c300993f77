"""What the control socket shows of modules: their state, their drift, and those whose state waits (DESIGN §9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.control.table_facts import overview
from orchestrator.runtime.application import Application
from orchestrator.runtime.overdue import OverdueUnit
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.overrides import Override
from orchestrator.upgrade.overrule import Overruled
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.service import module_states
from orchestrator.upgrade.states import ModuleState
from orchestrator.upgrade.upgrader import Upgrader

Facts = dict[str, Any]  # Any: JSON


def modules(app: Application, upgrader: Upgrader, failed: Mapping[str, str]) -> Facts:
    """Module → its row of `livetag status`, for the release table; during a switch, as it is about to be (P5)."""
    ledger = upgrader.book.ledger
    overdue = app.overdue.now()
    states = module_states(app, ledger, upgrader.kept.keys(), switching=upgrader.switching)
    return {
        name: {
            **_module(entry, states[name], app.modules.get(name), failed.get(name), ledger),
            "probation": upgrader.probations.facts(name),
            **_overdue(app, name, overdue.get(name)),
        }
        for name, entry in sorted(ledger.table.items())
    }


def _module(
    entry: Entry, state: ModuleState, proxy: ModuleProxy | None, failed: str | None, ledger: Ledger
) -> Facts:
    tables = overview(proxy.tables) if proxy is not None else {}
    return {
        "version": entry.version,
        "tag": entry.tag,
        "commit": entry.commit_id,
        "tree": entry.tree_id,
        "state": state.value,
        "state_version": entry.state_version,
        "durable": proxy is not None and proxy.keeps,
        "probation": None,
        "mailbox": {
            "length": len(proxy.mailbox) if proxy is not None else 0,
            "accepted": proxy.mailbox.accepted if proxy is not None else 0,
            "handled": proxy.handled if proxy is not None else 0,
            "dead": proxy.dead if proxy is not None else 0,
            "dropped": proxy.mailbox.dropped if proxy is not None else 0,
        },
        "drift": drift(entry, ledger),
        "held": hold.said if (hold := ledger.holds.get(entry.name) or ledger.holds.get("")) else None,
        **({"tables": tables} if tables else {}),
        **({"problem": failed} if failed is not None and state is ModuleState.FAILED else _stopped(proxy)),
    }


def _stopped(proxy: ModuleProxy | None) -> Facts:
    """Why a durable module handles nothing, if it does not."""
    failed = proxy.durable.failed if proxy is not None and proxy.durable is not None else None
    return {"problem": str(failed)} if failed is not None else {}


def _overdue(app: Application, name: str, unit: OverdueUnit | None) -> Facts:
    """A unit that is under way for long, and how many of the module's were; nothing of a module that had none."""
    if name not in app.overdue.counts:
        return {}
    now = {"type": unit.type, "since": unit.since, "where": unit.where} if unit is not None else None
    return {"overdue": {"count": app.overdue.counts[name], "now": now}}


def drift(entry: Entry, ledger: Ledger) -> Facts | None:
    """How a module differs from what the tags ask for, by whom and why; None if it does not.

    `what` is "untagged" where no tag gives its release any more.
    """
    found = [override for override in ledger.overrides.values() if override.module == entry.name]
    if found:
        newest = max(found, key=lambda override: override.seq)
        said = ", ".join(override.text for override in found)
        return {"what": said, "who": newest.who, "why": newest.why, "at": newest.at}
    pin = ledger.tags.get(entry.tag)  # as last seen, also by the host before this one
    if pin is not None and pin.commit_id == entry.commit_id:
        return None
    return {"what": "untagged", "who": None, "why": "no tag gives this release any more", "at": None}


def unloaded(upgrader: Upgrader) -> list[Facts]:
    """The modules that are not loaded, and whose state is kept for their return, or that a person unloaded."""
    ledger, kept = upgrader.book.ledger, upgrader.kept
    away = {o.module: o for o in ledger.overrides.values() if o.what == "unload"}
    names = sorted({*kept, *away} - ledger.table.keys())
    return [_unloaded(name, away.get(name), upgrader) for name in names]


def _unloaded(name: str, override: Override | None, upgrader: Upgrader) -> Facts:
    kept = upgrader.kept.get(name)
    return {
        "module": name,
        "state": ModuleState.UNLOADED.value,
        "state_version": kept.state_version if kept is not None else None,
        "messages": len(kept.messages) if kept is not None else 0,
        "drift": override_facts(override) if override is not None else None,
    }


def override_facts(override: Override) -> Facts:
    """One override as `status` and `plan` show it."""
    return {
        "module": override.module,
        "what": override.text,
        "who": override.who,
        "why": override.why,
        "at": override.at,
    }


def drifts(overruled: Overruled) -> list[Facts]:
    """The overrides that hold, and those that are over with this plan, each with the reason."""
    holding = [{**override_facts(override), "ends": None} for override in overruled.holding]
    return [*holding, *({**override_facts(override), "ends": why} for override, why in overruled.ended)]


def ending(overruled: Overruled) -> list[str]:
    """What a person did by hand that these tags undo, as sentences: who pushes them must know before."""
    return [
        f"{override.module} was {override.said}. It ends with this plan: {why}"
        for override, why in overruled.ended
    ]


def holds(ledger: Ledger) -> list[Facts]:
    """What deploys only by hand, by whom and why; `module` is null where that is everything."""
    return [
        {"module": h.module or None, "who": h.who, "why": h.why, "at": h.at} for h in ledger.holds.values()
    ]


def does(change: Change) -> str:
    """The word for a step of a plan."""
    before, after = change.before, change.after
    if before is None or after is None:
        return "add" if before is None else "remove"
    if change.brings_code:
        return "swap"
    if before.enabled != after.enabled:
        return "enable" if after.enabled else "disable"
    return "rename"
