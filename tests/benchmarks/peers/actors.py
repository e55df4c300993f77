"""Actors in Python: an ask, and a tell per message handled. Usage: actors.py pykka | thespian | xoscar

Pykka's actors are threads, Thespian's (multiprocQueueBase) processes, xoscar's (one pool) tasks of one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any  # of libraries without types

from answer import answer, each_ns  # type: ignore[import-not-found]  # it lies beside: this runs as a script


def telling(
    tell: Callable[[int], object], ask: Callable[[int], object], count: int, times: int
) -> list[float]:
    """Nanoseconds per message handled: so many tells, and an ask that is answered when all of them were; so many times."""
    found = []
    for _ in range(times):
        began = perf_counter_ns()
        for number in range(count):
            tell(number)
        ask(0)
        found.append((perf_counter_ns() - began) / count)
    return found


def pykka() -> None:
    import pykka

    class Echo(pykka.ThreadingActor):  # type: ignore[misc]
        def on_receive(self, message: Any) -> Any:
            return message

    actor = Echo.start()
    try:
        answer(
            {
                "ask": lambda count: {"ask": each_ns(lambda: actor.ask(1), count)},
                "send": lambda count, times: {"send": telling(actor.tell, actor.ask, count, times)},
            }
        )
    finally:
        actor.stop()


def thespian() -> None:
    from thespian.actors import ActorSystem
    from thespian_actor import Echo  # type: ignore[import-not-found]

    system = ActorSystem("multiprocQueueBase")
    try:
        actor = system.createActor(Echo)

        def ask(number: int) -> Any:
            return system.ask(actor, ("ask", number), 5)

        ask(0)
        answer(
            {
                "ask": lambda count: {"ask": each_ns(lambda: ask(1), count)},
                "send": lambda count, times: {
                    "send": telling(lambda n: system.tell(actor, ("tell", n)), ask, count, times)
                },
            }
        )
    finally:
        system.shutdown()


def xoscar() -> None:
    import xoscar
    from xoscar_actor import Echo  # type: ignore[import-not-found]

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pool = loop.run_until_complete(xoscar.create_actor_pool("127.0.0.1:0", n_process=0))
    loop.run_until_complete(pool.start())
    actor = loop.run_until_complete(xoscar.create_actor(Echo, address=pool.external_address, uid=b"echo"))

    async def ask(count: int) -> dict[str, list[float]]:
        found = []
        for number in range(count):
            began = perf_counter_ns()
            await actor.echo(number)
            found.append(float(perf_counter_ns() - began))
        return {"ask": found}

    try:
        answer(
            {
                "ask": lambda count: loop.run_until_complete(ask(count)),
            }
        )
    finally:
        loop.run_until_complete(pool.stop())


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    {"pykka": pykka, "thespian": thespian, "xoscar": xoscar}[sys.argv[1]]()
