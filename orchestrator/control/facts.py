"""What the control socket shows: the JSON shapes of DESIGN §9, made from what the journal and the runtime say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from orchestrator.control import module_facts
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.letters import DeadLetter
from orchestrator.upgrade import words
from orchestrator.upgrade.crash_row import crash_row
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.records import StateImported, TagRefused
from orchestrator.upgrade.rollback import RollbackRefused, plan_rollback
from orchestrator.upgrade.upgrader import Upgrader
from repo_store import failpoints
from repo_store.release import RefMap

Facts = dict[str, Any]  # Any: JSON


def status(
    app: Application, upgrader: Upgrader, failed: Mapping[str, str], since: float, settle_s: float
) -> Facts:
    """The document of `livetag status --json`."""
    ledger = upgrader.book.ledger
    row = crash_row(ledger, settle_s, host_runs=True)
    return {
        "app": upgrader.outlook.app_name,
        "host": {"pid": os.getpid(), "since": since},
        "modules": module_facts.modules(app, upgrader, failed),
        "unloaded": module_facts.unloaded(upgrader),
        "holds": module_facts.holds(ledger),
        "transaction": _under_way(
            ledger, upgrader.book.doubt.txn if upgrader.book.doubt is not None else None, upgrader.doing
        ),
        "quarantine": [
            {"module": q.package, "commit": q.commit_id, "tag": q.tag, "reason": q.reason, "at": q.at}
            for q in ledger.quarantine.values()
        ],
        "waiting": [
            {"tags": list(g.tags), "why": g.waits or g.held}
            for g in (*upgrader.outlook.plan.waiting, *upgrader.outlook.plan.held)
        ],
        "not_permitted": [
            {"tag": r.tag, "object": r.object_id, "reason": r.reason, "who": r.who, "at": r.at}
            for r in ledger.refusals.values()
        ],
        "availability": _availability(ledger, since, app.clock.wall()),
        "dead_letters": len(app.letters),
        "crash_row": {"what": row.what, "todo": row.todo} if row is not None else None,
        "last_change": _last(ledger, upgrader.outlook.refs),
        "leftovers": [
            {"module": x.remains.name, "version": x.remains.version, "held_by": list(x.held_by), "at": x.at}
            for x in upgrader.retirements.leftovers
        ],
        "kept": [
            {"module": x.name, "version": x.version, "as": x.kept_as} for x in upgrader.retirements.kept
        ],
        "problem": upgrader.book.journal.failed
        or upgrader.trouble
        or upgrader.damage
        or upgrader.chronicle.behind
        or None,
        **({"failpoints": True} if failpoints.armed() else {}),
    }


def _under_way(ledger: Ledger, in_doubt: int | None, doing: str) -> Facts | None:
    view = ledger.unfinished
    if view is None:
        return None
    phase = "in_doubt" if view.id == in_doubt else view.phase.value
    more = {"doing": doing} if doing else {}
    return {"id": view.id, "phase": phase, "modules": [change.name for change in view.changes], **more}


def _availability(ledger: Ledger, since: float, now: float) -> float:
    """1 − pauses ÷ time, since this host started; a pause of one module counts as one of all."""
    views = ledger.transactions.values()
    paused_us = sum(view.pause_us for view in views if (view.ended_at or 0.0) >= since)
    return max(0.0, 1.0 - paused_us / 1e6 / max(now - since, 1e-6))


def _last(ledger: Ledger, refs: RefMap) -> Facts | None:
    """The last transaction that changed what is in service, as in the history, and whether it can be rolled back."""
    ended = [view for view in ledger.transactions.values() if view.outcome in {"committed", "reverted"}]
    if not ended:
        return None
    last = max(ended, key=lambda view: view.ended_seq or 0)
    try:
        plan_rollback(ledger, refs, txn=last.id)
    except RollbackRefused:
        return {**_transaction(last), "can_undo": False}
    return {**_transaction(last), "can_undo": True}


def history(ledger: Ledger, module: str | None, limit: int, in_doubt: int | None = None) -> list[Facts]:
    """The document of `livetag history --json`: newest first. `in_doubt` is a transaction that only a restart decides."""
    views = [
        v for v in ledger.transactions.values() if module is None or any(c.name == module for c in v.changes)
    ]
    views = [replace(v, outcome="in_doubt") if v.id == in_doubt and not v.outcome else v for v in views]
    found = [_transaction(view) for view in sorted(views, key=lambda v: v.id, reverse=True) if view.outcome]
    others = [_import(r.fact, r.at) for r in ledger.imports if isinstance(r.fact, StateImported)]
    others += [_refused(r.fact, r.at) for r in ledger.refused if isinstance(r.fact, TagRefused)]
    mine = [each for each in others if module is None or each["modules"][0]["module"] == module]
    if mine:
        found = sorted([*found, *reversed(mine)], key=lambda each: float(each["at"]), reverse=True)
    return found[:limit]


def _import(fact: StateImported, at: float) -> Facts:
    """A state that a person put in: no transaction, so without an id."""
    tables = f", Tables {', '.join(fact.tables)}" if fact.tables else ""
    text = f"{fact.module}: state version {fact.state_version}{tables}"
    row = {"module": fact.module, "from": fact.version, "to": fact.version, "commit": None, "text": text}
    digests = {"before": fact.before, "after": fact.after}
    return {
        "id": None,
        "at": at,
        "modules": [row],
        "outcome": "state imported",
        "reason": fact.why,
        "pause_us": None,
        "predicted_us": None,
        "held_messages": None,
        "who": fact.who,
        "by": "livetag state --import",
        "state": digests,
    }


def _refused(fact: TagRefused, at: float) -> Facts:
    """A tag that was nobody's order: nothing was run, so it is no transaction and has no id."""
    row = {
        "module": fact.tag.partition("/")[0],
        "from": None,
        "to": None,
        "commit": None,
        "text": f"tag {fact.tag}",
    }
    return {
        "id": None,
        "at": at,
        "modules": [row],
        "outcome": "not permitted",
        "reason": fact.reason,
        "pause_us": None,
        "predicted_us": None,
        "held_messages": None,
        "who": fact.who,
        "by": fact.tag,
    }


