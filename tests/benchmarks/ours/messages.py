"""Messages of one application, beside the bare means of the interpreter. Usage: messages host | asyncio"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import perf_counter_ns
from typing import Any

from livetag import Module, handles, subscribes
from orchestrator.runtime.application import Application
from orchestrator.runtime.collecting import freeze_the_living
from tests.benchmarks.ours.loop import new_loop, on
from tests.benchmarks.peers.answer import Measured, answer
from tests.runtime_kit import running

MAILBOX = 10_000  # as limits.mailbox_messages is by default
UNROLLED = 10


class Counter(Module[dict[str, int]]):
    def initial_state(self) -> dict[str, int]:
        return {"total": 0}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        return self.state["total"]

    @handles
    def add5(self, key: str, a: int, b: int, c: int, d: int) -> None:
        self.state["total"] += a + b + c + d


class Listener(Module[dict[str, int]]):
    def initial_state(self) -> dict[str, int]:
        return {"total": 0}

    @subscribes("news")
    def on_news(self, n: int) -> None:
        self.state["total"] += n


class Messages:
    """An application of one counter; and, for publish, one of as many listeners as are asked for."""

    def __init__(self) -> None:
        self._life = AsyncExitStack()
        self._listening: dict[int, Application] = {}

    async def begin(self) -> None:
        self.app = await self._life.enter_async_context(running({"counter": Counter}, limit=MAILBOX))
        self.queue: asyncio.Queue[tuple[asyncio.Future[int] | None, int]] = asyncio.Queue()
        self.worker = asyncio.ensure_future(self._work())
        freeze_the_living()

    async def end(self) -> None:
        self.worker.cancel()
        await self._life.aclose()

    async def _work(self) -> None:
        """The bare rival: one task, one queue, a future for the answer."""
        total = 0
        while True:
            reply, n = await self.queue.get()
            total += n
            if reply is not None:
                reply.set_result(total)

    async def _queue_ask(self) -> int:
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((reply, 1))
        return await reply

    async def ask(self, count: int) -> Measured:
        """An idle module is asked."""
        ask, found = self.app.ask, []
        for _ in range(count):
            began = perf_counter_ns()
            await ask("counter", "add", {"n": 1})
            found.append(float(perf_counter_ns() - began))
        return {"ask": found}

    async def bare_ask(self, count: int) -> Measured:
        found = []
        for _ in range(count):
            began = perf_counter_ns()
            await self._queue_ask()
            found.append(float(perf_counter_ns() - began))
        return {"ask": found}

    async def busy_ask(self, count: int) -> Measured:
        """A message waits already when the module is asked, so both go through the mailbox."""
        ask, send, found = self.app.ask, self.app.send, []
        for _ in range(count):
            began = perf_counter_ns()
            await send("counter", "add", {"n": 1})
            await ask("counter", "add", {"n": 1})
            found.append(float(perf_counter_ns() - began))
        return {"ask": found}

    async def bare_busy_ask(self, count: int) -> Measured:
        found = []
        for _ in range(count):
            began = perf_counter_ns()
            self.queue.put_nowait((None, 1))
            await self._queue_ask()
            found.append(float(perf_counter_ns() - began))
        return {"ask": found}

    async def send(self, count: int, times: int) -> Measured:
        """So many at once, so many times: a batch is short, so that most are spared by what else the machine does."""
        return {"send": [await self._sent("add", {"n": 1}, count) for _ in range(times)]}

    async def send5(self, count: int, times: int) -> Measured:
        body = {"key": "key", "a": 1, "b": 2, "c": 3, "d": 4}
        return {"send": [await self._sent("add5", body, count) for _ in range(times)]}

    async def _sent(self, type_: str, body: dict[str, Any], count: int) -> float:
        """Nanoseconds per message handled."""
        send = self.app.send
        began = perf_counter_ns()
        for _ in range(count):
            await send("counter", type_, body, timeout_s=60.0)
        await self.app.ask("counter", "add", {"n": 1}, timeout_s=60.0)
        return (perf_counter_ns() - began) / count

    async def publish(self, subscribers: int, count: int, times: int) -> Measured:
        """Nanoseconds per delivery handled, of events to so many."""
        if subscribers not in self._listening:
            names = {f"listener{number}": Listener for number in range(subscribers)}
            self._listening[subscribers] = await self._life.enter_async_context(running(names, limit=MAILBOX))
            freeze_the_living()
        app = self._listening[subscribers]
        return {"publish": [await self._published(app, count) for _ in range(times)]}

    async def _published(self, app: Application, count: int) -> float:
        listeners = list(app.modules.values())
        handled = [each.handled + count for each in listeners]
        began = perf_counter_ns()
        for _ in range(count):
            await app.publish("news", {"n": 1}, timeout_s=60.0)
        while [each.handled for each in listeners] != handled:
            await asyncio.sleep(0)
        return (perf_counter_ns() - began) / count / len(listeners)

    async def memory(self, modules: int) -> Measured:
        """Bytes that an application of so many idle modules holds."""
        names = {f"listener{number}": Listener for number in range(modules)}
        gc.collect()
        tracemalloc.start()
        async with running(names, limit=MAILBOX):
            await asyncio.sleep(0.01)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return {"memory": [float(held)]}

    async def calls(self, count: int) -> Measured:
        """A method of the version in service, called through the module's proxy and directly, in turn."""
        proxy = self.app.modules["counter"]
        implementation = proxy.implementation
        assert implementation is not None
        direct: Callable[[int], int] = implementation.instance.add

        def proxied(n: int) -> Any:
            return proxy.handlers["add"].call(n)

        return {"direct": [_per_call(direct, count)], "proxied": [_per_call(proxied, count)]}


def _per_call(call: Callable[[int], Any], count: int) -> float:
    began = perf_counter_ns()
    for _ in range(count // UNROLLED):
        call(1), call(1), call(1), call(1), call(1), call(1), call(1), call(1), call(1), call(1)
    return (perf_counter_ns() - began) / count


def main() -> None:
    loop = new_loop(sys.argv[1])
    asyncio.set_event_loop(loop)
    messages = Messages()
    loop.run_until_complete(messages.begin())
    names = ("ask", "bare_ask", "busy_ask", "bare_busy_ask", "send", "send5", "publish", "memory", "calls")
    answer({name: on(loop, getattr(messages, name)) for name in names})
    loop.run_until_complete(messages.end())


if __name__ == "__main__":
    main()
