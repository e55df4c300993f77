"""A shadow: the new version handles what the one in service handles, is compared with it, and is never heard."""

from __future__ import annotations

import asyncio
import gc
import re
import time
import weakref
from typing import Any, TypedDict

import pytest

from livetag import Message, Module, every, handles, intake, resource, subscribes
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.runtime.watchdog import Watchdog
from orchestrator.testing.clock import FakeClock
from tests.runtime_kit import Plain, books_balance, idle, running, state_of, until
from tests.shadow_kit import ask_all, attached, quiet, shadow

ONES = [{"n": 1}] * 5


class Sink(Plain):
    """Keeps what it hears."""

    def initial_state(self) -> dict[str, Any]:
        return {"lines": [], "events": [], "asked": 0}

    @handles
    def line(self, text: str) -> None:
        self.state["lines"].append(text)

    @subscribes("sum.*")
    def on_sum(self, event: dict[str, Any]) -> None:
        self.state["events"].append(event["total"])

    @handles
    def rate(self, of: str) -> dict[str, Any]:
        self.state["asked"] += 1
        return {"of": of, "rate": self.state["asked"]}

    @handles
    def refuse(self) -> None:
        raise ValueError("not today")


class Summer(Plain):
    """Sums, says so, and asks."""

    factor = 1

    def initial_state(self) -> dict[str, Any]:
        return {"total": 0, "seen": []}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n * self.factor
        return int(self.state["total"])

    @handles
    def tell(self, n: int) -> None:
        self.state["total"] += n
        self.send("sink", "line", {"text": f"{self.label()} {self.state['total']}"})
        self.publish("sum.changed", {"total": self.state["total"] * self.factor})

    def label(self) -> str:
        return "total"

    @handles
    async def convert(self, of: str) -> float:
        reply = await self.ask("sink", "rate", {"of": of})
        return float(reply["rate"]) * float(self.state["total"])

    @handles
    def fail(self, n: int) -> None:
        self.state["total"] += n
        raise KeyError(self.label())

    @subscribes("news.*")
    def on_news(self, message: Message, event: dict[str, Any]) -> None:
        self.state["seen"].append(message.topic)
        self.send("sink", "line", {"text": f"{message.topic} {event['n'] * self.factor}"})


class Same(Summer):
    """Does the same in another way."""

    @handles
    def add(self, n: int) -> int:
        total = self.state["total"] + n
        self.state["total"] = total
        return int(total)


class Twice(Summer):
    factor = 2


CLASSES: dict[str, type[Module[Any]]] = {"summer": Summer, "sink": Sink}


async def all_kinds(app: Application) -> None:
    """Ten messages: asks, sends, events, and one that fails."""
    await ask_all(app, "summer", *ONES)
    for n in (1, 2):
        await app.send("summer", "tell", {"n": n})
    await app.publish("news.today", {"n": 7})
    await app.ask("summer", "convert", {"of": "gold"})
    with pytest.raises(HandlerFailed):
        await app.ask("summer", "fail", {"n": 1})
    await idle(app)


def test_a_version_that_does_the_same_goes_live_and_says_what_was_compared() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Same}, lambda: all_kinds(app), messages=10)
            assert told.outcome.result == "committed", told.outcome.reason
            assert "summer: shadowed 10 messages, 0 differ; Same takes" in told.reports[-1]
            assert state_of(app, "summer")["total"] == 9
            assert await app.ask("summer", "add", {"n": 1}) == 10
            assert books_balance(app)

    asyncio.run(story())


