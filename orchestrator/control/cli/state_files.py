"""The files of `state --export` and `--import`: written whole or not at all, readable by their owner only."""

import json
import os
import sys
import tempfile
from pathlib import Path

from orchestrator.control.cli.failures import Failure, Usage
from orchestrator.control.cli.reason import reason_for, who_acts
from orchestrator.control.cli.screen import note, print_json, say
from orchestrator.control.cli.session import UPGRADE_S, Session

STDIO = "-"


def export_to(session: Session, name: str, target: str) -> None:
    """Write a module's state to a file, or to stdout for `-`."""
    answer = session.ask("state_export", {"name": name}, timeout_s=UPGRADE_S)
    if not isinstance(answer, dict):
        raise Failure("The host's answer is no state file; is it another version of livetag?")
    text = json.dumps(answer["file"], ensure_ascii=False, indent=2) + "\n"
    if target == STDIO:
        sys.stdout.write(text)
    else:
        _write(Path(target), text)
        note(f"The state of {name} is in {target}.")
    if answer.get("tables"):
        note(f"Without its tables: {', '.join(answer['tables'])}. Their records stay in the host.")


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", dir=path.parent
    )  # born readable by its owner only
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def import_from(
    session: Session, name: str, source: str, reason: str | None, *, force: bool, as_json: bool
) -> None:
    """Put the state of a file in the place of a module's. Raises Usage, Failure, and what the host says."""
    try:
        text = sys.stdin.read() if source == STDIO else Path(source).read_text(encoding="utf-8")
        file: object = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Usage(f"{source} cannot be read as a state file: {error}. Nothing was changed.") from error
    asked = {
        "name": name,
        "file": file,
        "reason": reason_for("state --import", reason),
        "who": who_acts(),
        "force": force,
    }
    done = session.ask("state_import", asked, timeout_s=UPGRADE_S)
    if as_json:
        print_json(done)
    else:
        say(f"{name} has the state of {source}. `livetag history {name}` shows it.")
