"""Who acts, and why: asked on a terminal, required elsewhere. The next reader of the history has only that."""

import os
import sys

from orchestrator.control.cli.failures import Failure, Usage
from orchestrator.control.cli.screen import say


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def question(text: str) -> str:
    """What somebody answers; empty where the terminal is closed."""
    try:
        return input(text).strip()
    except EOFError:
        say("")
        return ""


def reason_for(command: str, given: str | None) -> str:
    """The reason given, or asked for. Raises Usage where nobody can be asked, Failure where none is given."""
    if given is not None and given.strip():
        return given.strip()
    if not on_terminal():
        raise Usage(
            f"{command} needs --reason TEXT where nobody can be asked: it is shown as long as it holds."
        )
    reason = question("Why: ")
    if not reason:
        raise Failure("Nothing was changed: it needs a reason, which is shown as long as it holds.")
    return reason


def who_acts() -> str:
    """The name of the person at this command."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
