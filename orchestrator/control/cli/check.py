"""`check`: what a host would look at before a release goes live, on a working copy and without a host."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.control.cli.failures import REFUSED
from orchestrator.control.cli.options import DEPLOY, Json
from orchestrator.control.cli.screen import print_json, say, say_hanging, say_paste

if TYPE_CHECKING:
    from orchestrator.control.check import Finding

MARKS = {True: ("ok", "green"), False: ("not ok", "red"), None: ("note", "yellow")}


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(rich_help_panel=DEPLOY)(check)


def check(
    path: Annotated[
        Path, typer.Argument(metavar="[PATH]", help="A working copy; else the one you stand in.")
    ] = Path(),
    modules: Annotated[
        list[str] | None,
        typer.Option("--module", metavar="NAME", help="Only this module or package; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Start its module from this state, of `livetag state NAME --export FILE`."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a working copy as a host would before it goes live: no host, no commit, nothing is written.

    Exit code 1 if something would be refused.
    """
    import asyncio  # late, as what follows

    from orchestrator.control.check import check as check_working_copy  # late: no other command needs so much
    from orchestrator.control.check import read_state

    began = time.monotonic()
    given = read_state(state) if state is not None else None
    found = asyncio.run(check_working_copy(path, modules or (), given))
    failed = [finding for finding in found if finding.ok is False]
    if as_json:
        print_json(_document(found))
    else:
        _show(found)
        how_many = len(failed) if failed else "None"
        count = f"{how_many} of {len(found)} checks failed"
        say(f"{count} ({time.monotonic() - began:.1f} s).", style="bold")
    if failed:
        raise typer.Exit(REFUSED)


def _show(found: "Sequence[Finding]") -> None:
    for finding in found:
        mark, style = MARKS[finding.ok]
        say_hanging(f"{mark:<6}  ", finding.text, style)
        if finding.paste:
            say_paste(finding.paste)


def _document(found: "Sequence[Finding]") -> dict[str, object]:
    checks = [
        {
            "module": each.module or None,
            "what": each.what,
            "ok": each.ok,
            "why": each.why,
            "text": each.text,
            "paste": each.paste,
        }
        for each in found
    ]
    return {"ok": all(each.ok is not False for each in found), "checks": checks}
