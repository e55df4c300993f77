"""A release is rehearsed on copies of what is live, up and down, in children; what is found is said before anything is touched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from livetag import Table, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import QuiesceTimeout
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage, records_of
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.incoming import Incoming, StateCopy
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import Change, Committed, Entry, Fact, Planned, Prepared, Record, RolledBack
from orchestrator.upgrade.rehearsal import Rehearsed, WayDown, rehearse
from orchestrator.upgrade.source import StagedSource
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Limits, ModuleManifest, TrialSection
from tests.runtime_kit import Plain, running, until
from tests.swapping import NoLog, NoTicket, Swapper

# -- what of a live module is tried, with a source that only looks ------------------------------------------------------


class Looking:
    """A release whose trial says what it was given."""

    def __init__(self, **found: Any) -> None:
        self._report = TrialReport(b"", {}, **found)
        self.state: StateCopy | None = None
        self.tables: Sequence[TableImage] = ()

    async def try_out(
        self, state: StateCopy | None, _open_keys: Mapping[str, bytes], tables: Sequence[TableImage] = ()
    ) -> TrialReport:
        self.state, self.tables = state, tables
        return self._report

    async def load(self) -> Any:
        raise NotImplementedError


class Halves(Plain):
    things: Table[int, dict[str, int]] = Table(version=1)

    def initial_state(self) -> dict[str, Any]:
        return {"left": 0, "right": 0, "many": {}}

    @handles
    async def grow(self, turns: int = 3) -> None:
        self.state["left"] += 1
        self.things[self.state["left"]] = {"n": 1}
        for _ in range(turns):
            await asyncio.sleep(0)
        self.state["right"] += 1

    @handles
    async def fill(self, many: int, things: int) -> None:
        self.state["many"] = dict.fromkeys(map(str, range(many)), 0)
        for n in range(things):
            self.things[n] = {"n": n}


AFTER = Entry("a", "a", "1.1.0", "a/v1.1.0", "c", "t", "o")


async def looked_at(app: Application, source: Looking, drain_s: float = 5.0) -> Rehearsed:
    proxy = app.modules["a"]
    incoming = Incoming(source, Limits(drain_s=drain_s), {})
    found = await rehearse(proxy, AFTER, incoming, proxy.implementation, None)
    assert found is not None
    return found


def test_a_small_state_is_tried_whole_and_tables_by_sample_and_both_are_said() -> None:
    async def story() -> None:
        async with running({"a": Halves}) as app:
            await app.ask("a", "fill", {"many": 3, "things": 2_500})
            source = Looking()
            found = await looked_at(app, source)
            assert found.on == "the whole state (29 B) and 1,000 of 2,500 records of things"
            assert source.state is not None
            assert not source.state.cut
            assert PLAIN_STATE.decode(source.state.data)["many"] == {"0": 0, "1": 0, "2": 0}
            assert sum(len(list(records_of(image))) for image in source.tables) == 1_000

    asyncio.run(story())


def test_a_large_state_is_tried_by_sample_and_the_time_is_told_of_the_whole() -> None:
    async def story() -> None:
        async with running({"a": Halves}) as app:
            await app.ask("a", "fill", {"many": 200_000, "things": 3})
            source = Looking(migration_s=0.0002)
            found = await looked_at(app, source)
            assert (
                found.on
                == "a sample of the state (1,000 of 200,000 in many; without self_test()) and all 3 records of things"
            )
            assert source.state is not None
            assert source.state.cut
            assert found.predicted_s == pytest.approx(0.04, rel=0.1)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("down", "said"),
    [
        ({"went_down": PLAIN_STATE.encode({"left": "one"})}, None),
        ({"tables_down": (TableImage("things", 1, (PLAIN_STATE.encode([(1, {"n": 2})]),)),)}, None),
        ({"tables_down": (TableImage("things", 7, (PLAIN_STATE.encode([(1, {"n": "2"})]),)),)}, None),
        (
            {"went_down": PLAIN_STATE.encode([1])},
            r"leads to what a \S* ?cannot take: the state: Expected `object`",
        ),
        (
            {"tables_down": (TableImage("things", 1, (PLAIN_STATE.encode([(1, {"n": "2"})]),)),)},
            r"cannot take: Table things, key 1: Expected `int`, got `str`.* Correct the step down of 1\.1\.0, or say one_way",
        ),
    ],
)
def test_a_way_back_to_what_the_version_in_service_cannot_take_is_refused(
    down: dict[str, Any], said: str | None
) -> None:
    async def story() -> None:
        async with running({"a": Halves}) as app:
            if said is None:
                await looked_at(app, Looking(**down))
                return
            with pytest.raises(TrialFailed, match=said) as failed:
                await looked_at(app, Looking(**down))
            assert (failed.value.step, failed.value.fault) == ("way_back", "release")

    asyncio.run(story())


def test_state_and_tables_are_of_one_moment_that_is_in_no_unit() -> None:
    async def story() -> None:
        async with running({"a": Halves}) as app:
            for _ in range(9):
                await app.send("a", "grow")
            await until(lambda: app.modules["a"].unit)
            source = Looking()
            await looked_at(app, source)
            assert source.state is not None
            copy = PLAIN_STATE.decode(source.state.data)
            assert (
                copy["left"]
                == copy["right"]
                == sum(1 for image in source.tables for _ in records_of(image))
                > 0
            )

    asyncio.run(story())


def test_a_unit_that_does_not_end_is_a_failure_of_the_moment_and_no_child_is_started() -> None:
    async def story() -> None:
        async with running({"a": Halves}) as app:
            await app.send("a", "grow", {"turns": 10**9})
            await until(lambda: app.modules["a"].unit)
            source = Looking()
            with pytest.raises(QuiesceTimeout, match=r"between two units in 0.05 s: a in 'grow' is at"):
                await looked_at(app, source, drain_s=0.05)
            assert source.state is None

    asyncio.run(story())


# -- with real children ------------------------------------------------------------------------------------------------

ONE = """
    from typing import TypedDict
    from livetag import Module, handles

    class State(TypedDict):
        total: int

    class Counter(Module[State]):
        def initial_state(self) -> State:
            return {"total": 0}

        async def self_test(self) -> None:
            assert set(self.state) == {"total"}, self.state
            assert self.state["total"] < 9, f"{self.state['total']} is too much"

        @handles
        def tick(self, key: str) -> int:
            self.state["total"] += 1
            return self.state["total"]
