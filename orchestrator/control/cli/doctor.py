"""`doctor`: what is wrong with a deployment and what to do about it. Works without a host."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.control.cli.failures import DONE, REFUSED
from orchestrator.control.cli.options import HOST, Dir, Json
from orchestrator.control.cli.screen import note, print_json, say
from orchestrator.control.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=HOST)(doctor)


def doctor(
    named: Dir = None,
    repairs: Annotated[
        bool, typer.Option("--repair", help="Also put right what can be put right without losing anything.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Examine a deployment, with or without its host: journal, history, stage, hooks, socket, repository."""
    from orchestrator.control.doctor.examine import examine, repair

    deployment = Session.find(named).deployment
    report = repair(deployment) if repairs else examine(deployment)
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "checks": [
                    {"check": f.check, "ok": f.ok, "what": f.what, "todo": f.todo} for f in report.findings
                ],
                "repaired": list(report.repaired),
            }
        )
        raise typer.Exit(DONE if report.ok else REFUSED)
    for done in report.repaired:
        note(f"repaired: {done}")
    for finding in report.findings:
        say(
            f"{'ok   ' if finding.ok else 'WRONG'} {finding.check}: {finding.what}",
            "" if finding.ok else "bold yellow",
        )
        if not finding.ok:
            say(f"      {finding.todo}")
    wrong = sum(not finding.ok for finding in report.findings)
    say(
        f"{wrong} of {len(report.findings)} checks found something wrong." if wrong else "Nothing is wrong.",
        "bold",
    )
    raise typer.Exit(DONE if report.ok else REFUSED)
