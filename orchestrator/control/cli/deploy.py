"""`deploy`, `retry`, `history`: what is to come into service, and what did."""

from typing import Annotated

import typer

from orchestrator.control.cli.failures import Failure
from orchestrator.control.cli.options import DEPLOY, Dir, Json, Wait
from orchestrator.control.cli.reason import who_acts
from orchestrator.control.cli.screen import duration, moment, print_json, say, show_table
from orchestrator.control.cli.session import CONFIRMED_S, UPGRADE_S, Session, view
from orchestrator.control.cli.views import Done, HistoryEntry, Outcome, Outcomes

IN_SERVICE = ("live", "unchanged", "committed", "confirmed")
UNDER_WAY = "under way"
LIFTED = "lifted"  # the tag is not there any more, so a retry can only make its commit welcome again

OneTag = Annotated[
    str, typer.Argument(metavar="TAG", help="A release tag, e.g. counter/v1.2.0.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel=DEPLOY)(deploy)
    app.command(rich_help_panel=DEPLOY)(retry)
    app.command(rich_help_panel=DEPLOY)(confirm)
    app.command(rich_help_panel=DEPLOY)(history)


def deploy(tag: OneTag, named: Dir = None, wait: Wait = None, as_json: Json = False) -> None:
    """Bring TAG into service, or say why not; exit code 0 only if it is in service."""
    _tag("deploy", tag, named, wait=wait, as_json=as_json)


def retry(tag: OneTag, named: Dir = None, wait: Wait = None, as_json: Json = False) -> None:
    """Lift the quarantine of TAG's commit and try it again."""
    _tag("retry", tag, named, wait=wait, as_json=as_json)


def _tag(op: str, tag: str, named: Dir, *, wait: Wait, as_json: bool) -> None:
    arguments: dict[str, object] = {"tag": tag}
    if wait is False:
        arguments["wait"] = False
    if wait:
        arguments["confirmed"] = True
    facts = Session.find(named).ask(op, arguments, timeout_s=CONFIRMED_S if wait else UPGRADE_S)
    finish(facts, as_json=as_json, wait=wait is not False)


def confirm(
    module: Annotated[
        str, typer.Argument(metavar="MODULE", help="A module in probation.", show_default=False)
    ],
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; it is kept in the journal.")
    ] = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """End the probation of MODULE: too little was measured to judge it, or you take it as it is."""
    arguments: dict[str, object] = {"module": module, "reason": reason, "who": f"os:{who_acts()}"}
    facts = Session.find(named).ask("confirm", arguments)
    print_json(facts) if as_json else say(view(facts, Done).text)


def finish(facts: object, *, as_json: bool, wait: bool = True) -> None:
    """Print how an upgrade ended. Raises Failure unless all that was asked for is in service."""
    if as_json:
        print_json(facts)
    outcomes = _outcomes(facts)
    good = (*IN_SERVICE, LIFTED) if wait else (*IN_SERVICE, LIFTED, UNDER_WAY)
    failed = [outcome for outcome in outcomes if outcome.verdict not in good]
    if not as_json:
        for outcome in outcomes:
            if outcome not in failed:
                say(_line(outcome))
    if failed:
        raise Failure("\n".join(_line(outcome) for outcome in failed), in_json=as_json)


def _outcomes(facts: object) -> list[Outcome]:
    if isinstance(facts, dict) and "tags" not in facts:
        return [view(facts, Outcome)]
    return view(facts, Outcomes).tags


def _line(outcome: Outcome) -> str:
    head = " ".join(part for part in (outcome.tag, outcome.verdict) if part)
    return f"{head}: {outcome.text}" if outcome.text else head


def history(
    module: Annotated[
        str | None,
        typer.Argument(metavar="MODULE", help="Only the changes of this module.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Show what changed, newest first; `git log deployments` in a clone tells the same."""
    facts = Session.find(named).ask("history", {"module": module, "limit": limit})
    if as_json:
        print_json(facts)
        return
    entries = view(facts, list[HistoryEntry])
    if not entries:
        say("Nothing has changed yet.")
        return
    show_table(
        ("id", "at", "modules", "outcome", "pause", "held", "reason"),
        [_history_row(entry) for entry in entries],
    )


def _history_row(entry: HistoryEntry) -> tuple[object, ...]:
    changes = ", ".join(str(change) for change in entry.modules)
    pause = duration(entry.pause_us)
    return (entry.id, moment(entry.at), changes, entry.outcome, pause, entry.held_messages, entry.reason)