def _transaction(view: TransactionView) -> Facts:
    return {
        "id": view.id,
        "at": view.ended_at if view.ended_at is not None else view.at,
        "modules": [
            {
                "module": c.name,
                "from": c.before.version if c.before is not None else None,
                "to": c.after.version if c.after is not None else None,
                "commit": c.after.commit_id if c.after is not None else None,
                "text": words.change_text(c),
            }
            for c in view.changes
        ],
        "outcome": view.outcome,
        "reason": _reason(view),
        "pause_us": view.pause_us,
        "predicted_us": view.predicted_us,
        "held_messages": view.held_messages,
        "who": view.who,
        "by": view.trigger,
        **({"mismatches": list(view.mismatches)} if view.mismatches else {}),
    }


def _reason(view: TransactionView) -> str:
    """Why it was made, or ended; of one that did not keep its limits, what was found."""
    if view.outcome == "reverted" and view.breach is not None:
        return view.breach.reason
    return view.degraded.reason if view.degraded is not None else view.reason


def letter(dead: DeadLetter) -> Facts:
    """One dead letter as `dead-letters list` shows it."""
    return {
        "id": dead.number,
        "module": dead.module,
        "type": dead.message.type,
        "body": plain(dead.message.body),
        "sender": dead.message.sender,
        "again": dead.message.again,
        "reason": dead.reason,
        "version": dead.version,
        "may_have_had_effects": dead.trace,
        "at": dead.at,
    }


def plain(value: object) -> object:
    """The value as JSON can say it; what is not plain data is shown by its repr, never refused."""
    found: object = msgspec.to_builtins(value, enc_hook=repr, str_keys=True)
    try:
        msgspec.json.encode(found)
    except UnicodeEncodeError:  # half a character, which no text on a wire can hold
        return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return found


def fields(schema: Mapping[str, Any]) -> str:
    """The fields of a body for people: `n (integer), by (integer, optional)`."""
    named = schema.get("$defs", {}).get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    required = named.get("required", ())
    found = [
        f"{name} ({field.get('type', 'see its schema')}{'' if name in required else ', optional'})"
        for name, field in named.get("properties", {}).items()
    ]
    return ", ".join(found) or "no fields that are known by name"


def part_of(state: object, path: str | None, name: str) -> object:
    """A part of a state: `by_key.apples`, `routes.0`. Raises Refused naming the keys there are."""
    value: Any = plain(state)
    walked: list[str] = []
    for key in path.split(".") if path else ():
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            has = (
                ", ".join(sorted(map(str, value))[:20])
                if isinstance(value, dict)
                else f"a {type(value).__name__}"
            )
            raise Refused(
                f"The state of {name} has no {'.'.join([*walked, key])!r}; there is: {has or 'nothing'}."
            )
        walked.append(key)
    return value
