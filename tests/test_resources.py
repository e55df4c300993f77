"""Resources: opened once, kept over every swap, closed once, whatever happens to the versions around them."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
from loguru import logger
from typing_extensions import assert_type

from livetag import Module, handles, resource, testing
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import DefinitionInvalid, NotInService
from orchestrator.runtime.own_code import own_code_in
from orchestrator.runtime.resource import Resource
from repo_store.manifest import Limits
from tests.runtime_kit import implement

Plain = Module[dict[str, Any]]  # Any: a test's own values
OPENED: list[Line] = []


class Line:
    """Something live: counts how often it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0
        OPENED.append(self)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def _nothing_open() -> None:
    OPENED.clear()


def closed() -> list[int]:
    return [line.closed for line in OPENED]


class One(Plain):
    @resource
    async def line(self) -> Line:
        return Line("one")

    async def prepare(self) -> None:
        self.seen = self.line

    @handles
    def look(self) -> list[Any]:
        assert self.seen is self.line
        return [self.line.name, self.line.closed]


class Two(One):
    """The next version; its resource has the same name and key."""


class Other(One):
    @resource(key=2)
    async def line(self) -> Line:
        return Line("other")


class Without(Plain):
    @handles
    def look(self) -> list[Any]:
        return []


def story(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_it_is_opened_once_kept_over_swaps_and_closed_when_the_module_leaves() -> None:
    async def run() -> None:
        async with testing.run(One) as module:
            assert await module.ask("look") == ["one", 0]
            for cls in (Two, One, Two):
                await module.upgrade(cls)
                assert await module.ask("look") == ["one", 0]
            assert len(OPENED) == 1
        assert closed() == [1]

    story(run())


def test_another_key_opens_another_and_the_one_that_nobody_uses_is_closed() -> None:
    async def run() -> None:
        async with testing.run(One) as module:
            await module.upgrade(Other)
            assert await module.ask("look") == ["other", 0]
            assert closed() == [1, 0]
            await module.rollback()
            assert await module.ask("look") == ["one", 0]
            assert closed() == [1, 1, 0]
            await module.upgrade(Without)
            assert closed() == [1, 1, 1]
        assert closed() == [1, 1, 1]

    story(run())


class ByConfig(Plain):
    @resource(key=lambda self: [self.config["port"], {"b": 1, "a": 2}])
    async def line(self) -> Line:
        return Line(str(self.config["port"]))

    @handles
    def look(self) -> str:
        return self.line.name


def test_a_key_may_be_made_from_the_config() -> None:
    async def run() -> None:
        async with testing.run(ByConfig, config={"port": 1}) as module:
            await module.upgrade(ByConfig)
            assert await module.ask("look") == "1"
            module._config = {"port": 2}
            await module.upgrade(ByConfig)
            assert await module.ask("look") == "2"
            assert closed() == [1, 0]

    story(run())


class BadInPrepare(Other):
    async def prepare(self) -> None:
        raise ValueError("no")


class BadInTheSwitch(Other):
    def take_over(self, resources: dict[str, Any]) -> None:
        raise ValueError("no")


class BadOpening(One):
    @resource(key=3)
    async def line(self) -> Line:
        raise OSError(98, "Address already in use")


class SecondFails(Other):
    @resource
    async def more(self) -> Line:
        raise SystemExit(3)


@pytest.mark.parametrize("cls", [BadInPrepare, BadInTheSwitch, SecondFails])
def test_a_version_that_does_not_come_has_what_was_opened_for_it_closed(cls: type[Plain]) -> None:
    async def run() -> None:
        async with testing.run(One) as module:
            with pytest.raises(testing.UpgradeFailed):
                await module.upgrade(cls)
            assert closed() == [0, 1]
            assert await module.ask("look") == ["one", 0]
            await module.upgrade(Two)
            assert await module.ask("look") == ["one", 0]
        assert closed() == [1, 1]

    story(run())


def test_one_that_cannot_be_opened_votes_no_and_is_named_with_its_line() -> None:
    async def run() -> None:
        async with testing.run(One) as module:
            with pytest.raises(testing.UpgradeFailed) as refused:
                await module.upgrade(BadOpening)
            text = str(refused.value)
            assert "opening 'line' raised OSError: [Errno 98] Address already in use" in text
            assert "test_resources.py line" in text
            assert await module.ask("look") == ["one", 0]

    story(run())


def test_one_that_never_opens_is_given_up_at_load_s_and_closed_if_it_opens_after_all() -> None:
    door, after_all = asyncio.Event(), asyncio.Event()

    class Slow(Other):
        @resource(key=5)
        async def line(self) -> Line:
            try:
                await door.wait()
            except asyncio.CancelledError:
                await after_all.wait()
            return Line("late")

    async def run() -> None:
        async with testing.run(One, limits=Limits(load_s=0.05)) as module:
            upgrade = asyncio.ensure_future(module.upgrade(Slow))
            await asyncio.sleep(0)
            while not upgrade.done():
                await module.advance(seconds=0.1)
            assert "limits.load_s" in str(upgrade.exception())
            after_all.set()
            for _ in range(5):
                await asyncio.sleep(0)
            assert [(line.name, line.closed) for line in OPENED] == [("one", 0), ("late", 1)]

    story(run())


class Async:
    def __init__(self) -> None:
        self.said: list[str] = []

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.said.append("aclose")

    def close(self) -> None:
        self.said.append("close")

    def terminate(self) -> None:
        self.said.append("terminate")


def test_it_is_closed_by_aclose_or_close_or_as_declared_and_nothing_needs_closing() -> None:
    made: list[Any] = []

    class Many(Plain):
        @resource
        async def first(self) -> Async:
            made.append(Async())
            return made[-1]  # type: ignore[no-any-return]

        @resource(close="terminate")
        async def second(self) -> Async:
            made.append(Async())
            return made[-1]  # type: ignore[no-any-return]

        @resource
        async def pair(self) -> tuple[Async, bytearray]:
            made.append(Async())
            return made[-1], bytearray()

        @resource
        async def buffer(self) -> bytearray:
            return bytearray()

    async def run() -> None:
        async with testing.run(Many):
            pass
        assert [each.said for each in made] == [["aclose"], ["terminate"], ["aclose"]]

    story(run())


#: A task that is cancelled and awaited to end it raises that in whoever awaits it; 3.10 cannot tell whose it is.
CLOSING = [
    OSError("stuck"),
    SystemExit(3),
    *([asyncio.CancelledError()] if sys.version_info >= (3, 11) else []),
]


@pytest.mark.parametrize("error", CLOSING)
def test_one_that_cannot_be_closed_is_told_and_the_others_are_closed(error: BaseException) -> None:
    class Stubborn(Line):
        def close(self) -> None:
            raise error

    class Both(Plain):
        @resource
        async def line(self) -> Line:
            return Line("first")

        @resource
        async def stubborn(self) -> Line:
            return Stubborn("second")

    async def run() -> list[str]:
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="WARNING")
        async with testing.run(Both):
            pass
        logger.remove(number)
        return told

    told = asyncio.run(run())
    assert closed() == [1, 0]
    assert any(f"closing Stubborn of both raised {type(error).__name__}" in line for line in told)