def test_nothing_of_a_shadow_leaves() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            await shadow(app, {"summer": Same}, lambda: all_kinds(app), messages=10)
            heard = state_of(app, "sink")
            assert heard["lines"] == ["total 6", "total 8", "news.today 7"]
            assert heard["events"] == [6, 8]
            assert heard["asked"] == 1
            assert len(app.letters) == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("type_", "body", "words"),
    [
        ("add", {"n": 1}, "add {'n': 1}, reply: 1 → 2"),
        ("tell", {"n": 1}, "publish sum.changed['total']: 1 → 2"),
    ],
)
def test_what_it_says_otherwise_is_shown_with_the_message(
    type_: str, body: dict[str, Any], words: str
) -> None:
    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                await app.send("summer", type_, body) if type_ == "tell" else await app.ask(
                    "summer", type_, body
                )

            told = await shadow(app, {"summer": Twice}, traffic, messages=3)
            assert (told.outcome.result, told.outcome.fault) == ("rolled_back", "release")
            assert words in told.outcome.reason
            assert "differs from Summer on 1 message of 1 (shadow.max_mismatch = 0)" in told.outcome.reason
            assert isinstance(app.modules["summer"].implementation.instance, Summer)  # type: ignore[union-attr]
            (mismatch,) = told.mismatches
            assert mismatch.startswith(f"summer: message 1: {type_} ")
            assert "\n- " in mismatch
            assert "\n+ " in mismatch

    asyncio.run(story())


class Swapped(Summer):
    """Says the same in another order."""

    @handles
    def tell(self, n: int) -> None:
        self.state["total"] += n
        self.publish("sum.changed", {"total": self.state["total"]})
        self.send("sink", "line", {"text": f"total {self.state['total']}"})


class Silent(Summer):
    @handles
    def tell(self, n: int) -> None:
        self.state["total"] += n
        self.send("sink", "line", {"text": f"total {self.state['total']}"})


class Chatty(Summer):
    @handles
    def add(self, n: int) -> int:
        self.send("sink", "line", {"text": "one more"})
        return super().add(n)


class AsFloat(Summer):
    @handles
    def add(self, n: int) -> Any:
        return float(super().add(n))


class Fails(Summer):
    @handles
    def add(self, n: int) -> int:
        raise RuntimeError("no more")


class FailsOtherwise(Summer):
    def label(self) -> str:
        return "another text"

    @handles
    def add(self, n: int) -> int:
        return super().add(n)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Swapped, "send sink line: {'text': 'total 1'} → nothing"),
        (Silent, "publish sum.changed: {'total': 1} → nothing"),
        (Chatty, "send sink line: nothing → {'text': 'one more'}"),
        (AsFloat, "reply: 1 → 1.0"),
        (Fails, "the unit: succeeds → fails, summer Fails failed on 'add': RuntimeError: no more"),
    ],
)
def test_order_silence_more_kinds_and_failures_are_differences(cls: type[Summer], words: str) -> None:
    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                if cls in {Swapped, Silent}:
                    await app.send("summer", "tell", {"n": 1})
                else:
                    await app.ask("summer", "add", {"n": 1})

            told = await shadow(app, {"summer": cls}, traffic, messages=9)
            assert words in told.outcome.reason, told.outcome.reason

    asyncio.run(story())


def test_a_unit_that_fails_in_both_is_the_same_whatever_it_says() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(
                app,
                {"summer": FailsOtherwise},
                lambda: _fail_and_add(app),
                messages=2,
            )
            assert told.outcome.result == "committed", told.outcome.reason

    async def _fail_and_add(app: Application) -> None:
        await ask_all(app, "summer", {"n": 1}, type_="fail")
        await ask_all(app, "summer", {"n": 1})  # state that was written before the raise stays in both

    asyncio.run(story())


def test_a_state_that_drifts_is_found_when_it_shows() -> None:
    class Forgets(Summer):
        @handles
        def tell(self, n: int) -> None:
            self.send("sink", "line", {"text": f"total {self.state['total'] + n}"})
            self.publish("sum.changed", {"total": self.state["total"] + n})

    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                await app.send("summer", "tell", {"n": 1})
                await idle(app)
                await ask_all(app, "summer", {"n": 1})

            told = await shadow(app, {"summer": Forgets}, traffic, messages=9)
            assert "on 1 message of 2" in told.outcome.reason
            assert "reply: 2 → 1" in told.outcome.reason

    asyncio.run(story())


