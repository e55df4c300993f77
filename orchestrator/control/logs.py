"""What the host says: for people on the terminal, as JSON lines in `logs/host.jsonl`.

Both escape control characters: a module name, a tag or an author's message can forge no line and move no
cursor. Within `transaction(txn)` every line carries that number, whoever writes it.
"""

import contextlib
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from orchestrator.control.config import Deployment
from orchestrator.control.printable import printable, printable_lines

if TYPE_CHECKING:
    from loguru import Record

FILE_NAME = "host.jsonl"
ROTATION = "10 MB"
KEPT_FILES = 5
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LINE = "livetag_line"  # where a formatter leaves its finished line: loguru reads a template, never our text
_HIDE = "livetag_hide"  # what takes secrets out of a text
_OWN = ("txn", "module", _LINE, _HIDE)


def setup_logging(deployment: Deployment, level: str = "INFO", terminal: TextIO | None = None) -> None:
    """Send all log lines of this process, those of `logging` too, to the terminal and the deployment's file.

    `terminal` is stderr unless given; colour only when it is a tty and NO_COLOR is not set. The file gets
    every line from DEBUG up, mode 0600, a new file after 10 MB, five old ones kept. Calling it again replaces
    what was set up before. Raises OSError if the folder for logs cannot be made.
    """
    out = sys.stderr if terminal is None else terminal
    deployment.logs.mkdir(mode=0o700, exist_ok=True)
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    logger.remove()
    logger.configure(extra={"txn": None, "module": None, _HIDE: _as_it_is})
    logger.add(out, level=level, format=_for_people, colorize=colour, backtrace=False, diagnose=False)
    logger.add(
        deployment.logs / FILE_NAME,
        level="DEBUG",
        format=_for_machines,
        rotation=ROTATION,
        retention=KEPT_FILES,
        opener=_open_private,
        encoding="utf-8",
        backtrace=False,
        diagnose=False,  # the values of local variables may be an author's secrets
    )
    logging.basicConfig(handlers=[_FromLogging()], level=logging.INFO, force=True)


def hide_in_logs(hide: Callable[[str], str]) -> None:
    """From now on, take what `hide` takes out of a text out of every line, with its traceback and its extras."""
    logger.configure(extra={"txn": None, "module": None, _HIDE: hide})


def _as_it_is(text: str) -> str:
    return text


def _hidden(record: "Record", text: str) -> str:
    hide: Callable[[str], str] = record["extra"].get(_HIDE, _as_it_is)
    return hide(text)


def transaction(txn: int) -> contextlib.AbstractContextManager[None]:
    """Return a context in which each line, of this task and those it starts, names transaction `txn`."""
    return logger.contextualize(txn=txn)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _for_people(record: "Record") -> str:
    extra = record["extra"]
    about = [f"txn {extra['txn']}"] if extra.get("txn") is not None else []
    about += [printable(extra["module"])] if extra.get("module") is not None else []
    text = printable(_hidden(record, record["message"]))
    extra[_LINE] = f"[{', '.join(about)}] {text}" if about else text
    if record["exception"] is not None:
        extra[_LINE] += "\n" + printable_lines(_hidden(record, _traceback(record))).rstrip()
    return f"<dim>{{time:HH:mm:ss.SSS}}</dim> <level>{{level: <7}}</level> {{extra[{_LINE}]}}\n"


def _for_machines(record: "Record") -> str:
    extra = record["extra"]
    line: dict[str, Any] = {  # an extra is whatever the caller gave; `default=str` writes it
        "at": record["time"].isoformat(),
        "level": record["level"].name,
        "where": f"{record['name']}:{record['line']}",
        "message": _hidden(record, record["message"]),
        "txn": extra.get("txn"),
        "module": extra.get("module"),
    }
    more = {key: value for key, value in extra.items() if key not in _OWN}
    if more:
        line["extra"] = more
    if record["exception"] is not None:
        line["error"] = _hidden(record, _traceback(record))
    extra[_LINE] = _hidden(
        record, json.dumps(line, default=str)
    )  # ASCII only: whoever reads the file on a terminal is safe as well
    return f"{{extra[{_LINE}]}}\n"


def _traceback(record: "Record") -> str:
    error = record["exception"]
    if error is None or error.type is None:
        return ""
    return "".join(traceback.format_exception(error.type, error.value, error.traceback))


class _FromLogging(logging.Handler):
    """Gives to loguru what asyncio, watchdog and the modules' own libraries say through `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        depth, frame = 2, inspect.currentframe()
        while frame is not None and (depth == 2 or frame.f_code.co_filename == logging.__file__):
            frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth - 2, exception=record.exc_info).bind(logger=record.name).log(
            level, "{}", record.getMessage()
        )
