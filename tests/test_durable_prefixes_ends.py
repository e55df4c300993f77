"""The ends of a life with durable modules: a disk that fails at any write, a clean stop cut anywhere; and a ring that is full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from livetag import handles
from orchestrator.runtime.errors import ModuleError
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.image import take_image
from orchestrator.upgrade.records import HostStopped, ImageSaved
from tests.durable_kit import turns
from tests.durable_tape import Classes, Tape, TapeLife, at_prefix, living
from tests.test_durable_prefixes import LAGS, Plain, Promises, dead_of, got_of, hearer, passer, run


class Broken(Tape):
    """Takes so many items, and then fails."""

    def __init__(self, fails_at: int | None) -> None:
        super().__init__()
        self._fails_at = fails_at

    def write(self, lines: Sequence[Any], head: tuple[int, bytes], writes: Sequence[Any] = ()) -> None:
        if len(self.items) == self._fails_at:
            raise OSError(28, "No space left on device")
        super().write(lines, head, writes)


async def chain(it: TapeLife, promises: Promises) -> None:
    """All that is said fails or is kept, and nobody waits for ever."""
    promises.life = it

    async def ask(n: int) -> None:
        await promises.ask("a", n)

    said = [promises.send("a", n) if n % 3 else ask(n) for n in range(1, 13)]
    found = await asyncio.wait_for(asyncio.gather(*said, return_exceptions=True), 5)
    for each in found:
        assert each is None or isinstance(each, ModuleError), each
    promises.life = None


@pytest.mark.parametrize("lag", LAGS)
def test_a_disk_that_fails_at_any_write_leaves_what_a_kill_leaves(lag: int) -> None:
    async def story() -> None:
        whole, fails_at = 0, -1
        while fails_at <= whole:  # at every second one; the delays reach the others
            promises, classes = Promises(), Classes()
            tape = Broken(fails_at if fails_at > 0 else None)
            async with living(tape, classes) as it:
                modules = {"a": passer("b", "m"), "b": passer(bad=5), "m": hearer(promises, "a")}
                await it.put(modules, {"a", "b"})
                first = it.position
                it.writer.lag = lag
                await chain(it, promises)
                if fails_at < 0:
                    await it.settled()
                    whole, fails_at = it.position, first
                    continue
                await turns()
                if it.journal.failed:
                    with pytest.raises(JournalFailed):
                        await it.stopped()
                after = Tape(tape.connection)
            with at_prefix(fails_at, tape):
                async with living(after, classes) as it:
                    await it.settled()
                    promises.hold(it, fails_at)
                    a = got_of(it, "a")
                    assert sorted(got_of(it, "b") + dead_of(it, "b")) == sorted(a)
            fails_at += 2
        assert whole > 20

    asyncio.run(story())


@pytest.mark.parametrize("lag", LAGS)
def test_a_clean_stop_cut_anywhere_keeps_what_durable_modules_have(lag: int) -> None:
    promises, ended, lives = Promises(), list[int](), list[TapeLife]()

    async def story(it: TapeLife) -> None:
        promises.life = it
        modules = {"a": passer("b", "m"), "b": passer(bad=5), "m": hearer(promises, "a")}
        await it.put(modules, {"a", "b"})
        it.writer.lag = lag
        for n in range(1, 12):
            it.offer("a", "add", n=n)
        await turns(lag)
        it.writer.lag = 0  # who writes in the moment of the stop, waits for it
        for n in range(12, 16):
            it.offer("a", "add", n=n)
        images = await Quiesce(
            it.app,
            list(it.app.modules.values()),
            lambda _: take_image(it.app, it.book.ledger.table),
            drain_s=5.0,
        ).run()
        await turns()
        it.book.write_now(ImageSaved(tuple(sorted(i.name for i in images))), images)
        it.book.write_now(HostStopped(clean=True))
        lives.append(it)
        promises.life = None
        ended.append(it.position)

    async def check(it: TapeLife, count: int) -> None:
        if it in lives:
            return  # it has stopped
        promises.hold(it, count)
        a = got_of(it, "a")
        assert sorted(got_of(it, "b") + dead_of(it, "b")) == a == sorted(a)
        if count == ended[0]:
            assert got_of(it, "m") == a  # a clean stop loses nothing of modules in memory either

    run(story, check, lag)


class Ring(Plain):
    to = ""

    def initial_state(self) -> dict[str, Any]:
        return {"hops": []}

    @handles
    def hop(self, token: int, left: int) -> None:
        self.state["hops"].append(token * 100 + left)
        if left:
            self.send(self.to, "hop", {"token": token, "left": left - 1})


def ring(to: str) -> type[Ring]:
    return type("Ring", (Ring,), {"to": to})


@pytest.mark.parametrize(("durable", "lag"), [("abc", 7), ("ac", 0)])
def test_a_ring_of_full_mailboxes_turns_on(durable: str, lag: int) -> None:
    accepted: list[tuple[int, int]] = []

    async def story(it: TapeLife) -> None:
        await it.put({"a": ring("b"), "b": ring("c"), "c": ring("a")}, set(durable), mailbox=1)

        async def send(token: int) -> None:
            await it.app.send("abc"[token % 3], "hop", {"token": token, "left": 5})
            accepted.append((it.position, token))

        await asyncio.gather(*(send(token) for token in range(1, 9)))
        await it.settled()

    async def check(it: TapeLife, count: int) -> None:
        hops: list[int] = []
        for proxy in it.app.modules.values():
            assert proxy.implementation is not None
            hops += proxy.implementation.state["hops"]
        assert len(hops) == len(set(hops))
        if durable == "abc":
            for at, token in accepted:
                if at <= count:
                    assert {token * 100 + left for left in range(6)} <= set(hops), token

    run(story, check, lag)
