"""The arguments and options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

# the panels of --help
HOST, DEPLOY, RECONFIGURE, MODULES, MESSAGES = "Host", "Deploy", "Reconfigure", "Modules", "Messages"

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The deployment. Else LIVETAG_DIR, else the nearest folder above with a livetag.toml, "
        "else what `git config livetag.dir` says here.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="Stay until the end of its probation, too; or not even until it is in service.",
        show_default="until it is in service",
    ),
]
ModuleName = Annotated[str, typer.Argument(metavar="NAME", help="A module's name.", show_default=False)]
MessageType = Annotated[str, typer.Argument(metavar="TYPE", help="The message type.", show_default=False)]
Body = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD",
        help="The body: key=text number:=2, or one JSON object.",
        show_default=False,
    ),
]
