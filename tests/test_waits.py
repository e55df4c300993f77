"""Who waits for whom: one graph of modules, in which nobody waits for ever by its doing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livetag import handles, subscribes
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import AskCycle, AskTimeout, HandlerFailed, ModuleError, QuiesceTimeout
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.waits import waits_of
from orchestrator.testing import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, implement, running, state_of, until


def attempt(app: Application, names: str, *, drain_s: float = 5.0, patience_s: float = 0.0) -> Quiesce[str]:
    """A switch that swaps these modules for a new version of the same class."""
    proxies = [app.modules[name] for name in names.split()]

    def swap(_quiesce: object) -> str:
        for proxy in proxies:
            assert proxy.unit is None
            assert proxy.implementation is not None
            cls = type(proxy.implementation.instance)
            proxy.serve(implement(cls, proxy.name, "2.0.0"), proxy.implementation.state)
        return "switched"

    return Quiesce(app, proxies, swap, drain_s=drain_s, patience_s=patience_s)


# -- full mailboxes ---------------------------------------------------------------------------------------------


class Ring(Plain):
    """Sends each message on, twice, so that the ring fills."""

    @handles
    def go(self, ring: list[str], left: int) -> None:
        self._pass_on(ring, left)

    @handles
    async def after_an_ask(self, ring: list[str], left: int) -> None:
        await self.ask("calm", "ping")
        self._pass_on(ring, left, "after_an_ask")

    def _pass_on(self, ring: list[str], left: int, type_: str = "go") -> None:
        for _ in range(2 if left else 0):
            self.send(self._next(ring), type_, {"ring": ring, "left": left - 1})

    def _next(self, ring: list[str]) -> str:
        return ring[(ring.index(self.name) + 1) % len(ring)]


def listening(name: str) -> type[Plain]:
    class Hears(Plain):
        @subscribes(f"ring.{name}")
        def on_ring(self, ring: list[str], left: int) -> None:
            self._on(ring, left)

        @handles
        def by_event(self, ring: list[str], left: int) -> None:
            self._on(ring, left)

        def _on(self, ring: list[str], left: int) -> None:
            following = ring[(ring.index(self.name) + 1) % len(ring)]
            for _ in range(2 if left else 0):
                self.publish(f"ring.{following}", {"ring": ring, "left": left - 1})

    return Hears


class Calm(Plain):
    @handles
    async def ping(self) -> str:
        await asyncio.sleep(0)
        return "pong"


LEFT = 7


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("type_", ["go", "after_an_ask", "by_event"])
def test_modules_that_fill_each_other_in_a_ring_go_on_and_can_be_upgraded(size: int, type_: str) -> None:
    async def story() -> None:
        ring = [f"m{n}" for n in range(size)]
        classes = {name: listening(name) if type_ == "by_event" else Ring for name in ring}
        async with running({**classes, "calm": Calm}, limit=2) as app:
            for name in ring:
                await app.send(name, type_, {"ring": ring, "left": LEFT})
            for _ in range(5):
                assert await asyncio.wait_for(attempt(app, " ".join(ring)).run(), 5) == "switched"
                await asyncio.sleep(0)
            await idle(app)
            assert sum(app.modules[name].handled for name in ring) == size * (2 ** (LEFT + 1) - 1)
            assert not len(app.letters)
            assert books_balance(app)

    asyncio.run(story())


def test_a_saturated_pipeline_of_five_is_upgraded_whole_at_full_speed() -> None:
    async def story() -> None:
        stages = [f"s{n}" for n in range(5)]
        following = dict(itertools.pairwise(stages))

        class Stage(Plain):
            def initial_state(self) -> dict[str, Any]:
                return {"seen": []}

            @handles
            def item(self, n: int) -> None:
                self.state["seen"].append(n)
                if self.name in following:
                    self.send(following[self.name], "item", {"n": n})

        async with running(dict.fromkeys(stages, Stage), limit=4) as app:
            upgrades, over = 0, asyncio.Event()

            async def feed() -> None:
                for n in range(3000):
                    await app.send("s0", "item", {"n": n})
                over.set()

            feeding = asyncio.ensure_future(feed())
            full = 0
            while not over.is_set():
                full += any(app.modules[name].mailbox.full for name in stages)
                assert await asyncio.wait_for(attempt(app, " ".join(stages)).run(), 5) == "switched"
                upgrades += 1
                await asyncio.sleep(0)
            await feeding
            await idle(app)
            assert upgrades > 20
            assert full > 10, "it was not saturated"
            for name in stages:
                assert state_of(app, name)["seen"] == list(range(3000))
            assert books_balance(app)

    asyncio.run(story())


# -- asks -------------------------------------------------------------------------------------------------------


class Relay(Plain):
    """Asks along a way; `meet` lets all units of a test begin before the first asks."""

    meet: Any = None

    @handles
    async def go(self, ways: list[str]) -> str:
        if self.meet is not None:
            await self.meet(self)
        return str(await self.ask(ways[0], "go", {"ways": ways[1:]}, timeout_s=60)) if ways else self.name

    @handles
    def take(self) -> None: ...


FIVE = ["a", "b", "c", "d", "e"]


def test_a_circle_of_asks_over_five_modules_is_refused_at_once_with_its_path() -> None:
    async def story() -> None:
        async with running(dict.fromkeys(FIVE, Relay)) as app:
            with pytest.raises(
                HandlerFailed, match="AskCycle: ask would wait in a circle: a → b → c → d → e → a"
            ):
                await asyncio.wait_for(app.ask("a", "go", {"ways": ["b", "c", "d", "e", "a"]}), 5)
            with pytest.raises(HandlerFailed, match="circle: a → b → c → d → e → c"):
                await asyncio.wait_for(app.ask("a", "go", {"ways": ["b", "c", "d", "e", "c"]}), 5)
            assert await app.ask("a", "go", {"ways": ["b", "c", "d", "e"]}) == "e"
            assert all(p.dead == 2 for p in app.modules.values())
            assert books_balance(app)

    asyncio.run(story())


@pytest.mark.parametrize(
    "crowded", [False, True], ids=["with room", "with senders from outside waiting for room"]
)
def test_five_units_that_ask_each_other_in_a_circle_at_once_are_told_and_all_but_one_are_answered(
    crowded: bool,
) -> None:
    async def story() -> None:
        begun = list[str]()
        all_begun = asyncio.Event()

        class Met(Relay):
            async def meet(self, _module: Any = None) -> None:
                begun.append(self.name)
                await all_begun.wait()

        async with running(dict.fromkeys(FIVE, Met), limit=1) as app:
            asked = [
                asyncio.ensure_future(app.ask(name, "go", {"ways": [FIVE[(n + 1) % 5]]}, timeout_s=60))
                for n, name in enumerate(FIVE)
            ]
            crowd = list[asyncio.Future[Any]]()
            await until(lambda: len(begun) == len(FIVE))
            if crowded:
                for name in FIVE:
                    crowd += [asyncio.ensure_future(app.send(name, "take", timeout_s=60)) for _ in range(4)]
                await until(lambda: all(app.modules[name].mailbox.late for name in FIVE))
            all_begun.set()
            done = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
            refused = [str(each) for each in done if isinstance(each, ModuleError)]
            assert len([text for text in refused if "AskCycle" in text]) >= 1
            assert any(text.count("→") == 5 for text in refused), refused
            await asyncio.gather(*crowd)
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_the_time_of_an_ask_covers_the_wait_for_room_and_the_handling() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Slow(Plain):
            @handles
            async def work(self) -> None:
                await door.wait()

        class Asker(Plain):
            @handles
            async def go(self) -> str:
                for _ in range(3):
                    self.send("slow", "work")  # the last finds no room
                try:
                    await self.ask("other", "work", timeout_s=3.0)
                except AskTimeout as error:
                    return str(error)
                return "answered"

        clock = FakeClock()
        async with running({"asker": Asker, "slow": Slow, "other": Slow}, clock=clock, limit=1) as app:
            asked = asyncio.ensure_future(app.ask("asker", "go", timeout_s=60))
            slow = app.modules["slow"]
            await until(lambda: slow.unit and slow.mailbox.late and not app.modules["asker"].outbox.queue)
            await clock.advance(2.0, lambda: asyncio.sleep(0))
            slow.mailbox.admit_all()
            await until(lambda: app.modules["other"].unit)
            await clock.advance(0.9, lambda: asyncio.sleep(0))
            assert not asked.done()
            await clock.advance(0.2, lambda: asyncio.sleep(0))
            assert "other did not answer 'work' in 1 s" in await asked
            door.set()
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


# -- the chain in the error -------------------------------------------------------------------------------------


def test_a_switch_that_gives_up_names_the_whole_chain_and_why() -> None:
    async def story() -> None:
        door = asyncio.Event()

        class Front(Plain):
            @handles
            async def go(self) -> None:
                await self.ask("middle", "go", timeout_s=60)

        class Middle(Plain):
            @handles
            async def go(self) -> None:
                for _ in range(3):
                    self.send("last", "work")
                await self.ask("calm", "ping", timeout_s=60)

        class Last(Plain):
            @handles
            async def work(self) -> None:
                tasks.append(asyncio.create_task(self._keep_open()))

            async def _keep_open(self) -> None:
                await door.wait()

        tasks: list[asyncio.Task[None]] = []
        clock = FakeClock()
        classes = {"front": Front, "middle": Middle, "last": Last, "calm": Calm}
        async with running(classes, clock=clock, limit=1) as app:
            asked = asyncio.ensure_future(app.ask("front", "go", timeout_s=60))
            await until(lambda: app.modules["middle"].outbox.room_at)
            switch = asyncio.ensure_future(attempt(app, "front", drain_s=1.0).run())
            await asyncio.sleep(0)
            await clock.advance(1.0, lambda: asyncio.sleep(0))
            with pytest.raises(
                QuiesceTimeout,
                match=r"in 1 s: front in 'go' asks middle 'go' → middle in 'go' waits for room at last → last in 'work' "
                r"has ended but for its task at test_waits\.py line \d+ in _keep_open \(a task keeps its unit open: "
                r"`attach` what it serves, or let an @intake read it\)\. Shorten that unit or raise limits\.drain_s",
            ):
                await switch
            door.set()
            await asked
            await idle(app)
            assert books_balance(app)

    asyncio.run(story())


def test_a_switch_that_gives_up_names_the_name_that_a_unit_waits_for() -> None:
    async def story() -> None:
        class Early(Plain):
            @handles
            async def go(self) -> None:
                self.send("not_yet", "work", wait_s=30.0)
                with contextlib.suppress(AskTimeout):
                    await self.ask("calm", "ping", timeout_s=10.0)

        clock = FakeClock()
        async with running({"early": Early, "calm": Calm}, clock=clock) as app:
            await app.send("early", "go")
            await until(lambda: app.modules["early"].outbox.for_name)
            switch = asyncio.ensure_future(attempt(app, "early", drain_s=1.0).run())
            await asyncio.sleep(0)
            await clock.advance(1.0, lambda: asyncio.sleep(0))
            with pytest.raises(
                QuiesceTimeout, match="early in 'go' waits for the name 'not_yet' to be bound"
            ):
                await switch
            await clock.advance(30.0, lambda: asyncio.sleep(0))
            await idle(app)

    asyncio.run(story())


# -- whatever is asked and sent ---------------------------------------------------------------------------------


class Free(Plain):
    """Does what its message says: a list of steps, each with whom it is about."""

    @handles
    async def do(self, steps: list[tuple[str, str, Any]]) -> int:
        done = 0
        for what, whom, then in steps:
            try:
                await self._step(what, whom, then)
                done += 1
            except AskCycle:
                pass
        return done

    async def _step(self, what: str, whom: str, then: Any) -> None:
        if what == "send":
            self.send(whom, "do", {"steps": then})
        elif what == "publish":
            self.publish(f"topic.{whom}", {"steps": then})
        elif what == "ask":
            await self.ask(whom, "do", {"steps": then}, timeout_s=30)
        elif what == "task":
            self._task = asyncio.create_task(self._step("ask", whom, then))
        elif what == "both":
            results = await asyncio.gather(
                self._step("ask", whom, then), self._step("ask", self.name, then), return_exceptions=True
            )
            del results
        else:
            await asyncio.sleep(0)

    @subscribes("topic.*")
    async def on_topic(self, steps: list[tuple[str, str, Any]]) -> None:
        if len(steps) > 1:
            await self.do(steps[1:])


names = st.sampled_from(["a", "b", "c", "d"])
kinds = st.sampled_from(["send", "send", "publish", "ask", "ask", "task", "both", "turn"])
steps: st.SearchStrategy[list[Any]] = st.recursive(
    st.lists(st.tuples(kinds, names, st.just([])), max_size=2),
    lambda inner: st.lists(st.tuples(kinds, names, inner), max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    work=st.lists(st.tuples(names, steps, st.booleans()), min_size=1, max_size=8),
    switches=st.lists(st.lists(names, min_size=1, max_size=4, unique=True), max_size=4),
    limit=st.integers(1, 3),
)
def test_no_graph_of_asks_sends_and_full_mailboxes_ever_stands_still(
    work: list[tuple[str, Any, bool]], switches: list[list[str]], limit: int
) -> None:
    async def story() -> None:
        async with running(dict.fromkeys("abcd", Free), limit=limit) as app:
            calls = [
                asyncio.ensure_future(
                    app.ask(name, "do", {"steps": todo}, timeout_s=30)
                    if asked
                    else app.send(name, "do", {"steps": todo}, timeout_s=30)
                )
                for name, todo, asked in work
            ]
            for together in switches:
                await asyncio.sleep(0)
                assert (
                    await asyncio.wait_for(attempt(app, " ".join(together), drain_s=8.0).run(), 10)
                    == "switched"
                )
            done = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
            await idle(app)
            for each in done:
                assert not isinstance(each, BaseException) or "AskCycle" in str(each), each
            for letter in app.letters:
                assert "AskCycle" in letter.reason
            assert books_balance(app)
            assert all(not waits_of(p) and p.held is None and not p.admit for p in app.modules.values())

    asyncio.run(story())