def test_a_resource_may_be_made_from_one_that_is_written_above_it() -> None:
    class Chain(Plain):
        @resource
        async def z_first(self) -> Line:
            return Line("first")

        @resource
        async def a_second(self) -> Line:
            return Line(f"on {self.z_first.name}")

    async def run() -> None:
        async with testing.run(Chain):
            assert [line.name for line in OPENED] == ["first", "on first"]

    story(run())


def test_reading_it_before_it_is_open_says_when_it_is() -> None:
    with pytest.raises(NotInService, match="opened in the order of the class, before prepare") as raised:
        _ = One().line
    assert "'line' of One" in str(raised.value)


def test_its_type_is_that_of_what_it_opens() -> None:
    def look(module: One) -> None:
        assert_type(module.line, Line)

    assert look.__name__ == "look"
    assert_type(One.line, Resource[Line])
    assert [each.name for each in Blueprint(One).resources] == ["line"]


def test_it_must_be_async_and_its_key_plain_data() -> None:
    with pytest.raises(DefinitionInvalid, match="must be `async def`"):

        @resource  # type: ignore[arg-type]
        def line(self: object) -> int:
            return 1

    class Odd(Plain):
        @resource(key=object())
        async def line(self) -> int:
            return 1

    async def run() -> None:
        with pytest.raises(testing.UpgradeFailed, match="the key of the resource 'line'"):
            async with testing.run(Odd):
                pass

    story(run())


def test_hand_over_and_resources_work_together_and_are_both_undone() -> None:
    handed: list[Any] = []

    class HandsOver(One):
        def hand_over(self) -> dict[str, Any]:
            return {"count": self.count, "line": self.line.name}

        def take_over(self, resources: dict[str, Any]) -> None:
            handed.append((self.version, dict(resources), self.line.name))
            self.count = resources.get("count", 0) + 1

        @handles
        def look(self) -> list[Any]:
            return [self.count, self.line.name, self.line.closed]

    class Bad(HandsOver):
        @resource(key=7)
        async def line(self) -> Line:
            return Line("bad")

        def take_over(self, resources: dict[str, Any]) -> None:
            handed.append((self.version, dict(resources), self.line.name))
            raise ValueError("no")

    async def run() -> None:
        async with testing.run(HandsOver) as module:
            await module.upgrade(HandsOver)
            assert await module.ask("look") == [2, "one", 0]
            with pytest.raises(testing.UpgradeFailed, match="take_over"):
                await module.upgrade(Bad)
            assert await module.ask("look") == [3, "one", 0]  # the old one took over again
            assert [line for _, _, line in handed] == ["one", "one", "bad", "one"]
            assert closed() == [0, 1]

    story(run())


class Own:
    """A class of the module's own package."""


def test_an_object_with_code_of_the_version_in_it_is_found() -> None:
    class Owner(Plain):
        def on_client(self, reader: object, writer: object) -> None: ...

    implementation = implement(Owner, "m")

    async def run() -> None:
        server = await asyncio.start_server(implementation.instance.on_client, "127.0.0.1", 0)
        found = own_code_in(server, implementation)
        assert found is not None
        assert "on_client" in found
        server.close()
        plain = await asyncio.start_server(print, "127.0.0.1", 0)
        assert own_code_in(plain, implementation) is None
        plain.close()

    story(run())
    for harmless in (socket.socket(), asyncio.Queue, {"a": [1]}, bytearray(), print):
        assert own_code_in(harmless, implementation) is None
        if isinstance(harmless, socket.socket):
            harmless.close()
    for own, words in (
        ([Own()], "an instance of Own"),
        ({"x": lambda: 1}, "the function"),
        (implementation.instance.send, "the module's instance"),
    ):
        found = own_code_in(own, implementation)
        assert found is not None
        assert words in found


def test_such_a_resource_is_named_in_a_warning() -> None:
    class Owner(Plain):
        @resource
        async def thing(self) -> Own:
            return Own()

    async def run() -> list[str]:
        told = list[str]()
        number = logger.add(told.append, format="{message}", level="WARNING")
        async with testing.run(Owner):
            pass
        logger.remove(number)
        return told

    (told,) = asyncio.run(run())
    assert "the resource 'thing' of owner" in told
    assert "an instance of Own" in told
