"""Facts of any shape, for people: a table for a list of objects, a line for each plain value."""

import json
from collections.abc import Mapping, Sequence

from orchestrator.control.cli.screen import duration, moment, say, show_table
from orchestrator.control.printable import printable


def show_facts(value: object) -> None:
    """Print `value`, which came from the host as JSON; nothing in it is left out."""
    if isinstance(value, Mapping):
        _show_object(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        _show_list(value)
    elif value is not None:
        say(value)


def _show_object(facts: Mapping[str, object]) -> None:
    for key, value in facts.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            say(f"{printable(_heading(key))}:", style="bold")
            _show_list(value)
        elif value not in (None, [], {}):
            say(f"{printable(_heading(key))}: {_cell(key, value)}")


def _show_list(items: Sequence[object]) -> None:
    rows = [item for item in items if isinstance(item, Mapping)]
    if len(rows) != len(items):
        for item in items:
            say(_cell("", item))
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [key for key in keys if any(row.get(key) not in (None, [], {}, "") for row in rows)]
    show_table(
        [_heading(key) for key in shown], [[_cell(key, row.get(key)) for key in shown] for row in rows]
    )


def _heading(key: str) -> str:
    return key.removesuffix("_us").replace("_", " ")


def _cell(key: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_us") and isinstance(value, (int, float)):
        return duration(value)
    if key == "at" and isinstance(value, (int, float)):
        return moment(value)
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_cell(name, part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
