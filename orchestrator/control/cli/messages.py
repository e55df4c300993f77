"""`state`, `send`, `ask`, `publish`, `dead-letters`: talking to modules, and reading what they hold."""

from collections.abc import Mapping
from typing import Annotated

import typer

from orchestrator.control.cli.body import parse_body
from orchestrator.control.cli.facts import show_facts
from orchestrator.control.cli.failures import Usage
from orchestrator.control.cli.options import MESSAGES, MODULES, Body, Dir, Json, MessageType, ModuleName
from orchestrator.control.cli.screen import print_json, say, show_value
from orchestrator.control.cli.session import FACTS_S, Session
from orchestrator.control.cli.state_files import export_to, import_from
from orchestrator.control.printable import printable

LetterId = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="As `dead-letters list` shows it.", show_default=False),
]
Every = Annotated[bool, typer.Option("--all", help="Every dead letter.")]

letters = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Messages that could not be handled."
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel=MODULES)(state)
    app.command(rich_help_panel=MESSAGES)(send)
    app.command(rich_help_panel=MESSAGES)(ask)
    app.command(rich_help_panel=MESSAGES)(publish)
    app.add_typer(letters, name="dead-letters", rich_help_panel=MESSAGES)


def state(  # noqa: PLR0917 - the arguments of a command, by their order in its help
    name: ModuleName,
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="A part of it, e.g. by_key.apples.", show_default=False),
    ] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="Write it to a file; - for stdout.")
    ] = None,
    import_: Annotated[
        str | None, typer.Option("--import", metavar="FILE", help="Put the state of a file in its place.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why it is imported.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Import also a state of another package.")] = False,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Show a module's state or a part of it, export it to a file, or import it from one."""
    if sum(given is not None for given in (path, export, import_)) > 1:
        raise Usage("Say one of PATH, --export FILE and --import FILE.")
    session = Session.find(named)
    if export is not None:
        export_to(session, name, export)
    elif import_ is not None:
        import_from(session, name, import_, reason, force=force, as_json=as_json)
    else:
        show(session.ask("state", {"name": name, "path": path}), as_json=as_json)


def send(  # noqa: PLR0917 - the arguments of a command, by their order in its help
    name: ModuleName,
    kind: MessageType,
    body: Body = None,
    wait_s: Annotated[
        float,
        typer.Option("--wait", min=0.0, max=86400.0, help="Seconds to wait until a module has the name."),
    ] = 0.0,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Put a message into a module's mailbox; done means accepted, not yet handled."""
    session = Session.find(named)
    given = {"name": name, "type": kind, "body": parse_body(body or []), "wait_s": wait_s or None}
    facts = session.ask("send", given, timeout_s=wait_s + FACTS_S)
    if as_json:
        print_json(facts)
    else:
        say(f"{name} accepted {kind}.")


def ask(  # noqa: PLR0917 - the arguments of a command, by their order in its help
    name: ModuleName,
    kind: MessageType,
    body: Body = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.001, max=86400.0, help="Seconds to wait for the reply.")
    ] = 5.0,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Send a message and print what its handler returns."""
    session = Session.find(named)
    asked = {"name": name, "type": kind, "body": parse_body(body or []), "timeout_s": timeout_s}
    show(session.ask("ask", asked, timeout_s=timeout_s + FACTS_S), as_json=as_json)


def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="E.g. clock.second.", show_default=False)],
    body: Body = None,
    named: Dir = None,
    as_json: Json = False,
) -> None:
    """Publish an event to every module that subscribes to TOPIC."""
    facts = Session.find(named).ask("publish", {"topic": topic, "body": parse_body(body or [])})
    if as_json:
        print_json(facts)
    else:
        say(f"Published {topic}.")


@letters.command("list")
def list_letters(named: Dir = None, as_json: Json = False) -> None:
    """Show the dead letters, why each is one, and whether its first try may have had effects."""
    facts = Session.find(named).ask("dead_letters", {"action": "list"})
    if as_json:
        print_json(facts)
    elif not facts:
        say("There are no dead letters.")
    else:
        show_facts([_with_effects(letter) for letter in facts] if isinstance(facts, list) else facts)


def _with_effects(letter: object) -> object:
    """A letter for people: what it may have done stands with its reason, which names the version as well."""
    if not isinstance(letter, Mapping):
        return letter
    shown = {key: value for key, value in letter.items() if key not in {"may_have_had_effects", "version"}}
    if effects := letter.get("may_have_had_effects"):
        shown["reason"] = f"{letter.get('reason')}; may have had effects: {effects}"
    return shown


@letters.command("retry")
def retry_letters(
    which: LetterId = None, every: Every = False, named: Dir = None, as_json: Json = False
) -> None:
    """Give a dead letter to its module again, marked as given again."""
    _act("retry", which, every=every, session=Session.find(named), as_json=as_json)


@letters.command("drop")
def drop_letters(
    which: LetterId = None, every: Every = False, named: Dir = None, as_json: Json = False
) -> None:
    """Delete a dead letter for good."""
    _act("drop", which, every=every, session=Session.find(named), as_json=as_json)


def _act(action: str, which: str | None, *, every: bool, session: Session, as_json: bool) -> None:
    if (which is None) is not every:
        raise Usage(f"Say which: `livetag dead-letters {action} ID`, or --all.")
    if which is not None and not (which.isascii() and which.isdecimal() and len(which) < 19):
        raise Usage(
            f"{printable(which)} is no number of a dead letter; livetag dead-letters list shows them."
        )
    number = int(which) if which is not None else None
    facts = session.ask("dead_letters", {"action": action, "id": number})
    if as_json:
        print_json(facts)
    else:
        done = "Gave again" if action == "retry" else "Dropped"
        say(f"{done}: {'all dead letters' if every else f'dead letter {which}'}.")


def show(value: object, *, as_json: bool) -> None:
    """Print a reply or a state, as one JSON document if that was asked for."""
    if as_json:
        print_json(value)
    else:
        show_value(value)
