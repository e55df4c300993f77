"""A plan as `livetag plan --json` has it, and as lines for a push: the same facts, said once (DESIGN §9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.control.module_facts import does
from orchestrator.upgrade import words
from orchestrator.upgrade.checks import Check
from orchestrator.upgrade.preview import Forecast, Step, check_text, is_remark, state_text

Facts = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Said:
    """What is, or would be, true of a tag that was asked for; `pushed`: the repository has it, pointing there."""

    tag: str
    word: str
    text: str
    pushed: bool = True


def document(forecasts: Sequence[Forecast], said: Sequence[Said], drift: Sequence[Facts] = ()) -> Facts:
    """The document of `livetag plan --json`: steps and checks, each with `ok` or `is` and `why`, by transaction."""
    facts: Facts = {
        "steps": [
            _step(number, forecast, step)
            for number, forecast in enumerate(forecasts, 1)
            for step in forecast.steps
        ],
        "checks": [
            {
                "what": c.what,
                "ok": c.ok,
                "why": c.why,
                "fault": c.fault,
                "mark": _mark(c),
                "text": check_text(c),
                "paste": c.paste,
                "transaction": number,
            }
            for number, forecast in enumerate(forecasts, 1)
            for c in forecast.checks
        ],
        "transactions": [_transaction(number, forecast) for number, forecast in enumerate(forecasts, 1)],
        "ok": all(f.kind != "refused" for f in forecasts) and all(v.word != "refused" for v in said),
    }
    tags = [
        {"tag": each.tag, "verdict": each.word, "text": each.text, "pushed": each.pushed} for each in said
    ]
    if tags:
        facts["tags"] = tags
    if drift:
        facts["drift"] = list(drift)
    if len(tags) == 1:
        facts["tag"] = tags[0]
    return facts


def _transaction(number: int, forecast: Forecast) -> Facts:
    return {
        "transaction": number,
        "is": forecast.kind,
        "place": forecast.number,
        "by": list(forecast.group.tags),
        "modules": [step.change.name for step in forecast.steps],
        "text": forecast.text,
        "why": forecast.why,
        "pause": {"expected_us": forecast.expected_us, "text": forecast.pause},
    }


def _step(number: int, forecast: Forecast, step: Step) -> Facts:
    before, after = step.change.before, step.change.after
    entry = after if after is not None else before
    return {
        "module": step.change.name,
        "does": does(step.change),
        "from": before.version if before is not None else None,
        "to": after.version if after is not None else None,
        "by": " ".join(forecast.group.tags),
        "is": forecast.kind,
        "why": forecast.why,
        "text": words.change_text(step.change),
        "package": entry.package if entry is not None else None,
        "state": list(step.states),
        "transaction": number,
    }


def _mark(check: Check) -> str:
    if check.ok:
        return "note" if is_remark(check) else "ok"
    return "not ok" if check.fault is not None else "waits"


def lines(forecast: Forecast) -> list[str]:
    """What a plan says of one transaction below its first line, for the terminal of a pusher."""
    states = [f"{s.change.name} {state_text(s.states)}" for s in forecast.steps if len(s.states) > 1]
    told = [c for c in forecast.checks if not c.ok and c.why.rstrip(".") in forecast.why]
    checks = [f"{_mark(c):<6}  {check_text(c)}" for c in forecast.checks if c not in told]
    migrated = [f"state: {', '.join(states)}"] if states else []
    pause = [f"expected pause: {forecast.pause}"] if forecast.kind in {"ready", "held"} else []
    pastes = [c.paste for c in forecast.checks if c.paste]
    begun = words.to_paste("\n\n".join(pastes)).strip().splitlines()
    return [*migrated, *checks, *pause, *begun]
