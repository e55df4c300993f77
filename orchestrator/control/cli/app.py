"""The command line: its panels, and the four exit codes (DESIGN §9)."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.control.cli.failures import DONE, INTERRUPTED, exit_code
from orchestrator.control.cli.screen import note, say

FILES: Mapping[str, tuple[str, ...]] = {
    "host": ("init", "run", "restart", "status", "demo"),
    "check": ("check",),
    "doctor": ("doctor",),
    "selftest": ("selftest",),
    "plan": ("plan",),
    "deploy": ("deploy", "retry", "confirm", "history"),
    "rollback": ("rollback",),
    "reconfigure": ("load", "unload", "enable", "disable", "swap", "bind", "unbind", "hold", "unhold"),
    "messages": ("state", "send", "ask", "publish", "dead-letters"),
    "naming": ("names", "topics"),
    "interface": ("interface",),
    "shell": ("shell",),
}
"""File of this folder → the commands that it registers, in the order of the help."""


def build(command: str | None = None) -> typer.Typer:
    """Return the command line with all its commands, or with those of the file that has `command`.

    To import all files and read all their parameters takes longer than most commands, and a host starts as one.
    """
    app = typer.Typer(
        name="livetag",
        help="Push a tag, and it is live: upgrade the modules of a running Python service.",
        epilog="Exit codes: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage, 3 a bug.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global)
    asked = [file for file, commands in FILES.items() if command in commands]
    for file in asked or FILES:
        import_module(f"orchestrator.control.cli.{file}").register(app)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # 15 ms of every other command

        try:
            say(version("livetag"))
        except PackageNotFoundError:
            say("not installed, run from its source")
        raise typer.Exit


def _global(
    shown: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del shown


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing but SystemExit's bearers gets past."""
    if (
        sys.stdout is None
    ):  # started with it closed, as by `>&-`: an answer goes nowhere, but has an exit code
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it is open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that knows only ASCII still gets its answer
    try:
        build(arguments[0] if arguments else None)(list(arguments), prog_name="livetag")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE if end.code is None else 1
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last door: whatever is left is told apart there
        return exit_code(error, as_json="--json" in arguments)
    return DONE


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    sys.exit(execute(sys.argv[1:]))
