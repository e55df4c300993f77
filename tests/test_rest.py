"""A module out of service: loaded, with its state and what waits for it, and no unit of it begins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livetag import every, handles, intake
from orchestrator.runtime.application import Application, Wiring
from orchestrator.runtime.errors import Disabled
from orchestrator.runtime.outbox import Output
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.rest import Resting
from tests.runtime_kit import Plain, books_balance, idle, running, state_of, until


class Counter(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"seen": [], "ticks": 0}

    @handles
    def note(self, n: int) -> int:
        self.state["seen"].append(n)
        return n

    @every(seconds=0.001)
    def beat(self) -> None:
        self.state["ticks"] += 1

    @intake
    async def line(self) -> int:
        await asyncio.sleep(0.001)
        return 1

    @handles("line")
    def read(self) -> None: ...


class Sender(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {}


def rest(app: Application, name: str = "counter") -> None:
    proxy = app.modules[name]
    proxy.rest(Resting("counter is disabled by ada: spring cleaning"))
    names = {n: p for n, p in app.modules.items() if n != name}
    app.rewire(Wiring(app.modules, names, (), {}, {name: "counter is disabled by ada: spring cleaning"}))


def resume(app: Application, name: str = "counter") -> None:
    app.modules[name].resume()
    app.rewire(Wiring(app.modules, dict(app.modules), (), {}))


def test_what_waits_is_handled_after_the_rest_in_order_and_askers_are_told_at_once() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            for n in range(5):
                await app.send("counter", "note", {"n": n})
            asked = asyncio.ensure_future(app.ask("counter", "note", {"n": 99}))
            app.modules["counter"].held = Resting("a switch")  # so that all of it still waits
            await asyncio.sleep(0)
            rest(app)
            with pytest.raises(Disabled, match="disabled by ada: spring cleaning"):
                await asked
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert state_of(app, "counter")["seen"] == []
            with pytest.raises(Disabled, match=r"spring cleaning\. Nothing was sent"):
                await app.send("counter", "note", {"n": 7})
            resume(app)
            await until(lambda: len(state_of(app, "counter")["seen"]) == 5)
            assert state_of(app, "counter")["seen"] == [0, 1, 2, 3, 4]
            assert [letter.message.body for letter in app.letters] == [{"n": 99}]
            assert books_balance(app)

    asyncio.run(story())


def test_timers_and_intakes_stand_still_and_go_on_afterwards() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            counter = app.modules["counter"]
            await until(lambda: state_of(app, "counter")["ticks"] > 2)
            rest(app)
            await asyncio.sleep(0.01)  # an intake that had its item delivers it
            ticks, accepted = state_of(app, "counter")["ticks"], counter.mailbox.accepted
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert (state_of(app, "counter")["ticks"], counter.mailbox.accepted) == (ticks, accepted)
            resume(app)
            await until(lambda: state_of(app, "counter")["ticks"] > ticks + 2)
            await until(lambda: counter.mailbox.accepted > accepted + 5)
            counter.stop_input()
            await counter.intakes.stop()
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_a_sender_that_waits_for_room_is_let_go_and_loses_nothing() -> None:
    async def story() -> None:
        async with running({"counter": Counter, "sender": Sender}, limit=10) as app:
            counter = app.modules["counter"]
            counter.held = Resting("a switch")  # it has to wait
            for n in range(10):
                await app.send("counter", "note", {"n": n})
            waits = asyncio.ensure_future(app.send("counter", "note", {"n": 10}))
            await asyncio.sleep(0)
            assert not waits.done()
            rest(app)
            await waits
            resume(app)
            await until(lambda: state_of(app, "counter")["seen"] == list(range(11)))
            counter.stop_input()
            await until(lambda: books_balance(app))

    asyncio.run(story())


def test_what_a_unit_gave_to_a_module_disabled_meanwhile_is_a_dead_letter_with_the_reason() -> None:
    async def story() -> None:
        async with running({"counter": Counter, "sender": Sender}) as app:
            app.modules["sender"].outbox.queue.append(
                Output("counter", "note", {"n": 1})
            )  # its unit has ended
            rest(app)
            app.modules["sender"].outbox.let_out()
            assert [letter.reason for letter in app.letters] == [
                "counter is disabled by ada: spring cleaning"
            ]

    asyncio.run(story())


def test_a_switch_of_a_module_at_rest_leaves_it_at_rest() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            counter = app.modules["counter"]
            await app.send("counter", "note", {"n": 1})
            await until(lambda: state_of(app, "counter")["seen"] == [1])
            rest(app)
            counter.accept(app.message("note", {"n": 2}, ""))
            await Quiesce(app, [counter], lambda _quiesce: None, drain_s=1.0, patience_s=0.0).run()
            hold = Quiesce(app, [counter], lambda _quiesce: None, drain_s=1.0)
            hold._hold()  # as a switch that had to be patient
            await asyncio.sleep(0.01)
            assert counter.held is counter.resting
            assert state_of(app, "counter")["seen"] == [1]

    asyncio.run(story())
