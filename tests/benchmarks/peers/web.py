"""What a gunicorn worker serves: its version, and a count that is all its memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

VERSION = Path(__file__).with_name("version").read_text(encoding="ascii")  # read when a worker starts
COUNT = itertools.count(1)


def app(_environment: object, start: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    body = f"{VERSION} {os.getpid()} {next(COUNT)}\n".encode()
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
