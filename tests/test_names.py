"""The name service: any name to any module, looked up at each call."""

from __future__ import annotations

import asyncio

import pytest

from livetag import handles
from orchestrator.runtime.errors import HandlerFailed, UnknownName
from orchestrator.runtime.names import NameService
from tests.runtime_kit import Plain, idle, running, wire


class Echo(Plain):
    @handles
    def who(self) -> str:
        return self.name

    @handles
    async def via(self, name: str) -> str:
        return str(await self.ask(name, "who"))

    @handles
    async def twice(self, name: str) -> list[str]:
        first = await self.ask(name, "who")
        await asyncio.sleep(0)
        return [first, await self.ask(name, "who")]


def test_nothing_is_bound_at_first_and_the_error_says_so() -> None:
    names = NameService()
    assert names.find("counter") is None
    with pytest.raises(
        UnknownName, match=r"No module is bound to 'counter'; nothing was sent\. Names in service: none"
    ):
        names.resolve("counter")


def test_several_names_may_stand_for_one_module() -> None:
    async def story() -> None:
        async with running({"a": Echo, "b": Echo}) as app:
            wire(app, app.modules, {"also": "b"})
            assert await app.ask("also", "who") == "b"
            assert await app.ask("a", "via", {"name": "also"}) == "b"
            assert app.names.names() == {"a": "a", "b": "b", "also": "b"}

    asyncio.run(story())


def test_a_name_is_looked_up_at_each_call() -> None:
    async def story() -> None:
        async with running({"a": Echo, "b": Echo, "c": Echo}) as app:
            wire(app, app.modules, {"peer": "b"})
            asked = asyncio.ensure_future(app.ask("a", "twice", {"name": "peer"}))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            wire(app, app.modules, {"peer": "c"})
            assert await asked == ["b", "c"]
            wire(app, app.modules)
            with pytest.raises(HandlerFailed, match="No module is bound to 'peer'"):
                await app.ask("a", "via", {"name": "peer"})
            await idle(app)

    asyncio.run(story())