# -- asks ------------------------------------------------------------------------------------------------------------


class AsksTwo(Summer):
    @handles
    async def convert(self, of: str) -> Any:
        first, second = await asyncio.gather(
            self.ask("sink", "rate", {"of": of}), self.ask("sink", "rate", {"of": of, "more": 1})
        )
        return [first, second]


class AsksEach(Summer):
    """The same ask twice: each has its own reply, in order."""

    @handles
    async def convert(self, of: str) -> Any:
        return [await self.ask("sink", "rate", {"of": of}) for _ in range(3)]


class CatchesRefusal(Summer):
    @handles
    async def convert(self, of: str) -> Any:
        try:
            await self.ask("sink", "refuse", {})
        except HandlerFailed as error:
            return f"{of}: {error}"
        return "no"


class InATask(Summer):
    @handles
    async def convert(self, of: str) -> Any:
        task = asyncio.create_task(self._later(of))
        return await task

    async def _later(self, of: str) -> Any:
        await asyncio.sleep(0)
        self.publish("sum.changed", {"total": 1})
        return await self.ask("sink", "rate", {"of": of}, returns=dict)


class InAThread(Plain):
    @handles(thread=True)
    def convert(self, of: str) -> Any:
        self.send("sink", "line", {"text": of})
        return self.ask_blocking("sink", "rate", {"of": of})


@pytest.mark.parametrize("cls", [AsksEach, CatchesRefusal, InATask, InAThread])
def test_asks_are_answered_by_what_the_version_in_service_was_told(cls: type[Plain]) -> None:
    class Anew(cls):  # type: ignore[valid-type,misc]
        pass

    async def story() -> None:
        async with running({"summer": cls, "sink": Sink}) as app:

            async def traffic() -> None:
                for of in ("gold", "tin"):
                    await app.ask("summer", "convert", {"of": of})
                await idle(app)

            told = await shadow(app, {"summer": Anew}, traffic, messages=2)
            assert told.outcome.result == "committed", told.outcome.reason
            asked = state_of(app, "sink")["asked"]
            assert asked == {"AsksEach": 6, "CatchesRefusal": 0}.get(
                cls.__name__, 2
            )  # once for each, not twice

    asyncio.run(story())


def test_an_ask_more_and_an_ask_less_are_differences() -> None:
    class AsksOther(Summer):
        @handles
        async def convert(self, of: str) -> float:
            reply = await self.ask("sink", "rate", {"of": of.upper()})
            return float(reply["rate"])

    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                await app.ask("summer", "convert", {"of": "gold"})

            told = await shadow(app, {"summer": AsksOther}, traffic, messages=1)
            (mismatch,) = told.mismatches
            assert "+ ask sink rate: {'of': 'GOLD'}" in mismatch
            assert "the version in service did not ask sink this 'rate'" in mismatch
            assert state_of(app, "sink")["asked"] == 1

        class AsksNobody(Summer):
            @handles
            async def convert(self, of: str) -> float:
                return float(self.state["total"])

        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": AsksNobody}, traffic_of(app), messages=1)
            assert "ask sink rate: {'of': 'gold'} → nothing" in told.outcome.reason

    def traffic_of(app: Application) -> Any:
        return lambda: app.ask("summer", "convert", {"of": "gold"})

    asyncio.run(story())


def test_a_name_that_nobody_has_is_unknown_to_both() -> None:
    class Careful(Summer):
        @handles
        def add(self, n: int) -> Any:
            try:
                self.send("nobody", "line", {"text": "hello"})
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told
                return [self.bound("nobody"), self.bound("sink"), str(error)]
            return "sent"

    class Anew(Careful):
        pass

    async def story() -> None:
        async with running({"summer": Careful, "sink": Sink}) as app:
            told = await shadow(app, {"summer": Anew}, lambda: _ask(app), messages=5)
            assert told.outcome.result == "committed", told.outcome.reason

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


