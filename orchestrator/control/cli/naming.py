"""`names`, `topics`: who has which name, who hears which topic and what became of the events."""

from typing import Annotated

import msgspec
import typer

from orchestrator.control.cli.options import MODULES, Dir, Json
from orchestrator.control.cli.screen import print_json, say, show_table
from orchestrator.control.cli.session import Session, view


class _Name(msgspec.Struct, frozen=True):
    name: str
    module: str | None = None
    kind: str = ""
    why: str = ""


class _Subscription(msgspec.Struct, frozen=True):
    pattern: str
    module: str
    delivered: int = 0
    dropped: int = 0
    drop_oldest: bool = False


class _Publisher(msgspec.Struct, frozen=True):
    module: str | None = None
    events: int = 0


class _Published(msgspec.Struct, frozen=True):
    topic: str
    by: list[_Publisher] = []
    to: list[str] = []


class _Topics(msgspec.Struct, frozen=True):
    subscriptions: list[_Subscription] = []
    published: list[_Published] = []


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel=MODULES)(names)
    app.command(rich_help_panel=MODULES)(topics)


def names(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this one.", show_default=False)
    ] = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Show which module each name is bound to."""
    facts = Session.find(named).ask("names", {"name": name})
    if as_json:
        print_json(facts)
        return
    rows = view(facts, list[_Name])
    if not rows:
        say("No module is in service, so there are no names.")
        return
    shown = [(row.name, row.module, {"also": "another name"}.get(row.kind, row.why)) for row in rows]
    show_table(("name", "module", "notes"), shown)


def topics(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="Only what takes this one.", show_default=False)
    ] = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Show who subscribes to what, how many events each got or gave up, and who has published."""
    facts = Session.find(named).ask("topics", {"topic": topic})
    if as_json:
        print_json(facts)
        return
    found = view(facts, _Topics)
    if found.subscriptions:
        show_table(
            ("pattern", "subscriber", "delivered", "dropped", "notes"),
            [
                (s.pattern, s.module, s.delivered, s.dropped, "drops the oldest" if s.drop_oldest else "")
                for s in found.subscriptions
            ],
        )
    else:
        say("Nobody subscribes to anything.")
    if found.published:
        show_table(
            ("topic", "published by", "events", "goes to"),
            [
                (p.topic, by.module or "(outside)", by.events, ", ".join(p.to) or "(nobody)")
                for p in found.published
                for by in p.by
            ],
        )
