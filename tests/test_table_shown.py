"""Tables as `state` and `status` show them: counts, versions, some records, never all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.control.tables import SHOWN_MAX, part_of_module
from orchestrator.control.wire import Refused
from orchestrator.testing import ModuleUnderTest
from tests.table_kit import One, Two, begin, records


async def shown(module: ModuleUnderTest, path: str | None = None) -> Any:
    return await part_of_module(module.state, module.proxy.tables, path, "keeper")


def test_a_state_is_shown_with_the_tables_beside_it() -> None:
    async def story() -> None:
        async with begin(One, state={"total": 3}, tables=records(14)) as module:
            assert await shown(module) == {
                "state": {"total": 3},
                "tables": {"things": {"version": 1, "records": 14}},
            }
            assert await shown(module, "total") == await shown(module, "state.total") == 3
            assert await shown(module, "state") == {"total": 3}
            assert await shown(module, "tables") == {"things": {"version": 1, "records": 14}}
            await module._swap(One, Two, module._limits)
            assert (await shown(module, "tables"))["things"]["to_migrate"] == {"1": 14}
            await module.advance(seconds=10)
            things = (await shown(module, "tables"))["things"]
            assert things["problem"].startswith(
                "a step raised on 1 of its records; the first: Table things, key ('k', 13)"
            )

    asyncio.run(story())


def test_a_path_reaches_into_a_table() -> None:
    async def story() -> None:
        async with begin(One, tables=records(500)) as module:
            some = await shown(module, "tables.things")
            assert (some["records"], len(some["shown"]), some["more"]) == (500, SHOWN_MAX, True)
            (one,) = (await shown(module, 'tables.things.["k",7]'))["shown"]
            assert one == {"key": ("k", 7), "record": {"n": 7}}
            assert (await shown(module, "tables.things.7"))["shown"] == [one]
            with pytest.raises(Refused, match="has no key '1000'"):
                await shown(module, "tables.things.1000")
            with pytest.raises(Refused, match="keeper has no Table 'thing'; there is: things"):
                await shown(module, "tables.thing.1")
            with pytest.raises(Refused, match="has no 'x'"):
                await shown(module, "x")

    asyncio.run(story())
