"""What of a durable module waits: a reply for the disk, an output for its name, letters for a switch (DESIGN §6 P2, P4)."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from livetag import handles
from orchestrator.upgrade import durable_switch
from tests.durable_kit import COUNTER, Disk, life, until
from tests.durable_tape import TapeLife
from tests.test_durable_prefixes import LAGS, Keeper, Plain, Promises, dead_of, got_of, run


def test_a_reply_that_is_part_of_the_state_shows_what_it_was_when_its_unit_ended(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            code = COUNTER.replace("def got(self) -> list[int]:", "def got(self) -> dict:").replace(
                'return self.state["got"]', "return self.state"
            )
            await it.deploy("1.0.0", {"a": code}, durable={"a"})
            assert await it.app.ask("a", "add", {"n": 1}) == 1
            disk.hold()
            told = asyncio.ensure_future(it.app.ask("a", "got"))
            later = asyncio.ensure_future(it.app.ask("a", "add", {"n": 2}))
            await until(lambda: it.app.modules["a"].handled == 3)
            disk.go_on()
            assert await told == {"total": 1, "got": [1]}
            assert await later == 3

    asyncio.run(story())


class Waits(Plain):
    """Sends each to a module that is not there yet."""

    patient = True

    def initial_state(self) -> dict[str, Any]:
        return {"got": []}

    @handles
    def add(self, n: int) -> None:
        self.state["got"].append(n)
        self.send("later", "add", {"n": n}, wait_s=60.0 if n < 100 and self.patient else 0.05)


@pytest.mark.parametrize("durable", [("a",), ("a", "later")])
@pytest.mark.parametrize("lag", LAGS)
def test_what_waits_for_a_name_is_there_or_a_letter_after_a_kill(
    lag: int, durable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    promises = Promises()
    whole = 0

    async def story(it: TapeLife) -> None:
        nonlocal whole
        promises.life = it
        monkeypatch.setattr(Waits, "patient", True)
        await it.put({"a": Waits}, durable)
        for n in (101, 1, 2, 3):
            await promises.send("a", n)
        await until(lambda: len(it.letters) == 1)
        await it.put({"later": Keeper}, durable)
        for n in (4, 5):
            await promises.send("a", n)
        await it.settled()
        assert [*dead_of(it, "later"), *got_of(it, "later")] == [101, 1, 2, 3, 4, 5]
        whole = it.position
        promises.life = None
        monkeypatch.setattr(Waits, "patient", False)  # in the lives after a kill

    async def check(it: TapeLife, count: int) -> None:
        promises.hold(it, count)
        got = got_of(it, "later") if "later" in it.app.modules else []
        had = Counter(got + dead_of(it, "later"))
        assert max(had.values(), default=1) == 1
        if "later" in durable:
            assert sorted(had) == sorted(got_of(it, "a")), "an output of a unit that is on disk"
        elif "later" not in it.app.modules:
            assert sorted(had) == sorted(got_of(it, "a"))
        assert got == sorted(got)
        if count < whole:
            for letter in it.letters:
                assert (
                    "the host ended while it waited for" in letter.reason
                    or "no module was bound" in letter.reason
                )

    run(story, check, lag)


def test_more_than_a_pause_can_write_waits_and_the_switch_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(durable_switch, "WAITING_MAX", 50)
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": COUNTER}, enabled=True)
            await it.enable("a", enabled=False)
            for n in range(51):
                it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
            outcome = await it.deploy("1.1.0", {"a": COUNTER}, durable={"a"}, enabled=False)
            assert (outcome.result, outcome.fault) == ("rolled_back", "moment")
            assert "becomes durable with 51 waiting messages and dead letters, and 50" in outcome.reason
            await it.enable("a", enabled=True)
            await it.settled()
            assert await it.app.ask("a", "total") == sum(range(51))
            outcome = await it.deploy("1.1.0", {"a": COUNTER}, durable={"a"})
            assert outcome.result == "committed"

    asyncio.run(story())
