"""How a command ends when it does not end well, and with which exit code (DESIGN §9)."""

import os
import sys
import tempfile
import traceback
from pathlib import Path

from orchestrator.control.cli.screen import complain, print_json
from orchestrator.control.client import ControlError, HostRefused
from orchestrator.control.clone import CloneFailed
from orchestrator.control.config import Deployment, DeploymentNotFound, find_deployment

DONE, REFUSED, USAGE, BUG, INTERRUPTED = 0, 1, 2, 3, 130

_HOST_UNTOUCHED = ". The host, if one runs, is not affected."
_HOST_ENDED = (
    ", and it has ended the host. The journal has what was in service, and the next start goes on from there; what modules "
    "keep in memory only may not have been saved."
)


class Failure(Exception):
    """Refused or failed, and the message says why: exit code 1, no traceback.

    `in_json`: the JSON document that was asked for is printed already, and tells it.
    """

    def __init__(self, why: str, *, in_json: bool = False) -> None:
        super().__init__(why)
        self.in_json = in_json


class Usage(Exception):
    """The command was called wrongly: exit code 2."""


class HostEnded(Exception):
    """The host that ran in this process has ended by `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def exit_code(error: Exception, *, as_json: bool = False) -> int:
    """Tell the user on stderr what `error` means, and return the exit code that goes with it.

    `as_json`: a JSON document was asked for, so a program reads stdout: it gets one there, `{"error": …}`. Whatever is not
    an expected failure is a bug of ours: its traceback goes to a file, which is named.
    """
    code, why = _told(error)
    complain(why)
    if as_json and not (isinstance(error, Failure) and error.in_json):
        print_json({"error": why})
    return code


def _told(error: Exception, outcome: str = _HOST_UNTOUCHED) -> tuple[int, str]:
    """The exit code and the message; `outcome` goes with a bug: what is true of the host now."""
    if isinstance(error, HostEnded):
        return _told(error.error, _HOST_ENDED)
    if isinstance(error, HostRefused) and error.kind != "refused":
        return USAGE if error.kind == "usage" else BUG, str(error)
    if isinstance(error, Usage):
        return USAGE, str(error)
    if isinstance(error, _expected()):
        return REFUSED, str(error)
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return REFUSED, f"{named}{error.strerror}"
    return BUG, (
        f"Sorry, this is a bug in livetag ({type(error).__name__}){outcome} "
        f"What happened is written in {_write_down(error)}: please report it with that file."
    )


def _expected() -> tuple[type[Exception], ...]:
    from orchestrator.control.init import InitRefused  # late: only a failure has to know them all
    from orchestrator.runtime.errors import ModuleError
    from orchestrator.upgrade.errors import UpgradeError
    from repo_store.errors import StoreError

    ours = (Failure, DeploymentNotFound, CloneFailed, InitRefused, ControlError)
    return (*ours, StoreError, UpgradeError, ModuleError)


def _write_down(error: Exception) -> str:
    """Append the traceback to the deployment's logs/cli.log, else to a file of its own; return where."""
    text = "".join(traceback.format_exception(error))
    text = f"livetag {' '.join(sys.argv[1:])!r}\n{text}\n"
    try:
        deployment: Deployment = find_deployment(None, os.environ, Path.cwd())
        path = deployment.logs / "cli.log"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except (DeploymentNotFound, OSError):
        try:
            file, name = tempfile.mkstemp(prefix="livetag-", suffix=".log")
        except OSError:
            return f"no file, none could be written:\n{text}"
        path = Path(name)
    with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)
    return str(path)
