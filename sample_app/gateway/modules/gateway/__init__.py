"""Rooms to talk in, over TCP: `join ROOM`, `say TEXT`, `leave`, `quit`, a line each. An upgrade drops no connection."""

from __future__ import annotations

import asyncio
import socket
from typing import TypedDict
from uuid import uuid4

from livetag import Module, handles, intake, resource

LINE_BYTES_MAX = 4096
UNREAD_BYTES_MAX = 1 << 20  # of a client that does not read: then it is hung up
HELP = "? join ROOM, say TEXT, leave, quit"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class State(TypedDict):
    room: dict[str, str]  # client → the room it is in
    rooms: dict[str, list[str]]  # room → its clients


class Gateway(Module[State]):
    """config: `host`, `port`."""

    def initial_state(self) -> State:
        return {"room": {}, "rooms": {}}

    @resource(key=lambda self: [self.config["host"], self.config["port"]])
    async def listener(self) -> socket.socket:
        """Open the door once; it stays open over every upgrade, until another host or port is asked for."""
        listener = socket.create_server((self.config["host"], self.config["port"]), backlog=1024)
        listener.setblocking(False)
        return listener

    @intake
    async def accept(self) -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.attach("line", uuid4().hex[:12], asyncio.open_connection(sock=connection, limit=LINE_BYTES_MAX))

    @intake(each=True)
    async def line(self, stream: Stream) -> str:
        """Wait for a line of one client. The stream keeps what there is of it until it is whole."""
        try:
            return (await stream[0].readuntil()).decode(errors="replace").strip()
        except asyncio.LimitOverrunError:
            raise EOFError(f"a line of more than {LINE_BYTES_MAX} bytes") from None

    @handles("line")
    def on_line(self, source: str, item: str) -> None:
        verb, _, rest = item.partition(" ")
        if verb == "join" and rest:
            self._leave(source)
            self.state["room"][source] = rest
            self.state["rooms"].setdefault(rest, []).append(source)
            self._write(source, f"you are {source} in {rest}")
        elif verb == "say" and source in self.state["room"]:
            for client in self.state["rooms"][self.state["room"][source]]:
                self._write(client, f"{source}: {rest}")
        elif verb == "leave":
            self._leave(source)
        elif verb == "quit":
            self._leave(source)
            self.detach("line", source)
        else:
            self._write(source, HELP)

    @handles("line.closed")
    def on_line_closed(self, source: str, reason: str) -> None:
        self.log.bind(reason=reason).debug("a client has left")
        self._leave(source)

    @handles
    def port(self) -> int:
        """Answer where it listens; with port 0 the system has chosen."""
        return int(self.listener.getsockname()[1])

    @handles
    def clients(self) -> int:
        return len(self.sources("line"))

    def _leave(self, client: str) -> None:
        room = self.state["room"].pop(client, None)
        if room is not None:
            self.state["rooms"][room].remove(client)
            if not self.state["rooms"][room]:
                del self.state["rooms"][room]

    def _write(self, client: str, line: str) -> None:
        """Give a line to a client, which takes it when it can. One that is gone is told by `line.closed` soon."""
        stream: Stream | None = self.sources("line").get(client)
        if stream is not None:
            stream[1].write(line.encode() + b"\n")
            if stream[1].transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                stream[1].transport.abort()
