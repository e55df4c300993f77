"""A kill at any point: whatever prefix of the queue is on disk, the next life ends as if nothing had happened.

Each scenario is lived once; then from each prefix of what it wrote another life begins, comes to rest, and is compared
with what was promised up to there (DESIGN §6 P2): handled once or a letter, in its sender's order, and nobody has heard
of what is not on disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from livetag import Module, Table, handles, subscribes
from orchestrator.runtime.errors import MailboxFull
from orchestrator.runtime.message import Message
from orchestrator.runtime.rest import Resting
from tests.durable_kit import turns
from tests.durable_tape import Story, TapeLife, kill_at_each

Plain = Module[dict[str, Any]]
LAGS = [0, 7, pytest.param(1, marks=pytest.mark.slow)]  # turns of the loop from the queue to the disk


class Promises:
    """What somebody was told, and how much was on disk then: it holds after every kill from there on."""

    def __init__(self) -> None:
        self.life: TapeLife | None = None
        self.accepted: list[tuple[int, str, int]] = []
        self.refused: list[tuple[int, str, int]] = []
        self.done: list[tuple[int, str, int]] = []  # heard of as handled

    def note(self, what: list[tuple[int, str, int]], name: str, n: int) -> None:
        if self.life is not None:
            what.append((self.life.position, name, n))

    async def send(self, name: str, n: int, timeout_s: float = 5.0) -> None:
        assert self.life is not None
        try:
            await self.life.app.send(name, "add", {"n": n}, timeout_s=timeout_s)
        except MailboxFull:
            self.note(self.refused, name, n)
        else:
            self.note(self.accepted, name, n)

    async def ask(self, name: str, n: int) -> None:
        assert self.life is not None
        await self.life.app.ask(name, "add", {"n": n})
        self.note(self.done, name, n)

    def hold(self, it: TapeLife, count: int) -> None:
        """Compare a life at rest with what was told before its kill."""
        for name, proxy in it.app.modules.items():
            if proxy.implementation is None or "got" not in proxy.implementation.state:
                continue
            got, waits = got_of(it, name), [number_of(message) for message in proxy.mailbox.queue]
            had = Counter(got + dead_of(it, name) + waits)
            if proxy.keeps:
                assert max(had.values(), default=1) == 1, (name, "twice", had)
                for told, want in ((self.accepted, had), (self.done, got)):
                    missing = [n for at, of, n in told if of == name and at <= count and n not in want]
                    assert not missing, (name, "was told of", missing, dict(had))
            no = [n for at, of, n in self.refused if of == name and at <= count and n in had]
            assert not no, (name, "refused, and handled", no)


def got_of(it: TapeLife, name: str) -> list[int]:
    implementation = it.app.modules[name].implementation
    assert implementation is not None
    return list(implementation.state["got"])


def dead_of(it: TapeLife, name: str) -> list[int]:
    return [number_of(letter.message) for letter in it.letters if letter.module == name]


def number_of(message: Message) -> int:
    body = message.body
    assert isinstance(body, dict)
    return int(body["n"])


def hearer(promises: Promises, of: str) -> type[Plain]:
    """In memory: what it hears is a promise of whom it hears it from."""

    class Hearer(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"got": []}

        @handles
        def add(self, n: int) -> None:
            promises.note(promises.done, of, n)
            self.state["got"].append(n)

        @subscribes("news.*")
        def on_news(self, event: dict[str, Any]) -> None:
            promises.note(promises.done, of, event["n"])

    return Hearer


def passer(
    *targets: str, bad: int = 7, table: bool = True, publishes: bool = False, asks: str = ""
) -> type[Plain]:
    """Keeps what it got, and passes it on; each so many-th fails at its end."""

    class Passer(Plain):
        seen: Table[int, int] = Table(version=1)

        def initial_state(self) -> dict[str, Any]:
            return {"got": []}

        @handles
        async def add(self, n: int) -> int:
            self.state["got"].append(n)
            for target in targets:
                self.send(target, "add", {"n": n})
            if publishes:
                self.publish("news.of", {"n": n})
            if asks:
                await self.ask(asks, "add", {"n": n})
            if table:
                self.seen[n] = len(self.state["got"])
                if n > 3 and n % 5 == 0 and n - 3 in self.seen:
                    del self.seen[n - 3]
            if n % bad == 0:
                raise ValueError("bad")
            return n

    return Passer


class Keeper(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def add(self, n: int) -> int:
        self.state["got"].append(n)
        return n


class Listener(Keeper):
    @subscribes("news.*")
    def on_news(self, event: dict[str, Any]) -> None:
        self.state["got"].append(event["n"])


def records_of(it: TapeLife, name: str) -> dict[Any, Any]:
    return dict(it.app.modules[name].tables.live["seen"].items())


def model_of(got: list[int]) -> dict[int, int]:
    seen = {}
    for place, n in enumerate(got, 1):
        seen[n] = place
        if n > 3 and n % 5 == 0:
            seen.pop(n - 3, None)
    return seen


def run(story: Story, check: Any, lag: int) -> None:
    asyncio.run(kill_at_each(story, check, lag=lag))


@pytest.mark.parametrize("lag", LAGS)
def test_a_chain_of_durable_modules(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        modules = {
            "a": passer("b", "m", publishes=True),
            "b": passer(bad=4),
            "c": Listener,
            "m": hearer(promises, "a"),
        }
        await it.put(modules, {"a", "b", "c"})
        await asyncio.gather(*(promises.send("a", n) for n in range(1, 9)))
        await promises.ask("a", 9)
        await asyncio.gather(*(promises.send("a", n) for n in range(10, 16)), promises.ask("a", 16))
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        a = got_of(it, "a")
        assert a == sorted(a)
        assert got_of(it, "c") == a
        assert sorted(got_of(it, "b") + dead_of(it, "b")) == a
        for name in ("a", "b"):
            assert records_of(it, name) == model_of(got_of(it, name))

    run(story, check, lag)


@pytest.mark.parametrize("lag", LAGS)
def test_full_mailboxes_and_what_was_refused(lag: int) -> None:
    promises = Promises()

    async def story(it: TapeLife) -> None:
        promises.life = it
        modules = {
            "a": passer("b", "m", publishes=True),
            "b": passer(),
            "c": Listener,
            "m": hearer(promises, "a"),
        }
        await it.put(modules, {"a", "b", "c"}, mailbox=2)
        a = it.app.modules["a"]
        a.held = Resting("the test holds it")
        await asyncio.gather(*(promises.send("a", n, 0.01) for n in range(1, 6)))
        a.held = None
        a.pump.rouse()
        await asyncio.gather(*(promises.send("a", n) for n in range(6, 10)))
        for n in range(11, 15):
            await promises.send("a", n)
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        assert got_of(it, "c") == got_of(it, "a")
        assert [n for n in got_of(it, "a") if n % 7] == got_of(it, "b")

    run(story, check, lag)
    assert promises.refused


@pytest.mark.parametrize("lag", LAGS)
def test_a_letter_that_is_given_again_dropped_or_finds_no_room(lag: int) -> None:
    promises = Promises()
    dropped: list[int] = []

    async def story(it: TapeLife) -> None:
        promises.life = it
        await it.put({"a": passer(bad=1)}, {"a"})
        for n in range(1, 6):
            await promises.send("a", n)
        await it.settled()
        await it.put({"a": passer(bad=100)}, {"a"}, mailbox=1)
        await it.app.give_again(it.letters[0])
        await it.app.drop(it.letters[0])
        dropped.append(2)
        a = it.app.modules["a"]
        a.held = Resting("the test holds it")
        await promises.send("a", 10)
        with pytest.raises(MailboxFull):
            await it.app.give_again(it.letters[0], timeout_s=0.01)
        giving = asyncio.ensure_future(it.app.give_again(it.letters[1], timeout_s=5))
        await turns()
        a.held = None
        a.pump.rouse()
        await giving
        await it.settled()
        promises.life = None

    async def check(it: TapeLife, count: int) -> None:
        promises.accepted = [each for each in promises.accepted if each[2] != 2]
        promises.hold(it, count)

    run(story, check, lag)