# -- messages of all kinds -------------------------------------------------------------------------------------------


def test_ticks_are_messages_like_others_and_a_shadow_has_no_timer_of_its_own() -> None:
    class Ticker(Plain):
        step = 1

        @every(seconds=1.0)
        def report(self) -> None:
            self.state["ticks"] = self.state.get("ticks", 0) + self.step
            self.send("sink", "line", {"text": f"tick {self.state['ticks']}"})

    class Same(Ticker):
        pass

    class Twice(Ticker):
        step = 2

    async def story(cls: type[Ticker]) -> tuple[str, list[str]]:
        clock = FakeClock()
        async with running({"ticker": Ticker, "sink": Sink}, clock=clock) as app:

            async def settled() -> None:
                for _ in range(20):
                    await asyncio.sleep(0)

            async def traffic() -> None:
                await clock.advance(3.0, settled)

            told = await shadow(app, {"ticker": cls}, traffic, messages=3)
            await idle(app)
            return told.outcome.reason, state_of(app, "sink")["lines"]

    assert asyncio.run(story(Same)) == ("", ["tick 1", "tick 2", "tick 3"])
    reason, _ = asyncio.run(story(Twice))
    assert "tick of report, send sink line['text']: 'tick 1' → 'tick 2'" in reason


class Mutates(Plain):
    @handles
    def take(self, body: dict[str, Any]) -> Any:
        return self.kept(body)

    def kept(self, body: dict[str, Any]) -> Any:
        body["items"].append("mine")
        self.state["kept"] = body["items"]
        return body["items"]


