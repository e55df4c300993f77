"""Modules whose version stays: names and service change in a switch, and nothing is loaded for that."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from livetag import handles, subscribes
from orchestrator.runtime.errors import Disabled
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.rewired import Rewired, only_rewired
from orchestrator.upgrade.wiring import next_wiring
from tests.runtime_kit import Plain, running

ROW = Entry("counter", "counter", "1.0.0", "counter/v1.0.0", "c", "t", "o")


class Counter(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"total": 0}

    @handles
    def tick(self) -> int:
        self.state["total"] += 1
        return int(self.state["total"])

    @subscribes("bell")
    def on_bell(self, event: dict[str, Any]) -> None: ...


def rewired(app: Any, **after: Any) -> Rewired:
    change = Change("counter", ROW, msgspec.structs.replace(ROW, **after))
    assert only_rewired(app, change)
    return Rewired(app, change, "counter is disabled by ada: x")


def switch(app: Any, *participants: Participant) -> None:
    wiring = next_wiring(app, participants)
    for participant in participants:
        participant.attach()
    app.rewire(wiring)


def test_a_disabled_module_keeps_its_names_to_itself_and_hears_no_event() -> None:
    async def story() -> None:
        async with running({"counter": Counter, "other": Counter}) as app:
            implementation = app.modules["counter"].implementation
            switch(app, rewired(app, enabled=False, also=("total",)))
            for name in ("counter", "total"):
                with pytest.raises(Disabled, match="by ada"):
                    await app.ask(name, "tick")
            assert [s.proxy.name for s in app.events.subscribers("bell")] == ["other"]
            switch(app, rewired(app, also=("total",)))
            assert [await app.ask(name, "tick") for name in ("counter", "total")] == [1, 2]
            assert len(app.events.subscribers("bell")) == 2
            assert app.modules["counter"].implementation is implementation

    asyncio.run(story())


def test_another_release_or_config_is_no_rewiring() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            for more in ({"tree_id": "t2"}, {"config": {"n": 1}}):
                assert not only_rewired(app, Change("counter", ROW, msgspec.structs.replace(ROW, **more)))
            assert not only_rewired(app, Change("counter", None, ROW))
            assert not only_rewired(app, Change("gone", ROW, ROW)), (
                "it could not come back: it has to be loaded"
            )

    asyncio.run(story())
