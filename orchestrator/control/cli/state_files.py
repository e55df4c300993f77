"""The files of `state --export` and `--import`: written whole or not at all, readable by their owner only."""

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.control.cli.failures import Failure, Usage
from orchestrator.control.cli.reason import reason_for, who_acts
from orchestrator.control.cli.screen import note, print_json, say
from orchestrator.control.cli.session import UPGRADE_S, Session

STDIO = "-"
PART_CHARACTERS = 30_000  # of the file, in one request: below its limit however they are escaped


def export_to(session: Session, name: str, target: str) -> None:
    """Write a module's state to a file, or to stdout for `-`."""
    answer = session.ask("state_export", {"name": name}, timeout_s=UPGRADE_S)
    if not isinstance(answer, dict):
        raise Failure("The host's answer is no state file; is it another version of livetag?")
    file = answer["file"]
    text = json.dumps(file, ensure_ascii=False, indent=2) + "\n"
    if target == STDIO:
        sys.stdout.write(text)
    else:
        _write(Path(target), text)
        tables = sorted({table["name"] for table in file.get("tables", ())})
        note(f"The state of {name} is in {target}{_with(tables)}.")


def _with(tables: Sequence[str]) -> str:
    return f", with the records of {', '.join(tables)}" if tables else ""


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
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Usage(f"{source} cannot be read as a state file: {error}. Nothing was changed.") from error
    upload = secrets.token_hex(8)
    asked = {
        "name": name,
        "upload": upload,
        "reason": reason_for("state --import", reason),
        "who": who_acts(),
        "force": force,
    }
    for begin in range(0, len(text), PART_CHARACTERS):
        part = {"upload": upload, "text": text[begin : begin + PART_CHARACTERS]}
        session.ask("state_import_part", part, timeout_s=UPGRADE_S)
    done = session.ask("state_import", asked, timeout_s=UPGRADE_S)
    if as_json:
        print_json(done)
    else:
        replaced, left = (
            done.get(key, ()) if isinstance(done, dict) else () for key in ("tables", "tables_left")
        )
        say(f"{name} has the state of {source}{_with(replaced)}. `livetag history {name}` shows it.")
        if left:
            note(f"Not in the file, so left as they are: the records of {', '.join(left)}.")
