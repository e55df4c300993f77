"""livetag.testing: the example of DESIGN §5, and what a test needs beside it."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest

import livetag
from livetag import Message, Module, every, handles, intake, subscribes
from livetag import testing as livetag_testing
from orchestrator.runtime.errors import BodyRefused, HandlerFailed, UnknownMessage
from orchestrator.testing import Published, Sent, UpgradeFailed
from repo_store.manifest import Limits


class StateV1(TypedDict):
    total: int


class StateV2(TypedDict):
    total: int
    by_key: dict[str, int]


class CounterV1(Module[StateV1]):
    def initial_state(self) -> StateV1:
        return {"total": 0}

    @handles
    def tick(self, key: str, by: int = 1) -> int:
        self.state["total"] += by
        return self.state["total"]

    @every(seconds=1.0)
    def report(self) -> None:
        self.send("logger", "line", {"total": self.state["total"]})


class CounterV2(Module[StateV2]):
    state_version = 2

    def initial_state(self) -> StateV2:
        return {"total": 0, "by_key": {}}

    @handles
    def tick(self, key: str, by: int = 1) -> int:
        self.state["by_key"][key] = self.state["by_key"].get(key, 0) + by
        self.state["total"] += by
        return self.state["total"]

    @every(seconds=1.0)
    def report(self) -> None:
        self.send("logger", "line", {"total": self.state["total"]})


@CounterV2.migrates(1, 2)
def up(old: dict[str, Any]) -> StateV2:
    return {"total": old["total"], "by_key": {}}


@CounterV2.migrates(2, 1)
def down(new: StateV2) -> dict[str, Any]:
    return {"total": new["total"]}


def test_the_example_of_the_design_holds_as_it_stands() -> None:
    async def story() -> None:
        async with livetag.testing.run(CounterV1, state={"total": 3}) as counter:
            assert await counter.ask("tick", {"key": "a"}) == 4
            await counter.advance(seconds=1)
            assert counter.sent == [("logger", "line", {"total": 4})]
            report = await counter.upgrade(CounterV2)
            assert report.lost_going_down == ["by_key"]
            await counter.rollback()
            assert counter.state == {"total": 4}

    asyncio.run(story())


def test_a_first_start_takes_the_initial_state_and_calls_prepare_and_take_over() -> None:
    async def story() -> None:
        calls = []

        class Careful(CounterV1):
            async def prepare(self) -> None:
                calls.append("prepare")

            def take_over(self, resources: dict[str, Any]) -> None:
                calls.append(f"take_over {resources}")

            async def stop(self) -> None:
                calls.append("stop")

        async with livetag_testing.run(Careful) as counter:
            assert counter.state == {"total": 0}
            assert calls == ["prepare", "take_over {}"]
        assert calls == ["prepare", "take_over {}", "stop"]

    asyncio.run(story())


def test_messages_that_wait_are_handled_by_the_new_version() -> None:
    async def story() -> None:
        class Slow(CounterV1):
            @handles
            async def tick(self, key: str, by: int = 1) -> int:  # type: ignore[override]
                for _ in range(50):
                    await asyncio.sleep(0)
                return super().tick(key, by)

        async with livetag_testing.run(Slow) as counter:
            for _ in range(5):
                await counter.proxy.post(Message("tick", {"key": "a"}), 1)
            report = await counter.upgrade(CounterV2)
            await counter.settle()
            assert report.held_messages == 4
            assert counter.state == {"total": 5, "by_key": {"a": 4}}
            assert counter.dead_letters == []

    asyncio.run(story())


def bad_version(what: str) -> type[Module[Any]]:  # noqa: C901  # one branch for each way to be bad
    class Bad(CounterV2):
        async def prepare(self) -> None:
            if what == "prepare":
                raise KeyError("n")
            if what == "exit":
                raise SystemExit(1)
            if what == "cancelled":
                raise asyncio.CancelledError

        def take_over(self, resources: dict[str, Any]) -> None:
            if what == "take_over":
                raise KeyError("n")

        async def stop(self) -> None:
            if what == "stop":
                raise SystemExit(1)

    if what == "migration":
        Bad._migrations[1, 2] = lambda old: old["nothing"]
    if what == "type":
        Bad._migrations[1, 2] = lambda old: old
    if what == "missing":
        Bad._migrations.clear()
    return Bad


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("prepare", r"prepare\(\) raised KeyError: 'n'"),
        ("exit", r"prepare\(\) raised SystemExit: 1"),
        ("cancelled", "CancelledError"),
        ("take_over", r"take_over\(\) raised KeyError: 'n'"),
        ("migration", "migration raised KeyError: 'nothing'"),
        ("type", "missing required field `by_key`"),
        ("missing", "No migration leads from state version 1 to 2"),
    ],
)
def test_an_upgrade_that_is_refused_leaves_the_old_version_serving(what: str, says: str) -> None:
    async def story() -> None:
        stopped = []

        class Old(CounterV1):
            async def stop(self) -> None:
                stopped.append(self.version)

        async with livetag_testing.run(Old, state={"total": 3}) as counter:
            with pytest.raises(UpgradeFailed, match=says):
                await counter.upgrade(bad_version(what))
            assert stopped == []
            assert await counter.ask("tick", {"key": "a"}) == 4
            await counter.advance(seconds=1)
            assert counter.sent == [("logger", "line", {"total": 4})]
            await counter.upgrade(CounterV2)
            assert stopped == ["Old"]

    asyncio.run(story())


def test_a_stop_that_ends_the_process_ends_nothing() -> None:
    async def story() -> None:
        async with livetag_testing.run(CounterV1) as counter:
            await counter.upgrade(bad_version("stop"))
            await counter.rollback()
            assert await counter.ask("tick", {"key": "a"}) == 1

    asyncio.run(story())


def test_there_is_no_rollback_before_an_upgrade() -> None:
    async def story() -> None:
        async with livetag_testing.run(CounterV1) as counter:
            with pytest.raises(UpgradeFailed, match="no version before this one"):
                await counter.rollback()

    asyncio.run(story())


def test_config_holds_over_upgrades() -> None:
    async def story() -> None:
        class Configured(Module[dict[str, Any]]):
            @handles
            def port(self) -> int:
                return int(self.config["port"])

        class Next(Configured):
            pass

        async with livetag_testing.run(Configured, config={"port": 179}) as module:
            await module.upgrade(Next)
            assert await module.ask("port") == 179

    asyncio.run(story())


class Asker(Module[dict[str, Any]]):
    @handles
    async def go(self, name: str) -> Any:
        self.send("logger", "line", {"asking": name})
        return await self.ask(name, "total", {"of": name})


def test_asks_of_others_are_answered_as_told_and_recorded() -> None:
    async def story() -> None:
        answers = {("a", "total"): 3, ("b", "total"): lambda body: body["of"] * 2}
        async with livetag_testing.run(Asker, answers=answers) as module:
            assert await module.ask("go", {"name": "a"}) == 3
            assert await module.ask("go", {"name": "b"}) == "bb"
            module.answers["c", "total"] = None
            assert await module.ask("go", {"name": "c"}) is None
            assert module.sent[:2] == [
                Sent("logger", "line", {"asking": "a"}),
                Sent("a", "total", {"of": "a"}),
            ]
            with pytest.raises(
                HandlerFailed, match=r"no answer for \('d', 'total'\)\. Give one: run\(\.\.\., answers="
            ):
                await module.ask("go", {"name": "d"})
            assert len(module.dead_letters) == 1

    asyncio.run(story())


def test_events_of_the_module_are_recorded_and_those_of_the_test_reach_it() -> None:
    async def story() -> None:
        class Ear(Module[dict[str, Any]]):
            @subscribes("clock.*")
            def on_clock(self, event: dict[str, Any]) -> None:
                self.publish("heard", event)

        async with livetag_testing.run(Ear) as ear:
            assert await ear.publish("clock.tick", {"n": 1}) == 1
            assert await ear.publish("elsewhere", {"n": 2}) == 0
            assert ear.published == [Published("heard", {"n": 1})]

    asyncio.run(story())


def test_a_body_is_no_alias_of_the_tests_or_the_modules_data() -> None:
    async def story() -> None:
        class Keeper(Module[dict[str, Any]]):
            def initial_state(self) -> dict[str, Any]:
                return {"kept": None}

            @handles
            def keep(self, body: dict) -> None:  # type: ignore[type-arg]
                self.state["kept"] = body
                self.send("other", "kept", body)

        body: dict[str, Any] = {"items": [1]}
        async with livetag_testing.run(Keeper) as keeper:
            await keeper.send("keep", body)
            body["items"].append(2)
            assert keeper.state == {"kept": {"items": [1]}}
            await keeper.send("keep", body)
            assert [sent.body for sent in keeper.sent] == [{"items": [1]}, {"items": [1, 2]}]

    asyncio.run(story())


@pytest.mark.parametrize("how", ["send", "publish"])
def test_sending_what_is_not_plain_data_fails_the_test_that_waits(how: str) -> None:
    async def story() -> None:
        class Careless(Module[dict[str, Any]]):
            @handles
            def go(self) -> None:
                if how == "send":
                    self.send("other", "x", {"what": 2**70})
                else:
                    self.publish("topic", 2**70)

        async with livetag_testing.run(Careless, name="careless") as module:
            with pytest.raises(BodyRefused, match=r"careless sent .* whose body is not plain data"):
                await module.send("go")
            with pytest.raises(BodyRefused, match=r"careless sent .* whose body is not plain data"):
                await module.ask("go")

    asyncio.run(story())


def test_unknown_messages_and_wrong_bodies_fail_like_in_service() -> None:
    async def story() -> None:
        async with livetag_testing.run(CounterV1, name="counter") as counter:
            with pytest.raises(
                UnknownMessage, match="counter CounterV1 does not handle 'tock'; it handles: tick"
            ):
                await counter.ask("tock")
            with pytest.raises(BodyRefused, match=r"\$\.key"):
                await counter.ask("tick", {"key": 1})
            assert len(counter.dead_letters) == 2

    asyncio.run(story())


def test_time_passes_tick_by_tick() -> None:
    async def story() -> None:
        async with livetag_testing.run(CounterV1) as counter:
            await counter.advance(seconds=0.5)
            assert counter.sent == []
            await counter.advance(seconds=3)
            assert len(counter.sent) == 3
            await counter.upgrade(CounterV2)
            await counter.advance(seconds=0.5)
            assert len(counter.sent) == 4

    asyncio.run(story())


def test_an_intake_feeds_the_module_under_test() -> None:
    async def story() -> None:
        lines: asyncio.Queue[str] = asyncio.Queue()

        class Reader(Module[dict[str, Any]]):
            def initial_state(self) -> dict[str, Any]:
                return {"lines": []}

            @intake
            async def line(self) -> dict[str, str]:
                return {"text": await lines.get()}

            @handles("line")
            def on_line(self, text: str) -> None:
                self.state["lines"].append(text)

        async with livetag_testing.run(Reader) as reader:
            lines.put_nowait("a")
            lines.put_nowait("b")
            for _ in range(20):
                await reader.settle()
            assert reader.state == {"lines": ["a", "b"]}

    asyncio.run(story())


def test_a_state_that_does_not_fit_or_a_version_that_cannot_start_says_so() -> None:
    async def story() -> None:
        for cls, state, says in (
            (CounterV1, {"totl": 1}, "missing required field `total`"),
            (bad_version("prepare"), None, "KeyError"),
        ):
            with pytest.raises(UpgradeFailed, match=says):
                async with livetag_testing.run(cls, state=state):
                    pass

    asyncio.run(story())


def test_a_prepare_that_never_ends_is_undone_at_its_limit() -> None:
    async def story() -> None:
        class Slow(CounterV1):
            async def prepare(self) -> None:
                await asyncio.Event().wait()

        async with livetag_testing.run(CounterV1) as counter:
            upgrade = asyncio.ensure_future(counter.upgrade(Slow, limits=Limits(load_s=2.0)))
            for _ in range(5):
                await asyncio.sleep(0)
            await counter.advance(seconds=2)
            with pytest.raises(UpgradeFailed, match=r"did not end within limits\.load_s = 2 s"):
                await upgrade
            assert await counter.ask("tick", {"key": "a"}) == 1

    asyncio.run(story())
