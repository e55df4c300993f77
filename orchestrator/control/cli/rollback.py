"""`rollback`: what it would do and lose, then the question, then the same path as a deploy."""

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.control.cli.deploy import finish
from orchestrator.control.cli.facts import show_facts
from orchestrator.control.cli.failures import Failure, Usage
from orchestrator.control.cli.options import DEPLOY, Dir, Json
from orchestrator.control.cli.plan import show_plan
from orchestrator.control.cli.reason import on_terminal, question
from orchestrator.control.cli.screen import print_json
from orchestrator.control.cli.session import UPGRADE_S, Session, view
from orchestrator.control.cli.views import Plan
from orchestrator.control.clone import Clone


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(rich_help_panel=DEPLOY)(rollback)


def rollback(  # noqa: PLR0917 - the arguments of a command, by their order in its help
    module: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE", help="Undo its last transaction; else the last of all.", show_default=False
        ),
    ] = None,
    txn: Annotated[
        int | None,
        typer.Option(metavar="N", help="The transaction to undo, as `livetag history` numbers it."),
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="Only MODULE, not all of its transaction.")] = False,
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Back to this version; else the last confirmed one."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why; it is written into the history. Asked for on a terminal."),
    ] = None,
    sign: Annotated[
        bool,
        typer.Option(
            "--sign", help="Sign its tags with your key (git config user.signingKey); for the strict policy."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Put back every module of a transaction, as one, and quarantine the commits it leaves."""
    session = Session.find(named)
    asked: dict[str, object] = {"module": module, "txn": txn, "to": to}
    if only:
        asked["only"] = True
    if dry_run:
        preview = _preview(session, asked)
        print_json(preview) if as_json else _show(preview)
        return
    if as_json or not on_terminal():
        if not reason:
            raise Usage(
                "rollback needs --reason TEXT where nobody can be asked. See what it does with --dry-run."
            )
    else:
        preview = _preview(session, asked)
        _show(preview)
        reason = _agreed(reason)
        if isinstance(preview, dict) and "txn" in preview:
            asked["txn"] = preview["txn"]  # what was agreed to, whatever went live meanwhile
    if sign:
        asked = {**asked, **_signed(_preview(session, asked), reason or "")}
    facts = session.ask("rollback", {**asked, "reason": reason, "dry_run": False}, timeout_s=UPGRADE_S)
    finish(facts, as_json=as_json)


def _preview(session: Session, asked: dict[str, object]) -> object:
    return session.ask("rollback", {**asked, "dry_run": True}, timeout_s=UPGRADE_S)


def _signed(preview: object, reason: str) -> dict[str, object]:
    """The tags of the rollback that was shown, signed by the person who asks for it. Raises Failure."""
    from orchestrator.control.signing import NotSigned, sign_tags

    facts = preview if isinstance(preview, dict) else {}
    tags = {str(step["tag"]): str(step["commit"]) for step in facts.get("steps", ())}
    try:
        message = f"Roll back transaction {facts.get('txn')}: {reason}"
        return {"txn": facts.get("txn"), "signed": sign_tags(tags, message, Clone(Path.cwd(), os.environ))}
    except NotSigned as error:
        raise Failure(str(error)) from None


def _show(preview: object) -> None:
    """The rollback, and as a plan what it would do, lose and cost."""
    if not isinstance(preview, dict):
        show_facts(preview)
        return
    show_facts({key: value for key, value in preview.items() if key != "plan"})
    if "plan" in preview:
        show_plan(view(preview["plan"], Plan))


def _agreed(reason: str | None) -> str:
    """Ask for agreement and, unless it was given, the reason. Raises Failure when the answer is not yes."""
    if question("Roll back? [y/N] ").lower() not in ("y", "yes"):
        raise Failure("Nothing was changed.")
    reason = reason or question("Why: ")
    if not reason:
        raise Failure(
            "Nothing was changed: a rollback needs a reason, the next reader of the history has only that."
        )
    return reason
