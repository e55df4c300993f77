"""The answering side of the control socket (DESIGN §9).

What holds, whatever clients do:
1. Only this user, root, and members of the named group are answered; the kernel says who is at the other end.
2. A client costs at most one bounded line, one bounded buffer and one place among `max_clients`.
3. An operation that was started runs to its end, whether or not its client stays to hear of it.
4. A socket file is replaced only when nobody answers behind it.
5. One that somebody removed is put back: a host that nobody can reach could only be killed.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
from loguru import logger

from orchestrator.control.wire import (
    MAX_REQUEST_BYTES,
    BadRequest,
    ErrorKind,
    Refused,
    decode_line,
    reachable,
)
from repo_store.failpoints import step

Emit = Callable[[Mapping[str, object]], None]
Operation = Callable[[dict[str, object], Emit], Awaitable[object]]


class Request(dict[str, object]):
    """What a client asked for, and who is at the other end, as the kernel saw it."""

    peer_uid: int | None = None


def peer_uid(request: dict[str, object]) -> int:
    """The uid at the other end of the socket; our own for a request that did not come through it."""
    found = request.peer_uid if isinstance(request, Request) else None
    return os.geteuid() if found is None else found


OWN_WORDS = frozenset({"state", "state_export", "ask"})
"""Operations whose answer is a module's own: its state and its replies are passed on as they are."""

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_UNREAD_BYTES_MAX = 4 * 1024 * 1024
_DISCARD_S = 1.0
_PROBE_S = 1.0
_BIRTHPLACE = ".control-"
_BACKLOG = 128  # who waits here is accepted and told, even when there are too many


class SocketTaken(Exception):
    """Another process answers at this path, or something that is not a socket lies there."""


class ControlServer:
    """Serves a table of operations on one Unix socket, in the running event loop."""

    def __init__(
        self,
        path: Path,
        operations: Mapping[str, Operation],
        *,
        max_line_bytes: int = MAX_REQUEST_BYTES,
        max_clients: int = 64,
        idle_s: float = 30.0,
        group: str | None = None,
        look_s: float = 2.0,
        hide: Callable[[str], str] | None = None,
    ) -> None:
        """`hide` takes secrets out of what is answered, but for what modules say themselves (OWN_WORDS)."""
        self._path = path
        self._operations = operations
        self._max_line_bytes = max_line_bytes
        self._max_clients = max_clients
        self._idle_s = idle_s
        self._group = group
        self._look_s = look_s
        self._hide = hide
        self._keeper: asyncio.Task[None] | None = None
        self._admitted = frozenset({0, os.geteuid()})
        self._group_id: int | None = None
        self._server: asyncio.AbstractServer | None = None
        self._inode: int | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises SocketTaken; Refused when the group does not exist or is not ours to give."""
        self._group_id = check_place(self._path, self._group)
        await self._listen()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_there())

    async def _listen(self) -> None:
        listener = _bound(self._path, self._group_id)
        self._inode = self._path.lstat().st_ino
        self._server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=self._max_line_bytes, backlog=_BACKLOG
        )

    def _is_gone(self) -> bool:
        try:
            self._path.lstat()
        except FileNotFoundError:
            return True
        return False

    async def _keep_there(self) -> None:
        """Put the socket back when it is gone (5.). Whatever else lies there now is not ours to replace."""
        while True:
            await asyncio.sleep(self._look_s)
            with contextlib.suppress(OSError):  # the folder is gone or full: looked at again
                if self._is_gone():
                    deaf = self._server
                    await self._listen()
                    logger.warning("{} was removed; it is there again", self._path)
                    if deaf is not None:
                        deaf.close()

    async def close(self, grace_s: float = 1.0) -> None:
        """Take no more clients, give those served `grace_s` to finish, end the rest, remove the socket."""
        if self._server is None:
            return
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._server.close()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.lstat().st_ino == self._inode:  # a second host may have put its own there meanwhile
                self._path.unlink()
        if self._clients:
            _, late = await asyncio.wait(self._clients, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=grace_s)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, _Client(writer, self._hide)))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: "_Client") -> None:
        try:
            client.finish(ok=await self._answer(reader, client))
        except Refused as refusal:
            client.finish_error(refusal.kind, str(refusal))
        except asyncio.CancelledError:
            client.finish_error("refused", "the host is stopping; what was asked for was not finished")
            raise
        except Exception as error:  # noqa: BLE001 - whatever an operation did, its client hears of it
            logger.exception("a control operation failed")
            client.finish_error(
                "bug", f"{type(error).__name__}: {error}. This is a bug; the host's log has more."
            )
        finally:
            await client.close(self._idle_s)

    async def _answer(self, reader: asyncio.StreamReader, client: "_Client") -> object:
        if len(self._clients) > self._max_clients:
            raise Refused(f"the host serves {self._max_clients} clients already; try again in a moment")
        self._check_peer(client)
        request = Request(decode_line(await self._request_line(reader)))
        request.peer_uid = client.peer[0]
        name = request.pop("op", None)
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            known = ", ".join(sorted(self._operations))
            raise BadRequest(f"no operation {name!r}; this host knows: {known}")
        client.own_words = name in OWN_WORDS
        return await operation(request, client.emit)

    async def _request_line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await asyncio.wait_for(reader.readuntil(b"\n"), self._idle_s)
        except asyncio.TimeoutError as error:
            raise BadRequest(f"no request within {self._idle_s:g} s") from error
        except asyncio.LimitOverrunError as error:
            await _discard_line(reader)
            raise BadRequest(
                f"the request is longer than {self._max_line_bytes} bytes; nothing was done. Send less at a time."
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise BadRequest("the request ended before its line did") from error

    def _check_peer(self, client: "_Client") -> None:
        uid, gid = client.peer
        if uid in self._admitted:
            return
        if self._group_id is not None and _is_member(uid, gid, self._group_id):
            return
        raise Refused(
            f"user {uid} may not control this host; ask its owner for membership of the control group"
        )


class _Client:
    """One connection, as an operation may use it: it can be gone at any time, and nothing here minds."""

    def __init__(self, writer: asyncio.StreamWriter, hide: Callable[[str], str] | None = None) -> None:
        self._writer = writer
        self._hide = hide
        self.own_words = False

    @property
    def peer(self) -> tuple[int, int]:
        """The uid and gid at the other end, as the kernel saw them at connect."""
        connection = self._writer.get_extra_info("socket")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, gid = _PEER.unpack(raw)
        return uid, gid

    def emit(self, event: Mapping[str, object]) -> None:
        """Send an event; one that cannot be sent is dropped: telling must not fail what is told about."""
        try:
            self._write({"event": event})
        except (TypeError, ValueError, RecursionError):
            logger.exception("an event of a control operation cannot be sent")

    def finish(self, *, ok: object) -> None:
        self._write({"ok": ok}, hide=not self.own_words)

    def finish_error(self, kind: ErrorKind, message: str) -> None:
        self._write({"error": {"kind": kind, "message": message}})

    def _write(self, line: Mapping[str, object], *, hide: bool = True) -> None:
        encoded = msgspec.json.encode(line, enc_hook=str) + b"\n"
        if hide and self._hide is not None:
            encoded = self._hide(encoded.decode()).encode()
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > _UNREAD_BYTES_MAX:
            self._writer.transport.abort()  # a client that does not read must not fill our memory
            return
        self._writer.write(encoded)

    async def close(self, flush_s: float) -> None:
        self._writer.close()
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(self._writer.wait_closed(), flush_s)
        finally:
            self._writer.transport.abort()


async def _discard_line(reader: asyncio.StreamReader) -> None:
    """Read the rest of a line that is too long: closing on unread data would cut off our answer."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(_read_to_line_end(reader), _DISCARD_S)


