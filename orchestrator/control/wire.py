"""The words of the control socket (DESIGN §9): one JSON object per line, over one Unix socket.

A request is `{"op": name, ...arguments}`. The answer is any number of `{"event": {...}}` lines and then
exactly one of `{"ok": value}` or `{"error": {"kind": "refused" | "usage" | "bug", "message": text}}`.
Imports only what starts fast: the hooks load this during a push.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, cast

MAX_REQUEST_BYTES = 262_144
"""The longest request line a host takes."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The longest answer line a client takes; a state can be large, endless it is not."""
SUN_PATH_MAX_BYTES = 107
"""A socket's path may not be longer (sockaddr_un), whatever the file system allows."""

ErrorKind = Literal["refused", "usage", "bug"]


class Refused(Exception):
    """An expected failure of an operation; its text is what the user reads."""

    kind: ErrorKind = "refused"


class BadRequest(Refused):
    """The request itself is wrong: not JSON, no such operation, a missing or ill-typed argument."""

    kind: ErrorKind = "usage"


def encode_request(op: str, arguments: Mapping[str, object]) -> bytes:
    """One line. Raises BadRequest for a value that is not plain JSON data."""
    try:
        return json.dumps({"op": op, **arguments}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the arguments of {op!r} cannot be sent: {error}. Send plain JSON data.") from error


def decode_line(line: bytes) -> dict[str, object]:
    """Return the object on this line. Raises BadRequest when it is none."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadRequest(
            f"not a line of JSON: {error}. One request is one JSON object on one line."
        ) from error
    if not isinstance(value, dict):
        raise BadRequest(f"a {type(value).__name__} instead of a JSON object. Send {{'op': name, ...}}.")
    return cast("dict[str, object]", value)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a name for `path` that is short enough for a socket address, good inside the block.

    A deployment may lie deep. Linux reaches it through its folder's descriptor; without /proc a long path
    raises OSError.
    """
    name = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow the last link
    if len(os.fsencode(name)) <= SUN_PATH_MAX_BYTES:
        yield name
        return
    folder = os.open(os.path.dirname(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(name)}"  # noqa: PTH119
    finally:
        os.close(folder)
