"""`interface`: what a module in service handles and says, as tables, as JSON, or as a typed client to paste."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from orchestrator.control.annotations import Annotations
from orchestrator.control.cli.failures import Usage
from orchestrator.control.cli.options import MODULES, Dir, Json, ModuleName
from orchestrator.control.cli.screen import print_json, say, show_table
from orchestrator.control.cli.session import Session, view
from orchestrator.control.stub import client_source

Schema = dict[str, Any]  # Any: JSON


class _Handled(msgspec.Struct, frozen=True):
    type: str
    body: Schema
    older: list[Schema] = []
    returns: Schema | None = None


class _Heard(msgspec.Struct, frozen=True):
    topic: str
    body: Schema


class _Emitted(msgspec.Struct, frozen=True):
    how: str
    to: str
    type: str
    where: str


class _State(msgspec.Struct, frozen=True):
    version: int
    schema: Schema


class _Interface(msgspec.Struct, frozen=True):
    module: str
    version: str
    names: list[str]
    handles: list[_Handled]
    subscribes: list[_Heard]
    emits: list[_Emitted]
    every: dict[str, float]
    intakes: list[str]
    state: _State


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(rich_help_panel=MODULES)(interface)


def interface(
    name: ModuleName,
    stub: Annotated[
        bool, typer.Option("--stub", help="Print a typed client class, to paste into another module.")
    ] = False,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Show what a module handles, subscribes to, sends, publishes and keeps."""
    if stub and as_json:
        raise Usage("--stub prints Python, --json prints JSON. Give one of them.")
    facts = Session.find(named).ask("interface", {"name": name})
    if as_json:
        print_json(facts)
    elif stub and isinstance(facts, Mapping):
        sys.stdout.write(client_source(facts))
    else:
        _show(view(facts, _Interface))


def _show(found: _Interface) -> None:
    more = [name for name in found.names if name != found.module]
    also = f", also {', '.join(more)}" if more else ""
    say(f"{found.module} {found.version}{also}", style="bold")
    if found.handles:
        rows = [[h.type, _takes(h.body), _returns(h), len(h.older) or None] for h in found.handles]
        show_table(["handles", "with", "returns", "older shapes"], rows)
    if found.subscribes:
        show_table(
            ["subscribes to", "with"], [[heard.topic, _takes(heard.body)] for heard in found.subscribes]
        )
    said = [[e.how, e.to, e.type, e.where] for e in found.emits]
    if said:
        show_table(["says by", "to", "type", "where"], said)
    clock = [[name, f"every {seconds:g} s"] for name, seconds in found.every.items()]
    if clock or found.intakes:
        show_table(["on its own", "when"], [*clock, *([name, "input comes"] for name in found.intakes)])
    show_table([f"state, version {found.state.version}", "type"], _fields(found.state.schema))


def _returns(handled: _Handled) -> str:
    return Annotations().of(handled.returns) if handled.returns is not None else "not said"


def _takes(body: Schema) -> str:
    """`key: str, by: int = 1`, or the whole body's type."""
    fields = _body_fields(body) if body.get("noneIsEmpty") else None
    return (
        Annotations().of(body) if fields is None else ", ".join(": ".join(row) for row in fields) or "nothing"
    )


def _fields(schema: Schema) -> list[list[str]]:
    return _body_fields(schema) or [["", Annotations().of(schema)]]


def _body_fields(schema: Schema) -> list[list[str]]:
    defs = schema.get("$defs", {})
    named = defs.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    needed = named.get("required", ())
    return [
        [name, f"{Annotations().of(part, defs)}{'' if name in needed else _default(part)}"]
        for name, part in named.get("properties", {}).items()
    ]


def _default(part: Schema) -> str:
    return f" = {part['default']!r}" if "default" in part else ", optional"
