"""Clients of the gateway sample: each says numbered lines in a room of a few, and takes down all that it hears."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from dataclasses import dataclass, field

ROOM_OF = 3
PAUSE_S = 1.0  # between two lines of one client, about


@dataclass
class Client:
    """One connection from the client's side."""

    number: int
    id: str = ""
    said: int = 0
    heard: dict[str, list[str]] = field(default_factory=dict)  # speaker → what it said, as it was heard
    odd: list[str] = field(default_factory=list)  # lines that nobody can have sent
    ended: str = ""
    said_at: dict[str, float] = field(default_factory=dict)  # line number → when its last byte was written
    worst_s: float = 0.0  # from saying a line to hearing it


class Crowd:
    """Many clients, in a thread of their own."""

    def __init__(self, port: int, count: int) -> None:
        self.clients = [Client(number) for number in range(count)]
        self._port = port
        self._quiet = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="crowd", daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """How many have joined their room."""
        return sum(bool(client.id) for client in self.clients)

    def hush(self) -> None:
        """Let each finish its line and say no more."""
        self._quiet.set()

    @property
    def is_hushed(self) -> bool:
        """Whether each has heard all that it said itself, and all of the others from where it began to hear them."""
        return not self.owed

    @property
    def heard(self) -> int:
        """How many lines all have heard."""
        return sum(len(lines) for client in self.clients for lines in client.heard.values())

    @property
    def owed(self) -> list[str]:
        """What is still to be heard: for each client that waits, whose lines, and how many."""
        said = {client.id: client.said for client in self.clients}
        found = []
        for client in self.clients:
            if client.id not in client.heard:
                found.append(f"client {client.number} has heard nothing of its own")
            for speaker, heard in client.heard.items():
                if (missing := said[speaker] - int(heard[0]) - len(heard)) > 0:
                    found.append(f"client {client.number} waits for {missing} of {speaker}")
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20.0)

    async def _run(self) -> None:
        places = asyncio.Semaphore(50)
        tasks = [asyncio.ensure_future(self._client(client, places)) for client in self.clients]
        while not self._stop.is_set():
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _client(self, client: Client, places: asyncio.Semaphore) -> None:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"join room-%d\n" % (client.number // ROOM_OF))
            client.id = (await reader.readuntil()).split()[2].decode()
        hears = asyncio.ensure_future(self._hear(client, reader))
        try:
            await self._say(client, writer)
        finally:
            hears.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _say(self, client: Client, writer: asyncio.StreamWriter) -> None:
        """Say numbered lines, some in one piece, some cut in two, some two at a time."""
        choose = random.Random(client.number)  # noqa: S311  # no secret
        await asyncio.sleep(choose.uniform(0, PAUSE_S))
        while True:
            if not self._quiet.is_set():
                count = choose.choice([1, 1, 1, 2])
                numbers = range(client.said, client.said + count)
                data = b"".join(b"say %d\n" % number for number in numbers)
                cut = choose.choice([0, choose.randrange(1, len(data))])
                client.said += count
                if cut:
                    writer.write(data[:cut])
                    await asyncio.sleep(choose.uniform(0, PAUSE_S / 2))
                client.said_at.update({str(number): time.monotonic() for number in numbers})
                writer.write(data[cut:])
            await asyncio.sleep(choose.uniform(0.5, 1.5) * PAUSE_S)

    async def _hear(self, client: Client, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                line = (await reader.readuntil()).decode()
                speaker, colon, number = line.strip().partition(": ")
                if not colon or not number.isdigit():
                    client.odd.append(line)
                    continue
                client.heard.setdefault(speaker, []).append(number)
                if speaker == client.id:
                    # The first of two lines may have been whole before the second, and be heard before it is written.
                    since = client.said_at.pop(number, time.monotonic())
                    client.worst_s = max(client.worst_s, time.monotonic() - since)
        except (EOFError, OSError) as error:
            client.ended = repr(error)
