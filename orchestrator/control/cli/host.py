"""`init`, `run`, `restart`, `status`, `demo`: a deployment and its host."""

import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.control.cli.failures import Failure, HostEnded
from orchestrator.control.cli.options import HOST, Dir, Json
from orchestrator.control.cli.screen import note, print_json, say
from orchestrator.control.cli.session import UPGRADE_S, Session, view
from orchestrator.control.cli.status import show_status
from orchestrator.control.cli.views import HostStatus, Status
from orchestrator.control.client import HostAbsent, HostLost
from orchestrator.control.config import load_config

RESTART_S = 60.0
POLL_S = 0.05


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel=HOST)(init)
    app.command(rich_help_panel=HOST)(run)
    app.command(rich_help_panel=HOST)(restart)
    app.command(rich_help_panel=HOST)(status)
    app.command(rich_help_panel=HOST)(demo)


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the deployment shall be.")],
    work: Annotated[
        Path | None,
        typer.Option(metavar="CLONE", help="Also make a clone to work in, with a first module and its tag."),
    ] = None,
) -> None:
    """Make a deployment: a bare repository to push to, its hooks, and a livetag.toml."""
    from orchestrator.control.init import create, next_lines

    deployment, remarks = create(directory, work, os.environ)
    say(f"Made the deployment {deployment.path}: push to {deployment.store}.")
    if work is not None:
        say(f"Made the clone {work}: the module modules/counter, its test, and the tag counter/v1.0.0.")
    for remark in remarks:
        note(remark)
    if work is None:
        say(f"Next: livetag run {deployment.path}, and push a release tag such as counter/v1.0.0.")
        return
    say("Type next:")
    for line in next_lines(work, deployment):
        say(f"  {line}", style="bold")


def run(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The deployment; else it is found as by --dir.", show_default=False
        ),
    ] = None,
    named: Dir = None,
    level: Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Leave this module out, with its state kept: to come up when one ends each start. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the host of a deployment here, until SIGTERM or Ctrl-C; then it drains, saves and exits."""
    from orchestrator.control.logs import LEVELS, setup_logging

    if level.upper() not in LEVELS:
        raise typer.BadParameter(f"is none of {', '.join(LEVELS)}", param_hint="--log-level")
    deployment = Session.find(directory or named).deployment
    load_config(deployment)  # a broken livetag.toml is said before anything is started
    setup_logging(deployment, level.upper())
    if sys.__stderr__ is not None:  # a crash in C code, of an author's extension say, is not to be silent
        faulthandler.enable(sys.__stderr__)
    from orchestrator.control.host import run as run_host

    try:
        code = run_host(deployment, without or ())
    except Exception as error:
        raise HostEnded(error) from error
    raise typer.Exit(code)


def restart(named: Dir = None) -> None:
    """Restart the host; state and waiting messages are kept."""
    session = Session.find(named)
    before = _host(session)
    try:
        session.ask("restart", {}, timeout_s=UPGRADE_S)
    except HostLost:
        note("the host is going down")  # it may close its socket before its answer is read
    deadline = time.monotonic() + RESTART_S
    while time.monotonic() < deadline:
        try:
            after = _host(session)
        except (HostAbsent, HostLost):
            after = before
        if after != before:
            say(f"The host was restarted: pid {after.pid}.")
            return
        time.sleep(POLL_S)
    raise Failure(
        f"The host did not come back within {RESTART_S:g} s. See {session.deployment.logs}, "
        f"and start it with `livetag run {session.deployment.path}`; the journal has what was in service."
    )


def _host(session: Session) -> HostStatus:
    return view(session.ask("status", {}), Status).host


def status(named: Dir = None, as_json: Json = False) -> None:
    """Show availability, the last change and its undo, and every module."""
    session = Session.find(named)
    try:
        facts = session.ask("status", {})
    except HostAbsent as error:
        raise HostAbsent(f"{error}{_why_absent(session)}") from error
    if as_json:
        print_json(facts)
    else:
        show_status(view(facts, Status))


def _why_absent(session: Session) -> str:
    """What the journal says of hosts that do not stay; empty if it says nothing of the kind."""
    from orchestrator.control.doctor.examine import case_of
    from orchestrator.control.doctor.journal import row_of

    row = row_of(case_of(session.deployment))
    return f" {row.what}. {row.todo}" if row is not None else ""


def demo(
    feed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay this MRT update file, plain or gz.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Upgrade a running BGP monitor in a temporary deployment, and check that nothing is lost."""
    if feed is not None and not feed.is_file():
        raise Failure(
            f"{feed} is no file. Give an MRT update file, or leave --feed away for the built-in feed."
        )
    from orchestrator.control.demo import run_demo

    raise typer.Exit(run_demo(feed, as_json))
