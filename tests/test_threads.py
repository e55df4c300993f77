"""Handlers in threads: the loop is free meanwhile, the unit is done when the function returns, and is never stopped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from livetag import Message, every, handles, subscribes, testing
from orchestrator.runtime.errors import (
    AskCycle,
    AskTimeout,
    BodyRefused,
    HandlerFailed,
    Leaving,
    NotInService,
    QuiesceTimeout,
)
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.threads import KEPT, ThreadCall, Threads
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until


class Sink(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def put(self, item: Any) -> int:
        self.state["got"].append(item)
        return len(self.state["got"])


class Gate:
    """What a class of a test can hold without putting it into its state."""

    def __init__(self) -> None:
        self.opens = threading.Event()
        self.inside = threading.Event()
        self.log: list[Any] = []


def blocking(gate: Gate) -> type[Plain]:
    class Blocking(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"done": []}

        @handles(thread=True)
        def work(self, item: Any = None) -> Any:
            gate.inside.set()
            gate.opens.wait(30)
            self.send("sink", "put", {"item": item})
            self.state["done"].append(item)
            return threading.current_thread().name

        @handles
        def plain(self) -> str:
            return "plain"

    return Blocking


def test_the_event_loop_is_free_while_a_handler_is_in_its_thread() -> None:
    async def story() -> None:
        gate = Gate()
        async with running({"slow": blocking(gate), "sink": Sink}) as app:
            asked = asyncio.ensure_future(app.ask("slow", "work", {"item": 1}))
            await until(gate.inside.is_set)
            assert await app.ask("sink", "put", {"item": "meanwhile"}) == 1
            follows = asyncio.ensure_future(app.ask("slow", "plain"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not follows.done(), "one unit at a time"
            assert books_balance(app)
            gate.opens.set()
            assert await asked == "slow.work"
            assert await follows == "plain"
            await idle(app)
            assert state_of(app, "sink")["got"] == ["meanwhile", 1]
            assert app.modules["slow"].thread is None
            assert books_balance(app)

    asyncio.run(story())


def test_units_in_threads_are_one_at_a_time_and_in_order() -> None:
    async def story() -> None:
        before = threading.active_count()  # those of other tests wait some seconds for more work
        async with running({"m": Ordered, "sink": Sink}) as app:
            for n in range(200):
                await app.send("m", "add", {"n": n})
            await idle(app)
            assert state_of(app, "m")["seen"] == list(range(200))
            assert state_of(app, "sink")["got"] == list(range(200))
            assert threading.active_count() - before < 5
            assert books_balance(app)

    asyncio.run(story())


class Ordered(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"seen": []}

    @handles(thread=True)
    def add(self, n: int) -> None:
        self.state["seen"].append(n)
        self.send("sink", "put", {"item": n})


def test_events_ticks_types_and_bodies_are_those_of_any_handler() -> None:
    async def story() -> None:
        log: list[Any] = []

        class All(Plain):
            @handles("other-name", thread=True, again=True)
            def method(self, message: Message, n: int) -> tuple[str, int, bool]:
                log.append(threading.current_thread() is threading.main_thread())
                return message.type, n, threading.current_thread() is threading.main_thread()

            @subscribes("clock.*", thread=True)
            def on_clock(self, event: dict[str, Any]) -> None:
                log.append(("event", event, threading.current_thread().name))

            @every(seconds=1, thread=True)
            def tick(self) -> None:
                log.append(("tick", threading.current_thread().name))

        clock = FakeClock()
        async with running({"all": All}, clock=clock) as app:
            assert await app.ask("all", "other-name", {"n": 2}) == ("other-name", 2, False)
            with pytest.raises(BodyRefused, match="refuses the body of 'other-name'"):
                await app.ask("all", "other-name", {"n": "x"})
            await app.publish("clock.now", {"a": 1})
            await idle(app)
            await clock.advance(1, lambda: idle(app))
            assert log == [False, ("event", {"a": 1}, "all.on_clock"), ("tick", "all.tick")]
            implementation = app.modules["all"].implementation
            assert implementation is not None
            assert implementation.handlers["other-name"].again

    asyncio.run(story())


@pytest.mark.parametrize(
    "error", [KeyError, SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError, GeneratorExit]
)
def test_whatever_a_thread_raises_is_its_units_failure(error: type[BaseException]) -> None:
    async def story() -> None:
        class Broken(Plain):
            @handles(thread=True)
            def work(self) -> None:
                self.send("sink", "put", {"item": 1})
                raise error

            @handles(thread=True)
            def ok(self) -> str:
                return "ok"

        async with running({"broken": Broken, "sink": Sink}) as app:
            with pytest.raises(
                HandlerFailed, match=rf"broken 1\.0\.0 failed on 'work': .*{error.__name__}.*line \d+\)"
            ):
                await app.ask("broken", "work")
            assert await app.ask("broken", "ok") == "ok"
            assert (app.modules["broken"].handled, app.modules["broken"].dead) == (1, 1)
            assert state_of(app, "sink")["got"] == []
            assert books_balance(app)

    asyncio.run(story())


# -- asking -----------------------------------------------------------------------------------------------------


class Asking(Plain):
    @handles(thread=True)
    def total(self, item: Any) -> int:
        self.send("sink", "put", {"item": "before"})
        return self.ask_blocking("sink", "put", {"item": item}, returns=int)

    @handles(thread=True)
    def plain_ask(self) -> None:
        self.ask("sink", "put", {"item": 1})

    @handles
    def blocks_the_loop(self) -> None:
        self.ask_blocking("sink", "put", {"item": 1})

    @handles(thread=True)
    def circle(self) -> None:
        self.ask_blocking("front", "go")

    @handles(thread=True)
    def short(self) -> str:
        try:
            self.ask_blocking("front", "never", timeout_s=0.01)
        except AskTimeout as error:
            return str(error)
        return "answered"


class Front(Plain):
    @handles
    async def go(self) -> Any:
        return await self.ask("asking", "circle")

    @handles
    async def never(self) -> None:
        await asyncio.Event().wait()


def test_a_thread_asks_by_ask_blocking_and_lets_out_first_what_it_sent() -> None:
    async def story() -> None:
        async with running({"asking": Asking, "sink": Sink, "front": Front}) as app:
            assert await app.ask("asking", "total", {"item": 5}) == 2
            assert state_of(app, "sink")["got"] == ["before", 5]
            with pytest.raises(
                HandlerFailed, match=r"ask\(\) was called in asking .* Use self\.ask_blocking"
            ):
                await app.ask("asking", "plain_ask")
            with pytest.raises(
                HandlerFailed, match=r"ask_blocking\(\) was called in asking outside .* `await self\.ask"
            ):
                await app.ask("asking", "blocks_the_loop")
            with pytest.raises(HandlerFailed, match="front → asking → front"):
                await app.ask("front", "go")
            assert "front did not answer 'never' in 0.01 s" in await app.ask("asking", "short")
            assert books_balance(app)

    asyncio.run(story())


def test_two_threads_that_ask_each_other_are_told_at_once() -> None:
    async def story() -> None:
        barrier = threading.Barrier(2, timeout=10)

        class Half(Plain):
            @handles(thread=True)
            def go(self, other: str) -> str:
                barrier.wait()
                try:
                    return str(self.ask_blocking(other, "ping", timeout_s=60))
                except AskCycle as error:
                    return f"refused: {error}"

            @handles
            def ping(self) -> str:
                return "pong"

        async with running({"a": Half, "b": Half}) as app:
            replies = await asyncio.wait_for(
                asyncio.gather(app.ask("a", "go", {"other": "b"}), app.ask("b", "go", {"other": "a"})), 10
            )
            assert sorted(reply.partition(":")[0] for reply in replies) == ["pong", "refused"]

    asyncio.run(story())


def test_a_thread_that_no_unit_is_in_cannot_speak() -> None:
    async def story() -> None:
        gate, refused = Gate(), list[str]()

        class Foreign(Plain):
            @handles
            async def go(self) -> None:
                def speak() -> None:
                    try:
                        self.send("sink", "put", {"item": 1})
                    except NotInService as error:
                        refused.append(str(error))

                thread = threading.Thread(target=speak)
                thread.start()
                await asyncio.get_running_loop().run_in_executor(None, thread.join)

        async with running({"foreign": Foreign, "slow": blocking(gate), "sink": Sink}) as app:
            await app.ask("foreign", "go")
            assert len(refused) == 1

    asyncio.run(story())


# -- a thread that never returns --------------------------------------------------------------------------------


def test_a_switch_waits_for_the_thread_and_names_it_when_it_gives_up() -> None:
    async def story() -> None:
        gate, clock = Gate(), FakeClock()
        async with running({"slow": blocking(gate), "sink": Sink}, clock=clock) as app:
            asked = asyncio.ensure_future(app.ask("slow", "work"))
            await until(gate.inside.is_set)
            attempt = asyncio.ensure_future(
                Quiesce(app, [app.modules["slow"]], lambda _: "switched", drain_s=2.0, patience_s=0.0).run()
            )
            await asyncio.sleep(0)
            await clock.advance(2.0, lambda: asyncio.sleep(0))
            with pytest.raises(
                QuiesceTimeout,
                match=r"slow in 'work' runs in a thread at test_threads\.py line \d+ in work\. Shorten",
            ):
                await attempt
            again = asyncio.ensure_future(
                Quiesce(
                    app, [app.modules["slow"]], lambda _: list(state_of(app, "slow")["done"]), drain_s=2.0
                ).run()
            )
            gate.opens.set()
            assert await again == [None], "done when the function has returned, and not before"
            await asked
            assert books_balance(app)

    asyncio.run(story())


def test_closing_leaves_a_thread_that_does_not_return_and_it_can_speak_no_more() -> None:
    async def story() -> None:
        gate, refused = Gate(), list[str]()

        class Slow(Plain):
            @handles(thread=True)
            def work(self) -> None:
                gate.inside.set()
                gate.opens.wait(30)
                try:
                    self.send("sink", "put", {"item": 1})
                except NotInService as error:
                    refused.append(str(error))

            @handles(thread=True)
            def asks(self) -> None:
                gate.inside.set()
                try:
                    self.ask_blocking("never", "never", timeout_s=60)
                except BaseException as error:
                    refused.append(type(error).__name__)
                    raise

        class Never(Plain):
            @handles
            async def never(self) -> None:
                await asyncio.Event().wait()

        for type_ in ("work", "asks"):
            gate.inside.clear()
            async with running({"slow": Slow, "sink": Sink, "never": Never}) as app:
                asked = asyncio.ensure_future(app.ask("slow", type_, timeout_s=60))
                await until(gate.inside.is_set)
                if type_ == "asks":
                    await until(lambda: app.modules["never"].unit)
                began = time.monotonic()
                await app.modules["slow"].close("the host stopped")
                assert time.monotonic() - began < 1.0
                with pytest.raises(Leaving, match="slow left service while it was handled: the host stopped"):
                    await asked
                gate.opens.set()
                await until(lambda: refused)
                assert books_balance(app)
                assert "is not in service" in refused[0] or refused[0] == "CancelledError"
                await asyncio.sleep(0)
                assert state_of(app, "sink")["got"] == []
                refused.clear()

    asyncio.run(story())


ENDS = """
import asyncio, sys
sys.path.insert(0, ".")
from tests.test_threads import Gate, blocking, Sink
from tests.runtime_kit import running, until
gate = Gate()
gate.opens.wait = lambda _seconds: __import__("time").sleep(3600)
async def main():
    async with running({"slow": blocking(gate), "sink": Sink}) as app:
        await app.send("slow", "work")
        await until(gate.inside.is_set)
