"""`shell`: the forced command of an ssh key."""

import os
from typing import Annotated

import typer

from orchestrator.control.cli.failures import Failure
from orchestrator.control.cli.options import HOST, Dir
from orchestrator.control.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(rich_help_panel=HOST)(shell)


def shell(
    principal: Annotated[
        str,
        typer.Argument(
            metavar="PRINCIPAL", help="Whose key it is, e.g. alice@example.org.", show_default=False
        ),
    ],
    named: Dir = None,
) -> None:
    """Serve an ssh key as its forced command: push and fetch this deployment, look at it, and nothing else.

    In authorized_keys: command="livetag shell alice@example.org --dir DIR",restrict ssh-ed25519 AAAA...
    """
    from orchestrator.control.shell import Git, ShellRefused, decide

    session = Session.find(named)
    try:
        found = decide(principal, session.deployment, os.environ)
    except ShellRefused as error:
        raise Failure(str(error)) from None
    if isinstance(found, Git):
        os.execvpe(found.argv[0], found.argv, dict(found.env))  # noqa: S606 - no shell, no text of the client's
    from orchestrator.control.cli.app import execute

    raise typer.Exit(execute(found.arguments))
