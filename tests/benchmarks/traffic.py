"""Clients that talk over TCP without end, the same ones for a line protocol and for HTTP: every answer has its time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter_ns

from typing_extensions import Self

THINK_S = 0.002
ANSWER_S = 5.0

Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""One request and its answer; returns whether the connection goes on. Raises OSError or EOFError if it was dropped."""


@dataclass
class Heard:
    """What one run of the clients has seen; times in nanoseconds."""

    answers: list[tuple[int, int]] = field(default_factory=list)  # when it was asked, when it was answered
    dropped: int = 0

    def gap(self, since: int, until: int) -> float:
        """The longest time between two answers of any client in a span."""
        ends = [since, *sorted(end for _, end in self.answers if since < end < until), until]
        return float(max(after - before for before, after in pairwise(ends)))

    def slowest(self, since: int, until: int) -> float:
        """The longest that an answer took in a span."""
        return float(max(end - began for began, end in self.answers if end > since and began < until))


class Traffic:
    """So many clients in a thread with a loop of their own, from `with` to its end."""

    def __init__(self, port: int, clients: int, greet: Exchange | None, exchange: Exchange) -> None:
        self._port, self._clients = port, clients
        self._greet, self._exchange = greet, exchange
        self.heard = Heard()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(ANSWER_S * 2)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.heard.dropped += 1
                await asyncio.sleep(THINK_S)
                continue
            try:
                if self._greet is not None:
                    await self._greet(reader, writer)
                await self._talk(reader, writer)
            except (OSError, EOFError, asyncio.TimeoutError):
                self.heard.dropped += 1
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goes_on = True
        while goes_on and not self._over.is_set():
            began = perf_counter_ns()
            goes_on = await asyncio.wait_for(self._exchange(reader, writer), ANSWER_S)
            self.heard.answers.append((began, perf_counter_ns()))
            await asyncio.sleep(THINK_S)


async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Say a line in the gateway's room of one, and hear it."""
    writer.write(b"say hello\n")
    heard = await reader.readuntil()
    if not heard.endswith(b": hello\n"):
        raise OSError(f"an odd answer: {heard!r}")
    return True


class Room:
    """Each client in a room of its own, so that an answer is its own."""

    def __init__(self) -> None:
        self._count = 0

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._count += 1
        writer.write(b"join room%d\n" % self._count)
        await reader.readuntil()
        return True


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One GET; the server closes the connection behind its answer, or says that it goes on."""
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise OSError(f"an odd answer: {head!r}")
    fields = dict(each.lower().split(b": ", 1) for each in head.split(b"\r\n")[1:] if b": " in each)
    await reader.readexactly(int(fields[b"content-length"]))
    return fields.get(b"connection") != b"close"
