"""Records put in the place of others while some are still of an older version: none of the old ones comes back."""

from __future__ import annotations

import asyncio

from orchestrator.runtime.at_once import at_once
from orchestrator.runtime.table_image import image_of
from orchestrator.runtime.table_replace import preparing
from tests.table_kit import One, Two, begin, records


def test_what_is_put_in_is_all_there_is_though_old_records_waited_for_their_step() -> None:
    async def story() -> None:
        async with begin(One, tables=records(50)) as module:
            await module._swap(One, Two, module._limits)
            tables = module.proxy.tables
            assert tables.stores["things"].stale == 50
            held = tables.live["things"]
            image = image_of(tables.live["things"].type, [(("k", 7), (70, "new")), (("k", 99), (99, "new"))])
            at_once(preparing(tables, [image])).put_in(tables)
            assert (len(held), tables.stores["things"].stale) == (2, 0)
            assert await module.ask("look", {"key": 3}) is None
            assert tuple(await module.ask("look", {"key": 7})) == (70, "new")
            assert module.tables["things"] == {("k", 7): (70, "new"), ("k", 99): (99, "new")}

    asyncio.run(story())