class MutatesLate(Mutates):
    @handles
    async def take(self, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        return self.kept(body)


class MutatesWithATask(Mutates):
    @handles
    async def take(self, body: dict[str, Any]) -> Any:
        self._task = asyncio.create_task(asyncio.sleep(0.01))
        return list(self.kept(body))


class MutatesAtOnceWithATask(Mutates):
    @handles
    def take(self, body: dict[str, Any]) -> Any:
        self._task = asyncio.get_running_loop().create_task(asyncio.sleep(0.01))
        return list(self.kept(body))


@pytest.mark.parametrize("cls", [Mutates, MutatesLate, MutatesWithATask, MutatesAtOnceWithATask])
def test_neither_sees_what_the_other_does_to_a_body(cls: type[Mutates]) -> None:
    class Anew(cls):  # type: ignore[valid-type,misc]
        pass

    async def story() -> None:
        async with running({"keeper": cls}) as app:
            replies: list[Any] = []

            async def traffic() -> None:
                for n in range(4):
                    reply = await app.ask("keeper", "take", {"items": [n]})
                    reply.append("the asker's")  # after the reply is its own
                    replies.append(reply)

            told = await shadow(app, {"keeper": Anew}, traffic, messages=4)
            assert told.outcome.result == "committed", told.outcome.reason
            assert replies == [[n, "mine", "the asker's"] for n in range(4)]

    asyncio.run(story())


@pytest.mark.parametrize("cls", [Mutates, MutatesLate, MutatesWithATask, MutatesAtOnceWithATask])
def test_a_reply_is_compared_however_it_is_given(cls: type[Mutates]) -> None:
    class Other(cls):  # type: ignore[valid-type,misc]
        def kept(self, body: dict[str, Any]) -> Any:
            return [*super().kept(body), "more"]

    async def story() -> None:
        async with running({"keeper": cls}) as app:

            async def traffic() -> None:
                await app.ask("keeper", "take", {"items": []})

            told = await shadow(app, {"keeper": Other}, traffic, messages=1)
            assert "reply: ['mine'] → ['mine', 'more']" in told.outcome.reason

    asyncio.run(story())


def test_a_message_in_flight_when_the_shadow_comes_is_not_part_of_it() -> None:
    """State is taken between two units: never of one that is under way."""
    gate = asyncio.Event()

    class Slow(Plain):
        @handles
        async def add(self, n: int) -> int:
            self.state["total"] = self.state.get("total", 0) + n
            await gate.wait()
            self.state["total"] += n
            return int(self.state["total"])

        @handles
        def total(self) -> int:
            return int(self.state.get("total", 0))

    class Anew(Slow):
        pass

    async def story() -> None:
        async with running({"slow": Slow}) as app:
            adding = asyncio.ensure_future(app.ask("slow", "add", {"n": 1}))
            await until(lambda: app.modules["slow"].unit is not None)
            shadowing = asyncio.ensure_future(shadow(app, {"slow": Anew}, lambda: _ask(app), messages=1))
            await until(lambda: app.at_boundary)
            assert not attached(app, "slow")
            gate.set()
            assert await adding == 2
            told = await shadowing
            assert told.outcome.result == "committed", told.outcome.reason

    async def _ask(app: Application) -> None:
        assert await app.ask("slow", "total") == 2

    asyncio.run(story())


class NewState(TypedDict):
    total: int
    seen: list[str]
    most: int


class Reshaped(Module[NewState]):
    state_version = 2
    error = 0

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        self.state["most"] = max(self.state["most"], n)
        return self.state["total"] + self.error


class ReshapedBadly(Reshaped):
    error = 1


@Reshaped.migrates(1, 2)
@ReshapedBadly.migrates(1, 2)
def up(old: dict[str, Any]) -> NewState:
    return {"total": old["total"], "seen": old["seen"], "most": 0}


def test_a_version_with_another_state_is_shadowed_on_a_migrated_copy() -> None:
    async def story(cls: type[Reshaped]) -> str:
        async with running(CLASSES) as app:
            await ask_all(app, "summer", {"n": 40})
            told = await shadow(app, {"summer": cls}, lambda: _ask(app), messages=5)
            if told.outcome.result == "committed":
                assert state_of(app, "summer") == {"total": 45, "seen": [], "most": 0}
            return told.outcome.reason

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    assert asyncio.run(story(Reshaped)) == ""
    assert "reply: 41 → 42" in asyncio.run(story(ReshapedBadly))


def test_a_durable_module_reads_its_state_again_after_a_failure_in_its_shadow_too() -> None:
    class Keeps(Summer):
        pass

    async def story() -> None:
        async with running(CLASSES) as app:
            proxy = app.modules["summer"]
            implementation = proxy.implementation
            assert implementation is not None
            proxy.become_durable("summer", implementation.blueprint.codec.encode(implementation.state))

            async def traffic() -> None:
                for n in (1, 5):
                    await ask_all(app, "summer", {"n": n}, type_="fail")
                    await ask_all(app, "summer", {"n": n})

            told = await shadow(app, {"summer": Keeps}, traffic, messages=4, durable=True)
            assert told.outcome.result == "committed", told.outcome.reason
            assert state_of(app, "summer")["total"] == 6

    asyncio.run(story())


# -- how it ends -----------------------------------------------------------------------------------------------------


def test_some_may_differ_and_that_is_said() -> None:
    class SometimesMore(Summer):
        @handles
        def add(self, n: int) -> int:
            return super().add(n) + (n == 3)

    async def story(allowed: int) -> tuple[str, str]:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                await ask_all(app, "summer", *({"n": n % 5} for n in range(20)))

            told = await shadow(app, {"summer": SometimesMore}, traffic, messages=20, max_mismatch=allowed)
            return told.outcome.reason, told.reports[-1]

    reason, last = asyncio.run(story(4))
    assert reason == ""
    assert "summer: shadowed 20 messages, 4 differ; " in last
    assert "differs from Summer on 4 messages of" in asyncio.run(story(3))[0]


def test_too_few_messages_are_no_pass_and_no_verdict() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Same}, lambda: _ask(app), messages=500, seconds=0.2)
            assert (told.outcome.result, told.outcome.fault) == ("rolled_back", "moment")
            assert "too few messages for its shadow: 5 of 500 in 0.2 s" in told.outcome.reason
            assert "Lower shadow.messages in module.toml, or send traffic" in told.outcome.reason
            assert await app.ask("summer", "add", {"n": 1}) == 6

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


