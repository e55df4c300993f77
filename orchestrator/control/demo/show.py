"""The end of a demo for people and for programs: what happened, what was counted, what held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.control.cli.screen import duration, print_json, say, show_table
from orchestrator.control.demo.checks import Checked
from orchestrator.control.demo.facts import Facts


def show_json(facts: Facts, checked: Sequence[Checked]) -> None:
    """Print one JSON document."""
    print_json(document(facts, checked))


def document(facts: Facts, checked: Sequence[Checked]) -> dict[str, Any]:
    boxes = {name: {**asdict(box), "lost": box.lost} for name, box in facts.mailboxes.items()}
    return {
        "table": [asdict(step) for step in facts.steps],
        "modules": boxes,
        "messages": {
            name: sum(box[name] for box in boxes.values()) for name in ("accepted", "handled", "dead", "lost")
        },
        "availability": facts.availability,
        "feed": dict(facts.seen.counts),
        "alerts": len(facts.seen.alerts),
        "log": list(facts.log),
        "checks": [asdict(one) for one in checked],
        "seconds": round(facts.seconds, 3),
        "ok": all(one.ok for one in checked),
    }


def show(facts: Facts, checked: Sequence[Checked]) -> None:
    """Print the tables, the log of deployments and the checks."""
    show_table(
        (
            "push",
            "module",
            "before",
            "after",
            "outcome",
            "pause",
            "messages waiting",
            "handled meanwhile",
            "took",
        ),
        [
            (
                step.tag,
                step.module,
                step.before,
                step.after,
                step.outcome if step.good else f"{step.outcome}, refused",
                duration(step.pause_us) if step.outcome == "committed" else "",
                step.held_messages,
                step.handled_after - step.handled_before,
                f"{step.seconds:.1f} s",
            )
            for step in facts.steps
        ],
    )
    blank()
    show_table(
        ("module", "accepted", "handled", "dead letters", "lost"),
        [(name, box.accepted, box.handled, box.dead, box.lost) for name, box in facts.mailboxes.items()],
    )
    blank()
    counts = ", ".join(f"{count} {name}" for name, count in facts.seen.counts.items())
    say(f"feed: {facts.seen.records} records, {counts}; {len(facts.seen.alerts)} alerts")
    say(f"availability {facts.availability:.6%}, {facts.seconds:.1f} s in all")
    blank()
    say("git log deployments", style="bold")
    for line in facts.log:
        say(f"  {line}")
    blank()
    for one in checked:
        say(
            f"{'ok    ' if one.ok else 'FAILED'} {one.what}{'' if one.ok else f': {one.why}'}",
            "" if one.ok else "bold red",
        )


def blank() -> None:
    say("")
