"""`load`, `unload`, `enable`, `disable`, `swap`, `bind`, `unbind`, `hold`, `unhold`: the running set, changed by hand."""

from typing import Annotated

import typer

from orchestrator.control.cli.options import RECONFIGURE, Dir, Json, ModuleName
from orchestrator.control.cli.reason import reason_for, who_acts
from orchestrator.control.cli.screen import print_json, say
from orchestrator.control.cli.session import UPGRADE_S, Session, view
from orchestrator.control.cli.views import Done

Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why; it is shown as long as it holds. Asked for on a terminal."),
]
BoundName = Annotated[str, typer.Argument(metavar="NAME", help="The name.", show_default=False)]
Held = Annotated[
    str | None, typer.Argument(metavar="MODULE", help="Only this module; else all.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (load, unload, enable, disable, swap, bind, unbind, hold, unhold):
        app.command(rich_help_panel=RECONFIGURE)(command)


def load(  # noqa: PLR0917 - the arguments of a command, by their order in its help
    name: ModuleName,
    package: Annotated[
        str | None, typer.Option(metavar="P", help="The package it is made from; else its name.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="V", help="This version; else the one in the tags.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Load it, but not into service.")] = False,
    reason: Reason = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Add a module that the composition does not have, or bring back one that was unloaded."""
    more: dict[str, object] = {"package": package, "version": version, "disabled": disabled or None}
    _order("load", {"name": name, **more}, reason, named, as_json=as_json)


def unload(name: ModuleName, reason: Reason = None, named: Dir = None, as_json: Json = False) -> None:
    """Take a module out. Its state is kept for its return; what waits for it goes to the dead letters."""
    _order("unload", {"name": name}, reason, named, as_json=as_json)


def enable(name: ModuleName, reason: Reason = None, named: Dir = None, as_json: Json = False) -> None:
    """Put a disabled module back in service, with its state and all that waited for it."""
    _order("enable", {"name": name}, reason, named, as_json=as_json)


def disable(name: ModuleName, reason: Reason = None, named: Dir = None, as_json: Json = False) -> None:
    """Take a module out of service: it stays loaded, what waits for it stays, who sends to it is told why."""
    _order("disable", {"name": name}, reason, named, as_json=as_json)


def swap(
    name: ModuleName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A released version.", show_default=False)
    ],
    reason: Reason = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Put another released version of its package in service, for this module alone."""
    _order("swap", {"name": name, "version": version}, reason, named, as_json=as_json)


def bind(
    name: BoundName, module: ModuleName, reason: Reason = None, named: Dir = None, as_json: Json = False
) -> None:
    """Give a module one more name; one that another has is moved between two messages."""
    _order("bind", {"name": name, "module": module}, reason, named, as_json=as_json)


def unbind(name: BoundName, reason: Reason = None, named: Dir = None, as_json: Json = False) -> None:
    """Take a name from the module that has it; sends to it fail then."""
    _order("unbind", {"name": name}, reason, named, as_json=as_json)


def hold(module: Held = None, reason: Reason = None, named: Dir = None, as_json: Json = False) -> None:
    """Let nothing go live on its own; a push says so, and `livetag deploy TAG` goes through."""
    _order("hold", {"name": module}, reason, named, as_json=as_json)


def unhold(module: Held = None, named: Dir = None, as_json: Json = False) -> None:
    """End a hold: what has been pushed meanwhile goes live."""
    _send("unhold", {"name": module, "who": who_acts()}, named, as_json=as_json)


def _order(op: str, arguments: dict[str, object], reason: str | None, named: Dir, *, as_json: bool) -> None:
    why = reason_for(op, reason)
    _send(op, {**arguments, "who": who_acts(), "reason": why}, named, as_json=as_json)


def _send(op: str, arguments: dict[str, object], named: Dir, *, as_json: bool) -> None:
    facts = Session.find(named).ask(op, arguments, timeout_s=UPGRADE_S)
    if as_json:
        print_json(facts)
    else:
        say(view(facts, Done).text)
