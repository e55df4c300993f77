"""`selftest`: kills at each durable step, on the user's own modules, in a scratch deployment."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.control.cli.failures import DONE, INTERRUPTED, REFUSED, Failure, Usage
from orchestrator.control.cli.options import HOST, Dir, Json
from orchestrator.control.cli.reason import on_terminal, question
from orchestrator.control.cli.screen import console, note, print_json, say
from orchestrator.control.config import find_deployment

if TYPE_CHECKING:
    from rich.progress import Progress

    from orchestrator.control.selftest.matrix import Outcome
    from orchestrator.control.selftest.origin import Origin
    from orchestrator.control.selftest.report import Report

QUICK_S = 60.0
REPORT = Path("livetag-selftest.md")
_WARNING = (
    "The modules are really run, in a deployment of their own, and killed there again and again: whatever they do in "
    "prepare, resources, intakes and handlers they do there too. They may bind ports that a running host holds, and send "
    "to the world. --config FILE gives them another app.toml, e.g. with other ports."
)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=HOST)(selftest)


def selftest(  # noqa: PLR0917  # typer reads them
    named: Dir = None,
    repo: Annotated[
        Path | None,
        typer.Option(
            metavar="CLONE",
            help="Test the files of this working copy, uncommitted ones too, not what is in service.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick", help="Kill at every point of every scenario; --quick: for about a minute."
        ),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0.0, help="Begin no kill after N seconds; without --full 60.", show_default=False
        ),
    ] = None,
    points: Annotated[
        str,
        typer.Option(metavar="GLOB", help="Only these points, e.g. 'deploy/journal.*'.", show_default=False),
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An app.toml in place of the composition in service.", show_default=False
        ),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to make the scratch deployment, else the folder for temporary files: the disk matters.",
            show_default=False,
        ),
    ] = None,
    report_file: Annotated[
        Path, typer.Option("--report", metavar="FILE", help="Where the report goes, as Markdown.")
    ] = REPORT,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch deployment.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the modules may be run.")] = False,
    as_json: Json = False,
) -> None:
    """Check on your own modules that a crash leaves all old or all new: kill a copy of them at each durable step."""
    from orchestrator.control.interrupts import interrupted_by_signals
    from orchestrator.control.selftest.errors import SelftestImpossible
    from orchestrator.control.selftest.report import document, markdown, verdict
    from orchestrator.control.selftest.run import Options, selftest

    if repo is not None and named is not None:
        raise Usage("--dir and --repo: test what is in service there, or a working copy, one of them.")
    for path in (repo, scratch):
        if path is not None and not path.is_dir():
            raise Usage(f"{path} is no folder.")
    if config is not None and not config.is_file():
        raise Usage(f"{config} is no file. --config takes an app.toml.")
    make = _origin(named, repo, config)
    _consent(yes)
    _writable(report_file)
    limit = seconds if seconds is not None else None if full or points else QUICK_S
    options = Options(scratch, limit, points, keep, _command())
    try:
        with interrupted_by_signals(), _watching() as watcher:
            report = selftest(make, options, watcher)
    except SelftestImpossible as error:
        raise Failure(
            f"The selftest could not be made, which says nothing about the claim: {error}"
        ) from error
    report_file.write_text(markdown(report), encoding="utf-8", errors="backslashreplace")
    if as_json:
        print_json(document(report))
    else:
        _show(report, verdict(report))
    note(f"The report is in {report_file}.")
    raise typer.Exit(INTERRUPTED if report.interrupted else DONE if report.ok else REFUSED)


def _origin(named: Path | None, repo: Path | None, config: Path | None) -> Callable[[Path], Origin]:
    """Where the modules come from; a deployment that is not there is said now, before anybody is asked."""
    from orchestrator.control.selftest.origin import of_deployment, of_working_copy

    if repo is not None:
        return lambda folder: of_working_copy(repo, folder, config)
    deployment = find_deployment(named, os.environ, Path.cwd())
    return lambda _folder: of_deployment(deployment, config)


def _consent(yes: bool) -> None:
    if yes:
        return
    note(_WARNING, "yellow")
    if not on_terminal():
        raise Usage(
            "selftest runs your modules, so it needs --yes where nobody can be asked. Nothing was run."
        )
    if question("Run them? [y/N] ").lower() not in {"y", "yes"}:
        raise Failure("Nothing was run.")


def _writable(report: Path) -> None:
    """Raises Failure now, rather than after a minute's work."""
    if report.is_dir() or not os.access(report if report.exists() else report.absolute().parent, os.W_OK):
        raise Failure(
            f"The report cannot be written to {report}. Name another file with --report FILE. Nothing was run."
        )


def _command() -> str:
    """This command as it was typed, to be typed again, without the points that it chose."""
    given = list(sys.argv[1:])
    if "--points" in given:
        del given[given.index("--points") : given.index("--points") + 2]
    kept = [word for word in given if not word.startswith("--points=") and word not in {"--keep", "--json"}]
    return shlex.join(["livetag", *kept])


def _show(report: Report, line: str) -> None:
    say(line, "bold red" if report.failure is not None else "bold")
    if report.failure is not None:
        say(
            f"  it lies in {report.failure.kept}: d/ is the deployment, work/ the clone, host.log what its hosts said"
        )
        say(f"  again: {report.failure.replay}")


class _Watcher:
    """Shows a bar on a terminal; elsewhere a line now and then."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = bar.add_task("bringing it up", total=None) if bar is not None else None
        self._done, self._total = 0, 0

    def say(self, text: str) -> None:
        note(text)

    def begin(self, total: int) -> None:
        self._total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total, description="killing")
        note(f"{total} {'kill' if total == 1 else 'kills'} to be made")

    def done(self, outcome: Outcome) -> None:
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=outcome.name)
        elif self._done % 10 == 0 or self._done == self._total:
            note(f"{self._done} of {self._total}: {outcome.name}: {outcome.side}")


@contextmanager
def _watching() -> Iterator[_Watcher]:
    out = console(stderr=True)
    if not out.is_terminal:
        yield _Watcher(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        yield _Watcher(bar)
