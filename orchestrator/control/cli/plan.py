"""`plan`: what would be done, transaction by transaction, and nothing of it is done."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.control.cli.failures import REFUSED
from orchestrator.control.cli.options import DEPLOY, Dir, Json
from orchestrator.control.cli.screen import print_json, say, say_hanging, say_paste, show_table
from orchestrator.control.cli.session import UPGRADE_S, Session, view
from orchestrator.control.cli.views import Plan, PlanCheck, PlanDrift, PlanTransaction

Tags = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TAG]...", help="Release tags; else all that the tags ask for.", show_default=False
    ),
]
Repo = Annotated[
    Path | None,
    typer.Option(
        "--repo",
        metavar="PATH",
        help="A clone that has TAG, to plan it before it is pushed.",
        show_default=False,
    ),
]
Trial = Annotated[
    bool,
    typer.Option("--trial/--no-trial", help="Try each release out in a child process, as a deploy does."),
]


STYLES = {"ok": "green", "note": "yellow", "waits": "yellow", "not ok": "red"}


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(rich_help_panel=DEPLOY)(plan)


def plan(
    tags: Tags = None, repo: Repo = None, trial: Trial = True, named: Dir = None, as_json: Json = False
) -> None:
    """Show what would be done, with every check, and do nothing.

    Exit code 1 if something of it would be refused; 0 if it would go, wait, or change nothing.
    """
    asked: dict[str, object] = {"tags": tags or None, "trial": None if trial else False}
    if repo is not None:
        asked["repo"] = str(repo.expanduser().absolute())
    facts = Session.find(named).ask("plan", asked, timeout_s=UPGRADE_S)
    found = view(facts, Plan)
    if as_json:
        print_json(facts)
    else:
        show_plan(found)
    if not found.ok:
        raise typer.Exit(REFUSED)


def show_plan(found: Plan) -> None:
    """Print a plan: its transactions in their order, each with its steps, checks and pause."""
    shown = {tag for each in found.transactions for tag in each.by}
    for tag in found.tags:
        if tag.tag not in shown:
            say(f"Nothing is to be done: {tag.tag} {tag.verdict}: {tag.text}")
    if not found.tags and not found.transactions:
        say("Nothing is to be done.")
    for each in found.transactions:
        _show_transaction(each, found)
    for drift in found.drift:
        _show_drift(drift)


def _show_transaction(each: PlanTransaction, found: Plan) -> None:
    pushed = {tag.tag: tag.pushed for tag in found.tags}
    names = [tag if pushed.get(tag, True) else f"{tag} (not pushed)" for tag in each.by]
    place = f"{each.transaction}. " if len(found.transactions) > 1 else ""
    say_hanging(place, f"{' '.join(names)}: {each.text}", style="bold")
    rows = [
        (step.module, step.does, step.before, step.after, "→".join(map(str, step.state)))
        for step in found.steps
        if step.transaction == each.transaction
    ]
    if rows:
        show_table(("module", "does", "from", "to", "state"), rows)
    if each.kind == "held":
        say_hanging("held    ", each.why, "yellow")
    for check in found.checks:
        if check.transaction == each.transaction:
            _show_check(check)
    if each.kind in {"held", "ready"}:
        say_hanging("Expected pause: ", each.pause.text)


def _show_drift(drift: PlanDrift) -> None:
    said = f"{drift.module} {drift.what}, by {drift.who}: {drift.why or 'no reason given'}"
    say_hanging("drift   ", f"{said}. It ends with this plan: {drift.ends}" if drift.ends else said, "yellow")


def _show_check(check: PlanCheck) -> None:
    mark = check.mark if check.mark in STYLES else "ok" if check.ok else "not ok"
    say_hanging(f"{mark:<6}  ", check.text or f"{check.what}: {check.why}", STYLES[mark])
    if check.paste:
        say_paste(check.paste)
