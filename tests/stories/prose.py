"""What users read when something is refused, kept in one file to be read as prose: tests/messages.txt.

Each section is a heading and what was printed, with what differs from run to run replaced by a placeholder.
`UPDATE_MESSAGES=1 pytest tests/gallery` writes the sections of the cases that ran anew.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = Path(__file__).parents[1] / "messages.txt"
UPDATE = "UPDATE_MESSAGES"

_CHANGING = (
    (re.compile(r"\b(?:[0-9a-f]{40}|[0-9a-f]{12}|(?=[a-f]*[0-9])[0-9a-f]{7})\b"), "<id>"),
    (re.compile(r"\d+(?:\.\d+)? µs"), "<n> µs"),
    (re.compile(r"the switch took \d+(?:\.\d+)? ms"), "the switch took <n> ms"),
    (re.compile(r"transaction \d+"), "transaction <n>"),
    (re.compile(r"(passed in|passed its trial in) \d+\.\d+ s"), r"\1 <n> s"),
    (re.compile(r"(checks failed) \(\d+\.\d+ s\)"), r"\1 (<n> s)"),
    (
        re.compile(r"\d+(?:\.\d+)? ms(?= in the trial)|(?<=migration )\d+\.\d+ ms|(?<=about )\d+\.\d+ ms"),
        "<n> µs",
    ),
    (re.compile(r"\b\d+ messages? waited"), "<n> messages waited"),
    (re.compile(r"\b(Python|runs) 3\.\d+(?:\.\d+)?"), r"\1 <version>"),
)


def transcript(command: str, done: subprocess.CompletedProcess[str], paths: Mapping[str, str]) -> str:
    """The command, what it printed, and how it ended, without what differs from run to run.

    `paths`: what stands for a path of this run.
    """
    lines = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
    text = "\n".join([f"$ {command}", *lines, f"(exit {done.returncode})"])
    for path, name in paths.items():
        text = text.replace(path, name)
    for pattern, name in _CHANGING:
        text = pattern.sub(name, text)
    return text


def sections(text: str) -> dict[str, str]:
    """Heading → what stands below it, in the order of the file."""
    parts = re.split(r"(?m)^## (.+)\n", text)
    return {heading: body.strip("\n") for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def written(file: Path = FILE) -> dict[str, str]:
    """What the file holds; nothing if there is none."""
    return sections(file.read_text(encoding="utf-8")) if file.exists() else {}


def updating() -> bool:
    """Whether the file is to be written anew instead of compared."""
    return os.environ.get(UPDATE, "") == "1"


def write(found: Mapping[str, str], order: Sequence[str], file: Path, head: str) -> None:
    """Put what was found into the file, by that order of headings; what did not run keeps its text."""
    kept = {**written(file), **found}
    parts = [f"## {heading}\n\n{kept[heading]}\n" for heading in order if heading in kept]
    file.write_text("\n\n".join([head, *parts]), encoding="utf-8")