def test_one_that_cannot_keep_up_is_no_pass_and_the_service_does_not_wait_for_it() -> None:
    class Sleeps(Summer):
        @handles
        async def add(self, n: int) -> int:  # type: ignore[override]
            await asyncio.sleep(0.05)
            self.state["total"] += n
            return int(self.state["total"])

    async def story() -> None:
        async with running(CLASSES) as app:
            took: list[float] = []

            async def traffic() -> None:
                began = time.perf_counter()
                await ask_all(app, "summer", *([{"n": 1}] * 100))
                took.append(time.perf_counter() - began)

            told = await shadow(app, {"summer": Sleeps}, traffic, messages=100, seconds=0.5)
            assert told.outcome.fault == "moment"
            assert "could not keep up: it has handled" in told.outcome.reason
            assert took[0] < 100 * 0.05 / 2  # as many sleeps would have taken twice as long at least

    asyncio.run(story())


def test_one_that_hangs_is_interrupted_and_refused() -> None:
    class Hangs(Summer):
        @handles
        def add(self, n: int) -> int:
            end = time.monotonic() + 20
            while n == 3 and time.monotonic() < end:
                pass
            return super().add(n)

    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                assert await ask_all(app, "summer", *({"n": n} for n in range(6))) == [0, 1, 3, 6, 10, 15]

            told = await shadow(app, {"summer": Hangs}, traffic, messages=6)
            assert (told.outcome.result, told.outcome.fault) == ("rolled_back", "release")
            assert "held up the service on add {'n': 3} and was interrupted after" in told.outcome.reason
            assert await app.ask("summer", "add", {"n": 1}) == 16

    asyncio.run(story())


def test_a_message_on_which_the_service_hangs_is_not_handled_a_second_time() -> None:
    class Hangs(Summer):
        @handles
        def add(self, n: int) -> int:
            end = time.monotonic() + 20
            while n == 3 and time.monotonic() < end:
                pass
            return super().add(n)

    class HangsToo(Hangs):
        """As does this one."""

    async def story() -> None:
        async with running({"summer": Hangs, "sink": Sink}) as app:
            watchdog = Watchdog(0.2, app)
            watchdog.start()

            async def traffic() -> None:
                replies = await ask_all(app, "summer", {"n": 1}, {"n": 3}, {"n": 1})
                assert replies[::2] == [1, 2]
                assert "Stalled" in replies[1]

            told = await shadow(app, {"summer": HangsToo}, traffic, messages=3)
            watchdog.stop()
            assert told.outcome.fault == "moment"
            assert "summer itself did not return from add {'n': 3}" in told.outcome.reason

    asyncio.run(story())


def test_a_service_that_is_far_ahead_does_not_fill_the_memory_for_its_shadow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.runtime.shadow.AHEAD_MAX", 50)

    class Waits(Summer):
        @handles
        async def add(self, n: int) -> int:  # type: ignore[override]
            return await asyncio.get_running_loop().create_future() or n

    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                await ask_all(app, "summer", *([{"n": 1}] * 200))

            told = await shadow(app, {"summer": Waits}, traffic, messages=1000)
            text = r"could not keep up: it has handled 0 of 5\d messages, of 1000 to be handled in 10 s; Summer takes"
            assert re.search(text, told.outcome.reason)
            assert state_of(app, "summer")["total"] == 200

    asyncio.run(story())


