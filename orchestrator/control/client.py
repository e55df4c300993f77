"""The asking side of the control socket: one call, one connection, everything with a deadline.

Synchronous and light, because Git waits for it during a push.
"""

import errno
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.control.wire import (
    MAX_ANSWER_BYTES,
    BadRequest,
    ErrorKind,
    decode_line,
    encode_request,
    reachable,
)

OnEvent = Callable[[Mapping[str, object]], None]

_BACKLOG_RETRY_S = 0.01


class ControlError(Exception):
    """The host did not give the answer that was asked for."""


class HostAbsent(ControlError):
    """Nobody listens on this socket."""


class HostForbidden(HostAbsent):
    """A socket is there, but this user may not open it."""


class HostLost(ControlError):
    """The connection ended before the answer; what was asked for may have happened."""


class HostSlow(HostLost):
    """No answer within the deadline; what was asked for may still happen."""


class HostRefused(ControlError):
    """The host said no. `kind`: "refused" (as things stand), "usage" (the request) or "bug" (the host)."""

    def __init__(self, message: str, kind: ErrorKind = "refused") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


def call(
    path: Path,
    op: str,
    /,
    on_event: OnEvent | None = None,
    timeout_s: float = 30.0,
    **arguments: object,
) -> object:
    """Ask the host behind the socket `path` for `op`, and return the value of its `ok`.

    Args: `on_event` gets each event while the operation runs; `timeout_s` bounds the whole call. An argument
    of the operation that is itself called `on_event` or `timeout_s` goes through `request`.
    Raises: HostAbsent, HostForbidden (not asked); HostRefused (it said no); HostLost, HostSlow (not known).
    """
    return request(path, op, arguments, on_event=on_event, timeout_s=timeout_s)


def request(
    path: Path,
    op: str,
    arguments: Mapping[str, object],
    *,
    on_event: OnEvent | None = None,
    timeout_s: float = 30.0,
) -> object:
    """Do what `call` does, with the arguments as one mapping, so that no name of theirs can collide."""
    deadline = time.monotonic() + timeout_s
    try:
        line = encode_request(op, arguments)
    except BadRequest as error:
        raise HostRefused(str(error), "usage") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, path, deadline)
        try:
            return _converse(connection, line, on_event, deadline)
        except TimeoutError as error:
            raise HostSlow(
                f"no answer to {op!r} within {timeout_s:g} s; it may still be under way"
            ) from error
        except OSError as error:
            raise HostLost(f"connection lost while {op!r} ran: {error}; it may still be under way") from error


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    try:
        with reachable(path) as address:
            while True:
                connection.settimeout(_left(deadline))
                try:
                    connection.connect(address)
                except (
                    BlockingIOError
                ):  # the host's backlog is full: Linux says so at once instead of waiting
                    time.sleep(min(_BACKLOG_RETRY_S, _left(deadline)))
                else:
                    return
    except PermissionError as error:
        raise HostForbidden(f"this user may not open {path}") from error
    except TimeoutError as error:
        raise HostSlow(f"the host at {path} takes no more connections now; nothing was asked") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            raise HostAbsent(f"no host is running (nobody answers at {path})") from error
        raise HostLost(f"cannot reach the host at {path}: {error}") from error


def _converse(connection: socket.socket, line: bytes, on_event: OnEvent | None, deadline: float) -> object:
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(line)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the host closed before it read all: it has said why, and that line is still there to read
    lines = _Lines(connection, deadline)
    while True:
        answer = lines.next()
        if "event" in answer:
            event = answer["event"]
            if on_event is not None and isinstance(event, dict):
                on_event(event)
        elif "error" in answer:
            raise _refusal(answer["error"])
        elif "ok" in answer:
            return answer["ok"]
        else:
            raise HostLost("the host's answer is no event, ok or error; is it another version of livetag?")


def _refusal(error: object) -> HostRefused:
    details: dict[str, object] = error if isinstance(error, dict) else {}
    kind = details.get("kind")
    message = str(details.get("message") or "no reason given")
    if kind == "refused":
        return HostRefused(message, "refused")
    return HostRefused(message, "usage" if kind == "usage" else "bug")


class _Lines:
    """The answer's lines, each within the deadline and the limit."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._rest = bytearray()

    def next(self) -> dict[str, object]:
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > MAX_ANSWER_BYTES:
                raise HostLost(f"the host's answer is longer than {MAX_ANSWER_BYTES} bytes")
            self._connection.settimeout(_left(self._deadline))
            received = self._connection.recv(65536)
            if not received:
                raise HostLost("the host closed the connection before it answered; see `livetag history`")
            self._rest += received
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            return decode_line(line)
        except BadRequest as error:
            raise HostLost(f"the host's answer cannot be read: {error}") from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