"""
TWO = """
    import os, sys, time
    from typing import TypedDict
    from livetag import Module, handles

    class State(TypedDict):
        total: int
        by_key: dict[str, int]

    class Counter(Module[State]):
        state_version = 2

        def initial_state(self) -> State:
            return {"total": 0, "by_key": {}}

        @handles
        def tick(self, key: str) -> int:
            self.state["by_key"][key] = self.state["by_key"].get(key, 0) + 1
            self.state["total"] += 1
            return self.state["total"]

    @Counter.migrates(1, 2)
    def up(old: dict) -> State:
        return {"total": old["total"], "by_key": {}}

    @Counter.migrates(2, 1)
    def down(new: State) -> dict:
        return {"total": new["total"]}
"""
FEW = TrialSection(memory_mb=512, time_s=2.5)


class Facts(NoLog):
    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def append(self, fact: Fact, _image: object = (), _writes: object = (), /) -> NoTicket:
        self.facts.append(fact)
        return super().append(fact)

    async def write(self, fact: Fact, /) -> Record:
        return self.append(fact).record


class Rehearser(Swapper):
    """Swaps as a host does: with the trials."""

    said: list[str]
    log: Facts

    def source(self, entry: Entry) -> StagedSource:
        return StagedSource(
            self._folder / entry.tree_id, entry, ModuleManifest(limits=self._limits), entry.config, FEW
        )

    async def to(self, version: str, source: str, state_version: int) -> Outcome:
        entry = replace_state(self.write("counter", version, {"__init__.py": source}), state_version)
        before = self._live.get("counter")
        participant = Participant(
            self.app, Change("counter", before, entry), Incoming(self.source(entry), self._limits, {})
        )
        if before is not None:

            async def leaving() -> StagedSource:
                return self.source(before)

            participant.way_down = WayDown(leaving, {})
        self.said, self.log = [], Facts()
        planned = Planned(next(self._txns), (participant.change,), "test", "test")

        def report(_phase: Phase, text: str) -> None:
            self.said.append(text)

        transaction = UpgradeTransaction(self.app, planned, [participant], self.log, report=report)
        outcome = await transaction.run()
        await transaction.retire(outcome)
        if outcome.result == "committed":
            self._live["counter"] = entry
        return outcome

    async def ticks(self) -> int:
        found = await self.app.ask("counter", "tick", {"key": "x"})
        assert isinstance(found, int)
        return found


def replace_state(entry: Entry, state_version: int) -> Entry:

    return msgspec.structs.replace(entry, state_version=state_version)


def rehearsing(
    folder: Path, play: Callable[[Rehearser], Awaitable[None]], limits: Limits | None = None
) -> None:
    async def life() -> None:
        rehearser = Rehearser(Application(), folder, limits or Limits(pause_ms=500.0))
        try:
            assert (await rehearser.to("1.0.0", ONE, 1)).result == "committed"
            await play(rehearser)
        finally:
            await rehearser.close()

    asyncio.run(life())


def test_a_way_up_and_a_way_down_are_both_rehearsed_on_the_live_state_and_say_what_is_lost(
    tmp_path: Path,
) -> None:
    async def play(counter: Rehearser) -> None:
        await counter.ticks()
        assert (await counter.to("2.0.0", TWO, 2)).result == "committed"
        assert counter.said[1] == (
            "tried out in a child process: passed; counter: tried on the whole state (8 B); "
            "counter: way back 2→1: yes, loses by_key"
        )
        up = counter.log.facts[-2]
        assert isinstance(up, Committed)
        assert up.predicted_us is not None
        assert 0 < up.predicted_us < 500_000
        await counter.ticks()
        outcome = await counter.to("1.0.1", ONE, 1)
        assert outcome.result == "committed", outcome.reason
        assert counter.said[1] == (
            "tried out in a child process: passed; counter: tried on the whole state (19 B); "
            "counter: going back 2→1: loses by_key"
        )
        down = counter.log.facts[-2]
        assert isinstance(down, Committed)
        assert down.predicted_us is not None, "what leaves has measured its steps down"
        assert await counter.ticks() == 3

    rehearsing(tmp_path, play)


def test_a_release_that_is_gone_back_to_is_tested_on_what_the_steps_down_have_left(tmp_path: Path) -> None:
    async def play(counter: Rehearser) -> None:
        assert (await counter.to("2.0.0", TWO, 2)).result == "committed"
        for _ in range(9):
            await counter.ticks()
        outcome = await counter.to("1.0.1", ONE, 1)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert (
            "counter 1.0.1 failed its trial: self_test() raised AssertionError: 9 is too much"
            in outcome.reason
        )
        assert await counter.ticks() == 10

    rehearsing(tmp_path, play)


BAD_DOWN: dict[str, tuple[str, str]] = {
    "raises": ('return {"total": new["summ"]}', r"the way back, tried on a copy of the state, raised KeyError: 'summ'"),
    "hangs": ("time.sleep(3600)", r"did not end within the host.s trial.time_s = 2.5 s \(counter/__init__.py line \d+ in down\)"),
    "exits": ("os._exit(3)", r"ended the process with status 3"),
    "asks to exit": ("sys.exit('bye')", r"raised SystemExit: bye"),
    "fills the memory": ("return [bytes(1 << 20) for _ in range(9000)]", r"MemoryError.*limit of a trial is 512 MB"),
    "gives what does not fit": (
        'return {"total": "many"}',
        r"what the steps down of counter 2.0.0 make of the state does not fit the type of this one: Expected `int`, got `str`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_DOWN)
def test_a_step_down_that_goes_wrong_dies_in_a_child_and_the_version_that_would_leave_serves_on(
    tmp_path: Path, what: str
) -> None:
    code, words = BAD_DOWN[what]
    step = f"""if "x" in new["by_key"]:
            {code}
        return {{"total": 0}}"""
    guarded = TWO.replace('return {"total": new["total"]}', step)

    async def play(counter: Rehearser) -> None:
        assert (await counter.to("2.0.0", guarded, 2)).result == "committed", (
            "it goes well as long as nothing was counted"
        )
        await counter.ticks()
        outcome = await counter.to("1.0.1", ONE, 1)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert re.search(words, outcome.reason), outcome.reason
        assert not any(isinstance(fact, Prepared) for fact in counter.log.facts)
        assert await counter.ticks() == 2

    rehearsing(tmp_path, play)


def test_a_migration_that_would_take_too_long_is_refused_with_the_figure_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    slow = TWO.replace('return {"total": old["total"]', 'time.sleep(0.06); return {"total": old["total"]')

    async def play(counter: Rehearser) -> None:
        outcome = await counter.to("2.0.0", slow, 2)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert re.search(
            r"the migration would take about \d+\.\d ms, over limits.pause_ms = 50, so nothing was touched",
            outcome.reason,
        )
        end = counter.log.facts[-1]
        assert isinstance(end, RolledBack)
        assert end.predicted_us is not None
        assert end.predicted_us > 55_000
        assert end.pause_us == 0
        assert not any(isinstance(fact, Prepared) for fact in counter.log.facts)
        assert await counter.ticks() == 1

    rehearsing(tmp_path, play, Limits(pause_ms=50.0))


def test_a_release_whose_first_run_was_in_a_bad_moment_is_measured_again(tmp_path: Path) -> None:
    once = TWO.replace(
        'return {"total": old["total"]',
        'runs.append(1); time.sleep(0.2 if len(runs) == 1 else 0); return {"total": old["total"]',
    ).replace("    class State", "    runs = []\n\n    class State")

    async def play(counter: Rehearser) -> None:
        outcome = await counter.to("2.0.0", once, 2)
        assert "would take about" not in outcome.reason

    rehearsing(tmp_path, play, Limits(pause_ms=100.0))


LARGE = """
    from typing import TypedDict
    from livetag import Module, handles

    class State(TypedDict):
        total: int
        by_key: dict[str, int]

    class Counter(Module[State]):
        state_version = 2

        def initial_state(self) -> State:
            return {"total": 0, "by_key": {}}

        @handles
        def tick(self, key: str) -> int:
            self.state["by_key"] = {str(n): n for n in range(600_000)}
            self.state["total"] += 1
            return self.state["total"]
"""
UP = TWO[TWO.index("    @Counter.migrates(1, 2)") :]


def test_a_state_that_is_copied_because_its_type_changed_is_measured_like_a_migration(tmp_path: Path) -> None:
    retyped = LARGE.replace("TypedDict):", "TypedDict, total=False):")

    async def play(counter: Rehearser) -> None:
        assert (await counter.to("2.0.0", LARGE + UP, 2)).result == "committed"
        await counter.ticks()
        same = await counter.to("2.0.1", LARGE + UP + "\n    # another one\n", 2)
        assert same.result == "committed", same.reason
        assert (
            "tried on a sample of the state (1,000 of 600,000 in by_key; without self_test())"
            in counter.said[1]
        )
        decided = counter.log.facts[-2]
        assert isinstance(decided, Committed)
        assert decided.predicted_us is None, "it is handed on as it is, however large"
        outcome = await counter.to("2.1.0", retyped + UP, 2)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "would take about" in outcome.reason, outcome.reason
        assert not any(isinstance(fact, Prepared) for fact in counter.log.facts)
        assert await counter.ticks() == 2

    rehearsing(tmp_path, play, Limits(pause_ms=40.0))
