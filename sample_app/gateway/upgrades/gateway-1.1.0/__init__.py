"""Rooms to talk in, over TCP, by names: `name NAME` and `who` are new, and the state has a new shape."""

# ruff: noqa: N999 - in a repository this folder is called `gateway`

from __future__ import annotations

import asyncio
import socket
from typing import TypedDict
from uuid import uuid4

from livetag import Module, handles, intake, resource

LINE_BYTES_MAX = 4096
UNREAD_BYTES_MAX = 1 << 20  # of a client that does not read: then it is hung up
HELP = "? join ROOM, say TEXT, name NAME, who, leave, quit"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Member(TypedDict):
    room: str
    name: str


class State(TypedDict):
    members: dict[str, Member]  # client → where it is, and as whom
    rooms: dict[str, list[str]]  # room → its clients


class OldState(TypedDict):
    room: dict[str, str]
    rooms: dict[str, list[str]]


class Gateway(Module[State]):
    """config: `host`, `port`."""

    state_version = 2

    def initial_state(self) -> State:
        return {"members": {}, "rooms": {}}

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
        member = self.state["members"].get(source)
        if verb == "join" and rest:
            name = self._leave(source) or source
            self.state["members"][source] = {"room": rest, "name": name}
            self.state["rooms"].setdefault(rest, []).append(source)
            self._write(source, f"you are {name} in {rest}")
        elif verb == "say" and member is not None:
            for client in self.state["rooms"][member["room"]]:
                self._write(client, f"{member['name']}: {rest}")
        elif verb == "name" and rest and member is not None:
            member["name"] = rest
            self._write(source, f"you are {rest} in {member['room']}")
        elif verb == "who" and member is not None:
            names = [self.state["members"][client]["name"] for client in self.state["rooms"][member["room"]]]
            self._write(source, f"{member['room']}: {', '.join(names)}")
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

    def _leave(self, client: str) -> str | None:
        """Take a client out of its room; return the name that it had there."""
        member = self.state["members"].pop(client, None)
        if member is None:
            return None
        clients = self.state["rooms"][member["room"]]
        clients.remove(client)
        if not clients:
            del self.state["rooms"][member["room"]]
        return member["name"]

    def _write(self, client: str, line: str) -> None:
        """Give a line to a client, which takes it when it can. One that is gone is told by `line.closed` soon."""
        stream: Stream | None = self.sources("line").get(client)
        if stream is not None:
            stream[1].write(line.encode() + b"\n")
            if stream[1].transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                stream[1].transport.abort()


@Gateway.migrates(1, 2)
def up(old: OldState) -> State:
    members: dict[str, Member] = {
        client: {"room": room, "name": client} for client, room in old["room"].items()
    }
    return {"members": members, "rooms": old["rooms"]}


@Gateway.migrates(2, 1)
def down(new: State) -> OldState:
    """The names are lost."""
    room = {client: member["room"] for client, member in new["members"].items()}
    return {"room": room, "rooms": new["rooms"]}