async def _read_to_line_end(reader: asyncio.StreamReader) -> None:
    while (piece := await reader.read(65536)) and b"\n" not in piece:
        pass


def check_place(path: Path, group: str | None) -> int | None:
    """See that one could listen there, before anything is begun; returns the group's id. Raises SocketTaken, Refused."""
    _refuse_a_living_socket(path)
    return _group_id(group)


def _refuse_a_living_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken(f"{path} is not a socket, and the host needs that name; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, reachable(path) as address:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a host that was killed
        except OSError:
            pass  # full or forbidden, but there: not ours to remove
    raise SocketTaken(f"a host already answers at {path}; stop it first, or use another deployment directory")


def _bound(path: Path, group_id: int | None) -> socket.socket:
    """Return a listening socket at `path`.

    Born in a private folder and moved into place, so that there is no moment in which it admits more users
    than it should, or is there and does not listen.
    """
    for left in path.parent.glob(f"{_BIRTHPLACE}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a host that was killed right here
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with tempfile.TemporaryDirectory(prefix=_BIRTHPLACE, dir=path.parent) as private:
            born = Path(private, "sock")
            with reachable(born) as address:
                listener.bind(address)
            born.chmod(0o600 if group_id is None else 0o660)
            if group_id is not None:
                os.chown(born, -1, group_id)
            listener.listen(_BACKLOG)
            with step("socket.bind"):
                born.replace(path)
    except BaseException:
        listener.close()
        raise
    return listener


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Refused(f"livetag.toml: control.group: there is no group {group!r} on this machine") from error


def _is_member(uid: int, gid: int, group_id: int) -> bool:
    import pwd

    if gid == group_id:
        return True
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return group_id in os.getgrouplist(user.pw_name, user.pw_gid)