asyncio.run(main())
print("ended", flush=True)
"""


def test_the_process_ends_though_a_thread_never_returns() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


# -- versions and threads ---------------------------------------------------------------------------------------


def test_a_swap_between_two_units_in_threads_loses_nothing() -> None:
    async def story() -> None:
        async with running({"m": Ordered, "sink": Sink}) as app:
            proxy = app.modules["m"]
            sending = asyncio.ensure_future(send_all(app, 300))
            for number in range(20):

                def swap(_quiesce: object, number: int = number) -> None:
                    proxy.serve(implement(Ordered, "m", f"{number + 2}.0.0"), state_of(app, "m"))

                await Quiesce(app, [proxy], swap, drain_s=5.0).run()
                await asyncio.sleep(0.001)
            await sending
            await idle(app)
            assert state_of(app, "m")["seen"] == state_of(app, "sink")["got"] == list(range(300))
            assert books_balance(app)

    async def send_all(app: Any, count: int) -> None:
        for n in range(count):
            await app.send("m", "add", {"n": n})

    asyncio.run(story())


def test_threads_are_used_again_and_the_idle_ones_end() -> None:
    async def story() -> None:
        threads = Threads()
        gate = threading.Event()
        calls = [ThreadCall(f"call {n}", gate.wait, (10,)) for n in range(3 * KEPT)]
        for each in calls:
            threads.begin(each)
        gate.set()
        for call in calls:
            await call.ended
            assert call.outcome() is True
        await until(lambda: len(named()) <= before + KEPT)
        for _ in range(50):
            call = ThreadCall("again", threading.get_ident, ())
            threads.begin(call)
            await call.ended
            assert call.outcome()
        assert len(named()) <= before + KEPT

    def named() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith(("livetag-handler", "call ", "again"))]

    before = len(named())  # of other tests, that have not gone yet
    asyncio.run(story())


def test_the_test_kit_waits_for_a_thread() -> None:
    async def story() -> None:
        class Slow(Plain):
            @handles(thread=True)
            def work(self) -> int:
                time.sleep(0.2)  # in its thread: what is tested
                self.send("elsewhere", "note", {"n": 1})
                self.state["worked"] = True
                return self.ask_blocking("other", "price", {"of": "apples"}, returns=int)

        async with testing.run(Slow, answers={("other", "price"): 7}) as slow:
            await slow.send("work")
            assert slow.state == {"worked": True}
            assert slow.sent == [("elsewhere", "note", {"n": 1}), ("other", "price", {"of": "apples"})]
            assert await slow.ask("work") == 7
            await slow.upgrade(Slow)

    asyncio.run(story())


def test_the_test_kit_waits_for_the_tasks_of_a_unit() -> None:
    async def story() -> None:
        class Starting(Plain):
            @handles
            async def work(self) -> str:
                self._task = asyncio.create_task(self._later())
                return "answered"

            async def _later(self) -> None:
                for _ in range(20):
                    await asyncio.sleep(0)
                self.send("elsewhere", "note", {"n": await self.ask("other", "price")})

        async with testing.run(Starting, answers={("other", "price"): 7}) as module:
            assert await module.ask("work") == "answered"
            assert module.sent[-1] == ("elsewhere", "note", {"n": 7})
            await module.upgrade(Starting)

    asyncio.run(story())