def test_one_that_only_waits_is_no_pass_either_and_is_ended() -> None:
    ended: list[str] = []

    class Waits(Summer):
        @handles
        async def add(self, n: int) -> int:  # type: ignore[override]
            try:
                return await asyncio.get_running_loop().create_future() or n
            finally:
                ended.append("cancelled")

    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Waits}, lambda: _ask(app), messages=5, seconds=0.2)
            assert "could not keep up: it has handled 0 of 5 messages" in told.outcome.reason
            assert ended == ["cancelled"]

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


def test_one_with_an_intake_or_a_resource_is_not_pure() -> None:
    class Reads(Summer):
        @intake
        async def read(self) -> None:
            await asyncio.get_running_loop().create_future()

        @resource
        async def file(self) -> str:
            return "open"

    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Reads}, quiet, messages=5)
            assert told.outcome.fault == "release"
            assert (
                "pure = true says that it has no I/O of its own, and it has read and file"
                in told.outcome.reason
            )

    asyncio.run(story())


def test_a_migration_that_raises_on_the_state_of_now_is_the_release_s_fault() -> None:
    class Strict(Reshaped):
        pass

    @Strict.migrates(1, 2)
    def up_strictly(old: dict[str, Any]) -> NewState:
        raise SystemExit("not with this one")

    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Strict}, lambda: _ask(app), messages=5)
            assert told.outcome.fault == "release"
            assert (
                "its shadow failed: ModuleError: migration raised SystemExit: not with" in told.outcome.reason
            )

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


def test_a_state_that_is_too_large_to_be_copied_at_once_has_no_shadow() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            state_of(app, "summer")["seen"] = [["a", "b", 1]] * 50_000
            told = await shadow(app, {"summer": Same}, quiet, messages=5)
            assert told.outcome.fault == "release"
            assert (
                "its shadow failed: self.state is too large (50,000 in seen) to be copied"
                in told.outcome.reason
            )

    asyncio.run(story())


def test_a_body_that_cannot_be_noted_ends_the_shadow_and_not_the_unit() -> None:
    class Odd:
        """No plain data: only from outside, past all checks."""

    async def story() -> None:
        async with running({"summer": Takes}) as app:

            async def traffic() -> None:
                assert await app.ask("summer", "take", {"it": Odd()}) == "Odd"

            told = await shadow(app, {"summer": Takes}, traffic, messages=5)
            assert told.outcome.fault == "moment"
            assert "what summer does could not be noted: TypeError" in told.outcome.reason
            assert await app.ask("summer", "take", {"it": 1}) == "int"
            assert books_balance(app)

    asyncio.run(story())


class Takes(Plain):
    @handles
    def take(self, body: dict[str, Any]) -> str:
        return type(body["it"]).__name__


def test_what_ends_a_host_ends_only_the_shadow() -> None:
    class Exits(Summer):
        @handles
        def add(self, n: int) -> int:
            raise SystemExit(3)

    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Exits}, lambda: _ask(app), messages=5)
            assert "fails, summer Exits failed on 'add': SystemExit: 3" in told.outcome.reason

    async def _ask(app: Application) -> None:
        assert await ask_all(app, "summer", *ONES) == [1, 2, 3, 4, 5]

    asyncio.run(story())


def test_the_host_that_stops_does_not_wait_for_a_shadow() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:

            async def stopped() -> str:
                await until(lambda: attached(app, "summer"))
                return "the tags ask for something else"

            told = await shadow(app, {"summer": Same}, quiet, messages=5, otherwise=stopped)
            assert (told.outcome.result, told.outcome.fault) == ("rolled_back", "moment")
            assert "its shadow was ended: the tags ask for something else" in told.outcome.reason
            assert app.modules["summer"].tap is None

    asyncio.run(story())


