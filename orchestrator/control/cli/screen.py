"""What commands print: facts on stdout, progress and complaints on stderr, nothing of it ever as markup."""

import json
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.control.printable import printable, printable_lines

if TYPE_CHECKING:  # rich is 15 ms of a start, and a host that starts, or an answer in JSON, has no use for it
    from rich.console import Console

PIPE_WIDTH = 2000  # a table in a pipe is for grep, one row a line: rich would fold it at 80


def console(*, stderr: bool = False) -> "Console":
    """Return a console for stdout or stderr as they are now; text goes through as it is, without markup."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def hanging(text: object) -> str:
    """Return `text` with its further lines indented: one from outside cannot pass for a line of ours."""
    return printable_lines(text).replace("\n", "\n    ")


def _print(text: str, style: str = "", *, stderr: bool = False) -> None:
    from rich.text import Text

    console(stderr=stderr).print(Text(text, style=style), soft_wrap=True)


def say(text: object, style: str = "") -> None:
    """Print one fact on stdout."""
    _print(hanging(text), style)


def say_hanging(head: str, text: object, style: str = "") -> None:
    """Print `text` behind `head`; on a terminal its further lines stand below its first one."""
    from rich.text import Text

    out = console()
    shown = printable(text)
    width = max(20, out.width - len(head))
    lines = textwrap.wrap(shown, width, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        before = head if number == 0 else " " * len(head)
        out.print(Text.assemble((before, style), line), soft_wrap=True)


def say_paste(source: str) -> None:
    """Print source that can be pasted, below a fact, with its own indentation behind ours."""
    _print(textwrap.indent(printable_lines(source), " " * 8))


def note(text: object, style: str = "dim") -> None:
    """Print progress on stderr, so that stdout stays what was asked for."""
    _print(hanging(text), style, stderr=True)


def complain(text: object) -> None:
    """Print the reason of a failure on stderr."""
    from rich.text import Text

    console(stderr=True).print(Text.assemble(("error: ", "bold red"), hanging(text)), soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as one JSON document, ASCII only, so that it is safe to look at as well."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def show_value(value: object) -> None:
    """Print a reply or a state for people: a text as it is, anything else as JSON."""
    _print(
        printable_lines(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))
    )


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of plain cells; None is an empty cell."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        *(Column(Text(printable(heading))) for heading in headings),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
    )
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(cell)) for cell in row))
    out = console()
    with out.capture() as drawn:
        out.print(table)
    lines = (line.rstrip() for line in drawn.get().splitlines())
    out.file.write("".join(f"{line}\n" for line in lines if line))


def moment(at: float | str | None) -> str:
    """Return a point in time as people here write it: local, to the second."""
    if at is None or isinstance(at, str):
        return at or ""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(at: float | str | None) -> str:
    """Return how long ago `at` was, in the largest unit that fits: `3 min ago`."""
    if not isinstance(at, (int, float)):
        return moment(at)
    seconds = max(0.0, time.time() - at)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def duration(micros: float | None) -> str:
    """Return a pause in the unit that reads best: `47 µs`, `1.20 ms`, `2.0 s`."""
    if micros is None:
        return ""
    if micros < 1000:
        return f"{micros:.0f} µs"
    return f"{micros / 1000:.2f} ms" if micros < 1_000_000 else f"{micros / 1_000_000:.1f} s"
