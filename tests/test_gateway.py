"""The gateway sample over real sockets: what a client sees, in both of its versions and over the switch between them."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sample_app
from livetag import Module, testing
from sample_app.gateway.modules.gateway import LINE_BYTES_MAX, UNREAD_BYTES_MAX, Gateway
from tests.runtime_kit import until

NEXT = Path(sample_app.__file__).parent / "gateway" / "upgrades" / "gateway-1.1.0" / "__init__.py"
CONFIG = {"host": "127.0.0.1", "port": 0}


def the_next_version() -> type[Module[Any]]:
    spec = importlib.util.spec_from_file_location("gateway_1_1_0", NEXT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gateway_1_1_0"] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    found: type[Module[Any]] = module.Gateway
    return found


class Client:
    """One person at a terminal."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def type(self, text: str) -> None:
        self.writer.write(text.encode())

    async def line(self) -> str:
        """The next line that comes; empty at the end."""
        return (await asyncio.wait_for(self._reader.readline(), 5)).decode().rstrip("\n")

    async def join(self, room: str) -> str:
        """Join, and return the id."""
        self.type(f"join {room}\n")
        return (await self.line()).split()[2]


@asynccontextmanager
async def clients(gateway: testing.ModuleUnderTest, count: int) -> AsyncIterator[list[Client]]:
    port = await gateway.ask("port")
    made = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield made
    finally:
        for client in made:
            client.writer.close()
        await until(lambda: not len(gateway.proxy.intakes.sources))


def story(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_who_is_in_a_room_hears_what_is_said_there() -> None:
    async def run() -> None:
        async with testing.run(Gateway, config=CONFIG) as gateway, clients(gateway, 3) as (ada, bob, eve):
            ada.type("hello?\n")
            assert (await ada.line()).startswith("? join ROOM")
            name = await ada.join("lobby")
            await bob.join("lobby")
            await eve.join("attic")
            ada.type("say one\nsay two\nsa")
            for client in (ada, bob):
                assert [await client.line(), await client.line()] == [f"{name}: one", f"{name}: two"]
            eve.type("leave\nsay nothing\n")
            assert (await eve.line()).startswith("? join ROOM")
            assert "attic" not in gateway.state["rooms"]
            bob.type("quit\n")
            assert await bob.line() == ""
            assert gateway.state == {"room": {name: "lobby"}, "rooms": {"lobby": [name]}}
            assert await gateway.ask("clients") == 2
            ada.writer.close()
            await until(lambda: gateway.state == {"room": {}, "rooms": {}})

    story(run())


def test_an_upgrade_in_the_middle_of_a_line_loses_none_of_it_and_a_rollback_only_the_names() -> None:
    async def run() -> None:
        async with testing.run(Gateway, config=CONFIG) as gateway, clients(gateway, 2) as (ada, bob):
            id_ada, id_bob = await ada.join("lobby"), await bob.join("lobby")
            ada.type("say half ")
            await asyncio.sleep(0)
            await gateway.upgrade(the_next_version())
            ada.type("and half\n")
            assert await bob.line() == f"{id_ada}: half and half"
            ada.type("name Ada\nwho\nsay I am")
            assert [await ada.line() for _ in range(3)][1:] == [
                "you are Ada in lobby",
                f"lobby: Ada, {id_bob}",
            ]
            await until(lambda: gateway.proxy.unit is None and not len(gateway.proxy.mailbox))
            await gateway.rollback()
            ada.type(" back\n")
            assert await bob.line() == f"{id_ada}: I am back"
            assert gateway.state["room"] == {id_ada: "lobby", id_bob: "lobby"}

    story(run())


def test_the_next_version_keeps_a_name_from_room_to_room() -> None:
    async def run() -> None:
        async with testing.run(the_next_version(), config=CONFIG) as gateway, clients(gateway, 1) as (ada,):
            await ada.join("lobby")
            ada.type("name Ada\njoin attic\nwho\nleave\nwho\n")
            lines = [await ada.line() for _ in range(4)]
            assert lines[:3] == ["you are Ada in lobby", "you are Ada in attic", "attic: Ada"]
            assert lines[3].startswith("? join ROOM")
            ada.type("quit\n")
            assert await ada.line() == ""
            assert gateway.state == {"members": {}, "rooms": {}}

    story(run())


def test_a_line_without_an_end_and_a_client_that_does_not_read_are_hung_up() -> None:
    async def run() -> None:
        async with testing.run(Gateway, config=CONFIG) as gateway, clients(gateway, 3) as (ada, bob, eve):
            await ada.join("lobby")
            await bob.join("lobby")
            await eve.join("attic")
            eve.type("x" * (LINE_BYTES_MAX + 10))
            assert await eve.line() == ""
            text = "say " + "x" * (LINE_BYTES_MAX - 10) + "\n"
            said = 0
            while await gateway.ask("clients") == 2:  # bob does not read
                ada.type(text)
                await ada.line()
                said += len(text)
                assert said < 100 * UNREAD_BYTES_MAX
            assert len(gateway.state["room"]) == 1
            assert said > UNREAD_BYTES_MAX

    story(run())