def test_how_far_it_is_is_told_now_and_then() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with running(CLASSES, clock=clock) as app:

            async def settled() -> None:
                for _ in range(20):
                    await asyncio.sleep(0)

            async def traffic() -> None:
                await ask_all(app, "summer", *ONES[:2])
                await settled()  # its shadow has handled them, too
                await clock.advance(11.0, settled)
                await ask_all(app, "summer", *ONES[:3])

            told = await shadow(app, {"summer": Same}, traffic, messages=5, seconds=60.0)
            assert told.outcome.result == "committed", told.outcome.reason
            assert told.reports.count("planned: shadowing: 2 of 5 messages, 0 differ") == 2  # in 11 s

    asyncio.run(story())


def test_one_that_is_to_have_no_shadow_goes_live_and_says_why() -> None:
    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Twice}, quiet, messages=5, unshadowed="it is a way back")
            assert told.outcome.result == "committed", told.outcome.reason
            assert "planned: summer: not shadowed: it is a way back" in told.reports

    asyncio.run(story())


def test_several_modules_are_shadowed_side_by_side() -> None:
    class NewSink(Sink):
        pass

    async def story() -> None:
        async with running(CLASSES) as app:

            async def traffic() -> None:
                for n in range(4):
                    await app.send("summer", "tell", {"n": n})
                await idle(app)

            told = await shadow(app, {"summer": Same, "sink": NewSink}, traffic, messages=4)
            assert told.outcome.result == "committed", told.outcome.reason
            assert "sink: shadowed 4 messages" in told.reports[-1]
            assert "summer: shadowed 4 messages" in told.reports[-1]
            told = await shadow(app, {"summer": Twice, "sink": Sink}, traffic, messages=4)
            assert told.outcome.reason.startswith("summer Twice: it differs from Same")
            assert app.modules["sink"].tap is None

    asyncio.run(story())


def test_secrets_of_the_host_are_not_shown() -> None:
    class Leaks(Summer):
        @handles
        def add(self, n: int) -> Any:
            return f"{super().add(n)} with token-of-the-host-0123456789 and\x1b[2J more"

    async def story() -> None:
        async with running(CLASSES) as app:
            app.secrets.learn({"token": {"env": "T"}}, {"token": "token-of-the-host-0123456789"})
            told = await shadow(app, {"summer": Leaks}, lambda: _ask(app), messages=5)
            for text in (told.outcome.reason, *told.mismatches, *told.reports):
                assert "0123456789" not in text
                assert "\x1b" not in text
            assert "1 with (secret) and\\x1b[2J more" in told.outcome.reason

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


def test_a_shadow_is_stopped_once_and_gone() -> None:
    stopped: list[int] = []
    made: list[weakref.ref[Any]] = []

    class Counts(Summer):
        async def prepare(self) -> None:
            made.append(weakref.ref(self))

        async def stop(self) -> None:
            stopped.append(id(self))

    async def story() -> None:
        async with running(CLASSES) as app:
            told = await shadow(app, {"summer": Counts}, lambda: _ask(app), messages=5)
            assert told.outcome.result == "committed", told.outcome.reason
            assert len(made) == 2  # the one that serves, and its shadow
            assert len(stopped) == 1
            shadows = [r for r in told.remains if r.version.endswith("(shadow)")]
            told.remains.clear()
            gc.collect()
            assert [each.gone for each in shadows] == [True]
            serving = app.modules["summer"].implementation
            assert serving is not None
            assert [ref() for ref in made] == [serving.instance, None]

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())


def test_without_a_shadow_the_module_is_as_if_there_were_none() -> None:
    from orchestrator.runtime.pump import Pump

    async def story() -> None:
        async with running(CLASSES) as app:
            await shadow(app, {"summer": Twice}, lambda: _ask(app), messages=5)
            proxy = app.modules["summer"]
            assert proxy.tap is None
            assert type(proxy.pump) is Pump
            assert proxy.implementation is not None
            assert proxy.implementation.instance._voice is proxy.voice

    async def _ask(app: Application) -> None:
        await ask_all(app, "summer", *ONES)

    asyncio.run(story())
