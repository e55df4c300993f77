"""Attached sources: what they give arrives once and in order over swaps, and each ends as its connection does."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from loguru import logger

from livetag import handles, intake, testing
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import DefinitionInvalid, NotInService, SourceRefused
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.rest import Resting
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until, wire


def story(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


class Base(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": [], "closed": []}

    @handles("frame")
    def on_frame(self, source: str | int, item: Any) -> None:
        self.state["got"].append((source, item))

    @handles("frame.closed")
    def on_closed(self, source: str | int, reason: str) -> None:
        self.state["closed"].append((source, reason, source in self.sources("frame")))


class Lines(Base):
    """Reads lines of a StreamReader."""

    @intake(each=True)
    async def frame(self, reader: asyncio.StreamReader) -> str:
        return (await reader.readuntil(b"\n")).decode().strip()


class Raw(Base):
    """Reads four bytes at a time of a socket, and keeps what it has so far beside it."""

    @intake(each=True)
    async def frame(self, source: tuple[socket.socket, bytearray]) -> int:
        conn, partial = source
        while len(partial) < 4:
            data = await asyncio.get_running_loop().sock_recv(conn, 4 - len(partial))
            if not data:
                raise EOFError("hung up")
            partial += data
        number = int.from_bytes(partial, "big")
        partial.clear()
        return number


def swap(app: Application, cls: type[Plain], version: str) -> None:
    proxy = app.modules["m"]
    proxy.serve(implement(cls, "m", version), state_of(app, "m"))
    proxy.start()


@asynccontextmanager
async def serving(
    cls: type[Plain], clock: FakeClock | None = None, limit: int = 100
) -> AsyncIterator[Application]:
    async with running({"m": cls}, clock=clock, limit=limit) as app:
        try:
            yield app
        finally:
            await app.modules["m"].intakes.stop()
            await app.modules["m"].intakes.sources.close()


def attach(app: Application, id_: str | int, source: object) -> None:
    app.modules["m"].intakes.sources.attach("frame", id_, source)


def got(app: Application) -> list[tuple[str | int, Any]]:
    return list(state_of(app, "m")["got"])


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- over swaps


@pytest.mark.parametrize("seed", range(3))
def test_no_byte_is_lost_split_or_doubled_over_swaps_at_random_moments(seed: int) -> None:
    choose = random.Random(seed)  # noqa: S311  # no secret
    count, lines = 20, 60

    async def run() -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        for each in pairs:
            for end in each:
                end.setblocking(False)
        async with serving(Raw) as app:
            for number, (_, right) in enumerate(pairs):
                attach(app, number, (right, bytearray()))
            ahead = [b"".join(n.to_bytes(4, "big") for n in range(lines)) for _ in pairs]
            version = 0
            while any(ahead):
                for number, (left, _) in enumerate(pairs):
                    size = choose.choice([0, 0, 1, 2, 3, 4, 5, 9])
                    left.send(ahead[number][:size])
                    ahead[number] = ahead[number][size:]
                if choose.random() < 0.4:
                    version += 1
                    swap(app, Raw, f"{version}.0.0")
                await turns(choose.choice([0, 1, 1, 2, 3, 5]))
            await until(lambda: len(got(app)) == count * lines)
            await idle(app)
            for number in range(count):
                assert [item for source, item in got(app) if source == number] == list(range(lines))
            assert version > 20
            assert books_balance(app)
        assert all(right.fileno() == -1 for _, right in pairs)
        for left, _ in pairs:
            left.close()

    story(run())


def test_a_swap_does_not_throw_away_what_a_source_has_just_given() -> None:
    """A cancellation in the turn in which a read was answered would come in place of the answer."""

    async def run() -> None:
        waiting = list[asyncio.Future[int]]()

        async def pull() -> int:
            return await waiting[-1]

        class Reader(Base):
            @intake(each=True)
            async def frame(self, source: str) -> int:
                waiting.append(asyncio.get_running_loop().create_future())
                if len(waiting) % 8 < 4:
                    return await waiting[-1]
                return await asyncio.get_running_loop().create_task(pull())  # through a task of its own, too

        async with serving(Reader) as app:
            attach(app, "a", "source")
            for number in range(20):
                await until(lambda: waiting and not waiting[-1].done())
                await turns(2)
                if number % 4 == 0:  # the switch comes first, in the same turn
                    swap(app, Reader, f"{number + 2}.0.0")
                waiting[-1].set_result(number)
                if number % 4:
                    await turns(number % 4 - 1)
                    swap(app, Reader, f"{number + 2}.0.0")
                await turns()
                await until(lambda: len(got(app)) == number + 1)  # noqa: B023  # awaited here
            assert [item for _, item in got(app)] == list(range(20))

    story(run())


def test_after_a_swap_every_source_is_read_by_the_new_version_and_the_old_one_is_gone() -> None:
    async def run() -> None:
        reads = list[str]()

        class Reader(Base):
            @intake(each=True)
            async def frame(self, source: asyncio.Queue[int]) -> Any:
                reads.append(self.version)
                return [self.version, await source.get()]

        async with serving(Reader) as app:
            queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(200)]
            for number, queue in enumerate(queues):
                attach(app, number, queue)
            await turns()
            swap(app, Reader, "2.0.0")
            assert "2.0.0" not in reads  # nothing was touched in the switch itself
            await app.modules["m"].intakes.sources.settled()
            assert reads.count("2.0.0") == len(queues)
            for number, queue in enumerate(queues):
                queue.put_nowait(number)
            await until(lambda: len(got(app)) == len(queues))
            assert got(app) == [(n, ["2.0.0", n]) for n in range(len(queues))]
            assert app.modules["m"].intakes.failures == 0

    story(run())


def test_the_old_version_has_not_ended_while_a_read_in_it_still_cleans_up() -> None:
    async def run() -> None:
        cleaned = list[str]()

        class Careful(Base):
            @intake(each=True)
            async def frame(self, source: asyncio.Event) -> None:
                try:
                    await source.wait()
                finally:
                    await turns(6)
                    cleaned.append(self.version)

        async with serving(Careful) as app:
            attach(app, "a", asyncio.Event())
            await turns()
            swap(app, Careful, "2.0.0")
            await app.modules["m"].intakes.sources.settled()
            assert cleaned == ["1.0.0"]

    story(run())


def test_a_source_that_never_waits_does_not_starve_the_others() -> None:
    async def run() -> None:
        async with serving(Lines, limit=10_000) as app:
            flood, drop = asyncio.StreamReader(), asyncio.StreamReader()
            flood.feed_data(b"x\n" * 2000)
            drop.feed_data(b"y\n")
            attach(app, "flood", flood)
            attach(app, "drop", drop)
            await until(lambda: ("drop", "y") in got(app))
            assert len(got(app)) < 500
            await until(lambda: len(got(app)) == 2001)

    story(run())


def test_a_switch_costs_the_same_with_thousands_of_sources() -> None:
    class Idle(Base):
        @intake(each=True)
        async def frame(self, source: asyncio.Event) -> None:
            await source.wait()

    async def pauses(count: int) -> float:
        async with serving(Idle) as app:
            for number in range(count):
                attach(app, number, asyncio.Event())
            await turns()
            gc.collect()
            gc.disable()
            try:
                best = 1e9
                for version in range(10):
                    proxy, new = app.modules["m"], implement(Idle, "m", f"{version + 2}.0.0")

                    def switch(
                        _quiesce: object, proxy: ModuleProxy = proxy, new: Implementation = new
                    ) -> None:
                        proxy.serve(new, state_of(app, "m"))
                        proxy.start()

                    quiesce = Quiesce(app, [proxy], switch, drain_s=5.0)
                    await quiesce.run()
                    best = min(best, quiesce.pause.pause_us)
                    await app.modules["m"].intakes.sources.settled()
            finally:
                gc.enable()
            return best

    few, many = asyncio.run(pauses(1)), asyncio.run(pauses(5000))
    # The best of ten; to touch each would cost some 10 ms.
    assert many < few + 3000, f"{few:.0f} µs with one source, {many:.0f} µs with 5,000"


def test_the_loop_turns_while_thousands_of_sources_move() -> None:
    class Idle(Base):
        @intake(each=True)
        async def frame(self, source: asyncio.Event) -> None:
            await source.wait()

    async def run() -> None:
        async with serving(Idle) as app:
            for number in range(3000):
                attach(app, number, asyncio.Event())
            await turns()
            swap(app, Idle, "2.0.0")
            moved = asyncio.ensure_future(app.modules["m"].intakes.sources.settled())
            count, worst, last = 0, 0.0, time.perf_counter()
            while not moved.done():
                await asyncio.sleep(0)
                count, worst, last = count + 1, max(worst, time.perf_counter() - last), time.perf_counter()
            assert count > 3000 // 32
            assert worst < 0.1

    story(run())


def test_swaps_in_quick_succession_leave_all_sources_with_the_last_one() -> None:
    async def run() -> None:
        class Reader(Base):
            @intake(each=True)
            async def frame(self, source: asyncio.Queue[int]) -> Any:
                await source.get()
                return self.version

        async with serving(Reader) as app:
            queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(100)]
            for number, queue in enumerate(queues):
                attach(app, number, queue)
            for version in range(2, 9):
                swap(app, Reader, f"{version}.0.0")
                await asyncio.sleep(0)
            await app.modules["m"].intakes.sources.settled()
            for queue in queues:
                queue.put_nowait(1)
            await until(lambda: len(got(app)) == len(queues))
            assert {item for _, item in got(app)} == {"8.0.0"}

    story(run())


def test_a_read_that_swallows_its_cancellation_is_named_and_holds_nothing_up() -> None:
    async def run() -> None:
        ends, told = asyncio.Event(), list[str]()

        class Stubborn(Base):
            @intake(each=True)
            async def frame(self, source: str) -> None:
                while not ends.is_set():
                    try:
                        await ends.wait()
                    except asyncio.CancelledError:
                        continue

        async with serving(Stubborn) as app:
            attach(app, "a", "source")
            await turns()
            number = logger.add(told.append, format="{message}", level="WARNING")
            swap(app, Stubborn, "2.0.0")
            await asyncio.wait_for(app.modules["m"].intakes.sources.settled(), 5)
            logger.remove(number)
            ends.set()
            await turns()
        assert any("intake m.frame of 'a'" in line and "CancelledError" in line for line in told)

    story(run())


class NoFrames(Base):
    """A later version that no longer has the intake."""


def test_it_is_said_beforehand_how_many_sources_a_switch_will_close() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            sources = app.modules["m"].intakes.sources
            assert sources.closed_by(None) == ""
            attach(app, "a", asyncio.StreamReader())
            attach(app, "b", asyncio.StreamReader())
            assert sources.closed_by(Blueprint(Lines)) == ""
            assert sources.closed_by(Blueprint(NoFrames)) == "2 sources of m.frame will be closed"
            assert sources.closed_by(None) == "2 sources of m.frame will be closed"
            told = sources.endings(Blueprint(Lines), "m was removed")
            assert [(each.type, each.body) for each in told] == [
                ("frame.closed", {"source": "a", "reason": "m was removed"}),
                ("frame.closed", {"source": "b", "reason": "m was removed"}),
            ]
            assert sources.endings(Blueprint(Unheard), "m was removed") == []

    story(run())


def test_a_source_that_ends_after_its_module_was_removed_leaves_no_dead_letter() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            reader, proxy = asyncio.StreamReader(), app.modules["m"]
            attach(app, "a", reader)
            await turns()
            proxy.leave("it was removed")
            reader.feed_eof()
            await turns()
            await proxy.intakes.stop()
            assert proxy.dead == 0

    story(run())


def test_a_version_without_the_intake_closes_the_sources_and_hears_of_each() -> None:
    async def run() -> None:
        left, right = socket.socketpair()
        right.setblocking(False)
        async with serving(Raw) as app:
            attach(app, "a", (right, bytearray()))
            await turns()
            swap(app, NoFrames, "2.0.0")
            await until(lambda: right.fileno() == -1)
            assert state_of(app, "m")["closed"] == [("a", "m 2.0.0 has no intake 'frame'", True)]
            assert len(app.modules["m"].intakes.sources) == 0
        left.close()

    story(run())


# --- the end of a source


def test_the_end_of_a_source_is_a_message_behind_all_it_gave_and_then_it_is_closed() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            reader = asyncio.StreamReader()
            attach(app, "a", reader)
            reader.feed_data(b"one\ntwo\nthr")
            reader.feed_eof()
            await until(lambda: state_of(app, "m")["closed"])
            assert got(app) == [("a", "one"), ("a", "two")]
            assert state_of(app, "m")["closed"] == [("a", "it ended, 3 bytes into an item", True)]
            await until(lambda: not len(app.modules["m"].intakes.sources))
            assert dict(app.modules["m"].intakes.sources.objects("frame")) == {}

    story(run())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EOFError(), "it ended"),
        (EOFError("a line is too long"), "a line is too long"),
        (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
        (OSError(9, "Bad file descriptor"), "OSError: [Errno 9] Bad file descriptor"),
        (TimeoutError(110, "timed out"), "TimeoutError: [Errno 110] timed out"),
    ],
)
def test_a_lost_connection_ends_a_source_and_says_why(error: Exception, reason: str) -> None:
    async def run() -> None:
        class Ends(Base):
            @intake(each=True)
            async def frame(self, source: str) -> None:
                raise error

        async with serving(Ends) as app:
            attach(app, "a", "source")
            await until(lambda: state_of(app, "m")["closed"])
            assert state_of(app, "m")["closed"] == [("a", reason, True)]
            assert app.modules["m"].intakes.failures == 0

    story(run())


def test_any_other_error_is_tried_again_after_a_pause_that_doubles_and_is_counted() -> None:
    async def run() -> None:
        clock, calls = FakeClock(), list[float]()

        class Broken(Base):
            @intake(each=True)
            async def frame(self, source: str) -> None:
                calls.append(round(clock.now(), 3))
                raise ValueError("what a frame")

        async with serving(Broken, clock) as app:
            attach(app, "a", "source")
            await turns()
            await clock.advance(1, turns)
            assert calls == [0.0, 0.1, 0.3, 0.7]
            assert app.modules["m"].intakes.failures == 4
            assert state_of(app, "m")["closed"] == []

    story(run())


class Unheard(Plain):
    """Has no handler for the end of a source."""

    def initial_state(self) -> dict[str, Any]:
        return {"open": []}

    @intake(each=True)
    async def frame(self, reader: asyncio.StreamReader) -> str:
        return (await reader.readuntil(b"\n")).decode().strip()

    @handles("frame")
    async def on_frame(self, source: str, item: str) -> None:
        await asyncio.sleep(0)
        self.state["open"].append(source in self.sources("frame"))


def test_without_a_handler_for_it_a_source_still_stays_open_until_what_it_gave_is_handled() -> None:
    async def run() -> None:
        async with serving(Unheard) as app:
            reader = asyncio.StreamReader()
            reader.feed_data(b"one\ntwo\nthree\n")
            reader.feed_eof()
            attach(app, "a", reader)
            await until(lambda: not len(app.modules["m"].intakes.sources))
            assert state_of(app, "m")["open"] == [True, True, True]
            assert app.modules["m"].dead == 0
            assert books_balance(app)

    story(run())


def test_a_handler_of_the_end_that_raises_does_not_keep_the_source_open() -> None:
    async def run() -> None:
        class Bad(Lines):
            @handles("frame.closed")
            def on_closed(self, source: str | int, reason: str) -> None:
                raise ValueError("no")

        async with serving(Bad) as app:
            reader = asyncio.StreamReader()
            attach(app, "a", reader)
            reader.feed_eof()
            await until(lambda: not len(app.modules["m"].intakes.sources))
            assert app.modules["m"].dead == 1

    story(run())


# --- attach, detach, write


def test_a_source_may_be_given_while_it_is_being_opened_and_no_swap_interrupts_that() -> None:
    async def run() -> None:
        door, opened = asyncio.Event(), list[asyncio.StreamReader]()

        async def opening() -> asyncio.StreamReader:
            await door.wait()
            opened.append(asyncio.StreamReader())
            return opened[-1]

        async def failing() -> asyncio.StreamReader:
            raise OSError(111, "refused")

        async with serving(Lines) as app:
            attach(app, "a", opening())
            attach(app, "b", failing())
            await turns()
            swap(app, Lines, "2.0.0")
            assert app.modules["m"].intakes.sources.objects("frame").get("a") is None
            await app.modules["m"].intakes.sources.settled()
            door.set()
            await until(lambda: opened)
            opened[0].feed_data(b"hello\n")
            await until(lambda: got(app))
            assert got(app) == [("a", "hello")]
            assert app.modules["m"].intakes.sources.objects("frame")["a"] is opened[0]
            ((source, reason, _),) = state_of(app, "m")["closed"]
            assert (source, reason) == (
                "b",
                "it could not be opened: ConnectionRefusedError: [Errno 111] refused",
            )

    story(run())


class Attaching(Lines):
    @handles
    def take(self, name: str, id: str) -> None:  # noqa: A002
        self.attach(name, id, asyncio.StreamReader())

    @handles
    def write(self, id: str, data: bytes) -> list[Any]:  # noqa: A002
        self.sources("frame")[id].feed_data(data)
        return sorted(self.sources("frame"))

    @handles
    def drop(self, id: str) -> None:  # noqa: A002
        self.detach("frame", id)


def test_handlers_attach_write_and_detach() -> None:
    async def run() -> None:
        async with testing.run(Attaching) as module:
            await module.ask("take", {"name": "frame", "id": "a"})
            assert await module.ask("write", {"id": "a", "data": b"one\n"}) == ["a"]
            assert module.state["got"] == [["a", "one"]]
            await module.upgrade(Attaching)
            await module.ask("write", {"id": "a", "data": b"two\n"})
            assert module.state["got"] == [["a", "one"], ["a", "two"]]
            await module.ask("drop", {"id": "a"})
            await module.ask("drop", {"id": "a"})
            await module.settle()
            assert module.state["closed"] == []
            assert len(module.proxy.intakes.sources) == 0
            await module.ask("take", {"name": "frame", "id": "a"})

    story(run())


def test_the_test_kit_attaches_and_closes() -> None:
    async def run() -> None:
        left, right = socket.socketpair()
        right.setblocking(False)
        async with testing.run(Raw) as module:
            module.attach("frame", "a", (right, bytearray()))
            left.send((7).to_bytes(4, "big"))
            await until(lambda: module.proxy.mailbox.accepted)
            await module.settle()
            assert module.state["got"] == [["a", 7]]
        assert right.fileno() == -1
        left.close()

    story(run())


def test_the_test_kit_waits_for_what_a_source_was_fed() -> None:
    async def run() -> None:
        async with testing.run(Lines) as module:
            reader = asyncio.StreamReader()
            module.attach("frame", "a", reader)
            for number in range(3):
                reader.feed_data(b"%d\n" % number)
                await module.settle()
                assert len(module.state["got"]) == number + 1
            reader.feed_eof()
            await module.settle()
            assert module.state["closed"] == [["a", "it ended", True]]

    story(run())


def test_what_cannot_be_attached_is_refused_with_the_way_out() -> None:
    async def run() -> None:
        async with serving(Attaching) as app:
            with pytest.raises(
                SourceRefused, match=r"no @intake\(each=True\) named 'nothing' \(it has: frame\)"
            ):
                app.modules["m"].intakes.sources.attach("nothing", "a", None)
            with pytest.raises(SourceRefused, match="a str or an int"):
                attach(app, 1.5, None)  # type: ignore[arg-type]
            attach(app, "a", asyncio.StreamReader())
            with pytest.raises(SourceRefused, match="reads a source 'a' by 'frame' already"):
                attach(app, "a", asyncio.StreamReader())
        with pytest.raises(NotInService, match="is stopping and takes no more sources"):
            attach(app, "b", None)

    story(run())
    with pytest.raises(NotInService, match="has not served yet"):
        Attaching().attach("frame", "a", None)


def test_an_each_intake_takes_one_source() -> None:
    class Nothing(Plain):
        @intake(each=True)
        async def frame(self) -> None: ...

    class Two(Plain):
        @intake(each=True)
        async def frame(self, a: int, b: int) -> None: ...

    for cls in (Nothing, Two):
        with pytest.raises(DefinitionInvalid, match="takes one parameter beside self"):
            Blueprint(cls)
    assert Blueprint(Raw).each == ("frame",)
    assert Blueprint(Raw).intakes == ()


def test_an_intake_that_accepts_while_a_switch_happens_still_attaches() -> None:
    async def run() -> None:
        gates = list[asyncio.Future[str]]()

        class Accepts(Lines):
            @intake
            async def accept(self) -> None:
                gates.append(asyncio.get_running_loop().create_future())
                self.attach("frame", await gates[-1], asyncio.StreamReader())

        async with serving(Accepts) as app:
            await until(lambda: gates)
            gates[-1].set_result("a")
            swap(app, Accepts, "2.0.0")  # a switch that did not wait for it
            await until(lambda: len(app.modules["m"].intakes.sources) == 1)
            assert app.modules["m"].intakes.failures == 0

    story(run())


# --- out of service, and the end


def test_a_module_that_rests_keeps_its_sources_and_reads_them_again_when_it_comes_back() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            proxy, reader, late = app.modules["m"], asyncio.StreamReader(), asyncio.StreamReader()
            attach(app, "a", reader)
            await turns()
            proxy.rest(Resting("m is disabled"))
            attach(app, "b", late)
            reader.feed_data(b"one\n")
            late.feed_data(b"two\n")
            await turns(20)
            assert proxy.mailbox.accepted == 0
            proxy.resume()
            await until(lambda: len(got(app)) == 2)
            assert sorted(got(app)) == [("a", "one"), ("b", "two")]
            assert state_of(app, "m")["closed"] == []

    story(run())


def test_the_end_of_a_source_outlasts_a_rest() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            proxy, reader = app.modules["m"], asyncio.StreamReader()
            attach(app, "a", reader)
            held = Quiesce(app, [proxy], lambda _q: None, drain_s=5.0)
            proxy.held = held
            reader.feed_eof()
            await until(lambda: len(proxy.mailbox))
            proxy.rest(Resting("m is disabled"))
            await turns()
            proxy.resume()
            await until(lambda: state_of(app, "m")["closed"])
            await until(lambda: not len(proxy.intakes.sources))
            assert proxy.dead == 0

    story(run())


def test_a_stop_tells_the_module_of_every_source_and_closes_them_once() -> None:
    closed = list[str]()

    class Conn(asyncio.StreamReader):
        def close(self) -> None:
            closed.append("closed")

    async def run() -> None:
        async with serving(Lines) as app:
            proxy = app.modules["m"]
            attach(app, "a", Conn())
            attach(app, "b", Conn())
            await turns()
            await proxy.intakes.stop()
            await idle(app)
            assert [source for source, _, _ in state_of(app, "m")["closed"]] == ["a", "b"]
            assert closed == []
            await proxy.intakes.stop()
            await proxy.intakes.sources.close()
            await proxy.intakes.sources.close()
            assert closed == ["closed", "closed"]

    story(run())


def test_a_stop_tells_of_each_source_once_whatever_it_was_doing() -> None:
    async def run() -> None:
        async with serving(Lines) as app:
            proxy = app.modules["m"]
            ending, never = asyncio.StreamReader(), asyncio.get_running_loop().create_future()
            attach(app, "paused", asyncio.StreamReader())
            await turns()
            proxy.rest(Resting("m is disabled"))
            await turns()
            attach(app, "ending", ending)
            attach(app, "opening", never)
            proxy.intakes.sources._readers["frame"]["ending"].go_on()
            ending.feed_eof()
            await until(lambda: len(proxy.mailbox))
            began = time.monotonic()
            await proxy.intakes.stop()
            assert time.monotonic() - began < 0.9
            proxy.held = proxy.resting = None
            proxy.pump.rouse()
            await idle(app)
            assert sorted((source, reason) for source, reason, _ in state_of(app, "m")["closed"]) == [
                ("ending", "it ended"),
                ("opening", "m stopped"),
                ("paused", "m stopped"),
            ]
            assert never.cancelled()

    story(run())


def test_a_full_mailbox_holds_every_source_back_and_none_is_lost() -> None:
    async def run() -> None:
        door = asyncio.Event()

        class Slow(Lines):
            @handles("frame")
            async def on_frame(self, source: str | int, item: Any) -> None:  # type: ignore[override]
                await door.wait()
                self.state["got"].append((source, item))

        async with serving(Slow, limit=3) as app:
            readers = [asyncio.StreamReader() for _ in range(10)]
            for number, reader in enumerate(readers):
                reader.feed_data(b"".join(b"%d\n" % n for n in range(5)))
                attach(app, number, reader)
            await turns(50)
            assert len(app.modules["m"].mailbox.queue) == 3
            swap(app, Slow, "2.0.0")
            door.set()
            await until(lambda: len(got(app)) == 50)
            for number in range(10):
                assert [item for source, item in got(app) if source == number] == list("01234")

    story(run())


def test_sources_with_code_of_the_version_in_them_are_named_in_a_warning() -> None:
    class Own(asyncio.StreamReader):
        pass

    async def run() -> list[str]:
        told = list[str]()
        async with serving(Lines) as app:
            number = logger.add(told.append, format="{message}", level="WARNING")
            attach(app, "a", Own())
            attach(app, "b", Own())
            swap(app, Lines, "2.0.0")
            attach(app, "c", Own())
            logger.remove(number)
        return told

    first, second = asyncio.run(run())
    assert "sources of m.frame hold code of 1.0.0: an instance of" in first
    assert "sources of m.frame hold code of 2.0.0: an instance of" in second


def test_a_module_without_sources_has_none_to_look_at() -> None:
    async def run() -> None:
        async with running({"m": NoFrames}) as app:
            wire(app, app.modules)
            swap(app, NoFrames, "2.0.0")
            assert app.modules["m"].intakes.sources._settled is None

    story(run())


def test_in_a_thread_a_source_is_neither_attached_nor_detached() -> None:
    class Threaded(Lines):
        @handles
        def begin(self) -> None:
            self.attach("frame", 1, asyncio.StreamReader())

        @handles(thread=True)
        def in_a_thread(self) -> list[str]:
            said = []
            for source_id in (2, 1):
                try:
                    if source_id == 2:
                        self.attach("frame", source_id, None)
                    else:
                        self.detach("frame", source_id)
                except NotInService as error:
                    said.append(str(error))
            return said

    async def run() -> None:
        async with running({"m": Threaded}) as app:
            await app.ask("m", "begin")
            said = await app.ask("m", "in_a_thread")
            assert [text.partition(" was called in m in a thread; nothing was done")[0] for text in said] == [
                "attach()",
                "detach()",
            ]
            assert len(app.modules["m"].intakes.sources) == 1

    story(run())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, OSError])
def test_whatever_closing_a_source_raises_it_is_gone_and_the_host_goes_on(error: type[BaseException]) -> None:
    class Stuck(asyncio.StreamReader):
        def close(self) -> None:
            raise error

    class Closing(Lines):
        @handles
        def begin(self) -> None:
            self.attach("frame", 1, Stuck())

        @handles
        def end(self) -> None:
            self.detach("frame", 1)

    async def run() -> None:
        async with running({"m": Closing}) as app:
            await app.ask("m", "begin")
            await app.ask("m", "end")
            await idle(app)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(app.modules["m"].intakes.sources) == 0

    story(run())
