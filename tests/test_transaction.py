"""The transaction: two-phase commit, undo at every step, and COMMITTED as the only decision (DESIGN §7)."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import pytest

from livetag import Module, handles, intake
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.message import Message
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.incoming import Code, Incoming, KeptState, StateCopy
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.ledger import fold
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    Planned,
    Prepared,
    Record,
    RolledBack,
)
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Limits
from tests.runtime_kit import Plain, idle, state_of, until


class State(TypedDict):
    total: int


class NewState(TypedDict):
    total: int
    seen: list[int]


class Counter(Module[State]):
    """The version in service; keeps a diary of what the protocol did to it."""

    def initial_state(self) -> State:
        return {"total": 0}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        return self.state["total"]

    @handles
    async def slow(self, gate: str) -> int:
        await GATES[gate].wait()
        self.state["total"] += 1
        return self.state["total"]

    def hand_over(self) -> dict[str, Any]:
        DIARY.append(f"{self.name} {self.version} hands over")
        return {"socket": f"socket of {self.name}"}

    def take_over(self, resources: dict[str, Any]) -> None:
        DIARY.append(f"{self.name} {self.version} takes {resources.get('socket', 'nothing')}")

    async def stop(self) -> None:
        DIARY.append(f"{self.name} {self.version} stops")


class Better(Counter):
    @handles
    def add(self, n: int) -> int:
        self.state["total"] += 10 * n
        return self.state["total"]


class Reshaped(Module[NewState]):
    state_version = 2

    def initial_state(self) -> NewState:
        return {"total": 0, "seen": []}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        self.state["seen"].append(n)
        return self.state["total"]


@Reshaped.migrates(1, 2)
def up(old: dict[str, Any]) -> NewState:
    return {"total": old["total"], "seen": []}


@Reshaped.migrates(2, 1)
def down(new: NewState) -> dict[str, Any]:
    return {"total": new["total"]}


GATES: dict[str, asyncio.Event] = {}
QUEUES: dict[str, asyncio.Queue[int]] = {}
DIARY: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    GATES.clear()
    DIARY.clear()


class Log:
    """The journal of these tests; fails or runs `before` at a kind of fact if it is told to."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.fails_at: type | None = None
        self.not_durable: type | None = None
        self.held_at: type | None = None
        self.gate: asyncio.Event | None = None

    @property
    def kinds(self) -> list[str]:
        return [type(fact).__name__ for fact in self.facts]

    def append(self, fact: Fact, _image: object = (), _writes: object = (), /) -> Ticket:
        if self.fails_at is not None and isinstance(fact, self.fails_at):
            raise JournalFailed("the disk is full")
        self.facts.append(fact)
        lost = self.not_durable is not None and isinstance(fact, self.not_durable)
        held = self.held_at is not None and isinstance(fact, self.held_at)
        return Ticket(Record(len(self.facts), 0.0, fact, b""), lost=lost, gate=self.gate if held else None)

    async def write(self, fact: Fact, /) -> Record:
        return await self.append(fact).wait()

    def wake(self) -> None:
        DIARY.append("writer woken")


class Ticket:
    def __init__(self, record: Record, *, lost: bool, gate: asyncio.Event | None) -> None:
        self.record = record
        self._lost = lost
        self._gate = gate

    async def wait(self) -> Record:
        if self._gate is not None:
            await self._gate.wait()
        if self._lost:
            raise JournalFailed("the disk is full")
        return self.record


class Source:
    def __init__(
        self, cls: type[Module[Any]], try_out: Exception | None = None, found: TrialReport | None = None
    ) -> None:
        self._cls = cls
        self._error = try_out
        self._found = found

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> TrialReport | None:
        if self._error is not None:
            raise self._error
        return self._found

    async def load(self) -> Code:
        return Code(Blueprint(self._cls), None, "test:Test")


def entry(name: str, version: str, cls: type[Module[Any]]) -> Entry:
    return Entry(
        name, name, version, f"{name}/v{version}", version * 5, version, "", state_version=cls.state_version
    )


class Scene:
    """An application with counters in service, and transactions over them."""

    def __init__(self, app: Application, log: Any) -> None:  # Any: memory, or the real book
        self.app = app
        self.log = log
        self.table: dict[str, Entry] = {}
        self._txn = 0

    def part(
        self, name: str, version: str, cls: type[Module[Any]] | None, limits: Limits = Limits(), **source: Any
    ) -> Participant:
        after = entry(name, version, cls) if cls is not None else None
        incoming = (
            Incoming(Source(cls, **source), limits, {}, tried=bool(source)) if cls is not None else None
        )
        return Participant(self.app, Change(name, self.table.get(name), after), incoming)

    async def run(self, *parts: Participant, stop_at: int | None = None) -> Outcome:
        """`stop_at`: the host is stopped in this turn of the event loop, if the transaction has not ended by then."""
        self._txn += 1
        planned = Planned(self._txn, tuple(p.change for p in parts), "test", "test")
        transaction = UpgradeTransaction(self.app, planned, parts, self.log, patience_s=0.001)
        outcome = await (transaction.run() if stop_at is None else _stopped(transaction.run(), stop_at))
        if outcome.result == "committed":
            self.table.update({p.name: p.change.after for p in parts if p.change.after is not None})
        await transaction.retire(outcome)
        return outcome

    def versions(self) -> dict[str, str]:
        return {
            n: p.implementation.version for n, p in self.app.modules.items() if p.implementation is not None
        }


async def _stopped(work: Coroutine[Any, Any, Outcome], turn: int) -> Outcome:
    running = asyncio.ensure_future(work)
    for _ in range(turn):
        await asyncio.sleep(0)
    running.cancel()
    return await running


def story(play: Callable[[Scene], Awaitable[None]], modules: Sequence[str] = ("a", "b")) -> None:
    """Run `play` on a scene where each of `modules` serves Counter 1.0.0."""

    async def main() -> None:
        scene = Scene(Application(), Log())
        await scene.run(*(scene.part(name, "1.0.0", Counter) for name in modules))
        scene.log.facts.clear()
        DIARY.clear()
        try:
            await play(scene)
        finally:
            for proxy in scene.app.modules.values():
                assert proxy.held is None
                await proxy.close("end of the test")

    asyncio.run(main())


def test_a_swap_keeps_the_state_and_records_each_phase_in_order() -> None:
    async def play(scene: Scene) -> None:
        await scene.app.ask("a", "add", {"n": 3})
        outcome = await scene.run(scene.part("a", "1.1.0", Better))
        assert outcome.result == "committed"
        assert scene.log.kinds == ["Planned", "Prepared", "Committed", "Confirmed"]
        assert await scene.app.ask("a", "add", {"n": 1}) == 13
        assert scene.versions() == {"a": "1.1.0", "b": "1.0.0"}

    story(play)


def test_resources_go_from_the_old_version_to_the_new_and_the_old_one_stops_once() -> None:
    async def play(scene: Scene) -> None:
        await scene.run(scene.part("a", "1.1.0", Better))
        assert [line for line in DIARY if line != "writer woken"] == [
            "a 1.0.0 hands over",
            "a 1.1.0 takes socket of a",
            "a 1.0.0 stops",
        ]

    story(play)


def test_state_migrates_up_and_down_and_what_the_old_shape_can_say_survives() -> None:
    async def play(scene: Scene) -> None:
        await scene.app.ask("a", "add", {"n": 3})
        assert (await scene.run(scene.part("a", "2.0.0", Reshaped))).result == "committed"
        assert await scene.app.ask("a", "add", {"n": 4}) == 7
        assert (await scene.run(scene.part("a", "1.0.1", Counter))).result == "committed"
        assert await scene.app.ask("a", "add", {"n": 1}) == 8

    story(play)


def test_several_modules_switch_together_or_not_at_all() -> None:
    class RefusesLate(Better):
        def take_over(self, resources: dict[str, Any]) -> None:
            raise OSError("port in use")

    async def play(scene: Scene) -> None:
        await scene.app.ask("a", "add", {"n": 1})
        outcome = await scene.run(scene.part("a", "1.1.0", Better), scene.part("b", "1.1.0", RefusesLate))
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "b 1.1.0: take_over() raised OSError: port in use" in outcome.reason
        assert scene.versions() == {"a": "1.0.0", "b": "1.0.0"}
        assert scene.log.kinds == ["Planned", "Prepared", "RolledBack"]
        assert await scene.app.ask("a", "add", {"n": 1}) == 2
        taken_back = [
            line for line in DIARY if line.endswith("1.0.0 takes socket of a") or "b 1.0.0 takes" in line
        ]
        assert taken_back == ["b 1.0.0 takes socket of b", "a 1.0.0 takes socket of a"]  # in reverse order
        assert (
            await scene.run(scene.part("a", "1.1.0", Better), scene.part("b", "1.1.0", Better))
        ).result == "committed"
        assert scene.versions() == {"a": "1.1.0", "b": "1.1.0"}

    story(play)


class RaisesInPrepare(Better):
    async def prepare(self) -> None:
        raise ValueError("no licence")


class ExitsInPrepare(Better):
    async def prepare(self) -> None:
        raise SystemExit(3)


class EndsInPrepare(Better):
    async def prepare(self) -> None:
        raise GeneratorExit


class HangsInPrepare(Better):
    async def prepare(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)  # does not leave at once


class SpinsInPrepare(Better):
    async def prepare(self) -> None:
        await asyncio.sleep(0)
        while True:
            pass


class RaisesInTakeOver(Better):
    def take_over(self, resources: dict[str, Any]) -> None:
        raise KeyError("socket")


class ExitsInTakeOver(Better):
    def take_over(self, resources: dict[str, Any]) -> None:
        raise SystemExit(1)


class SpinsInTakeOver(Better):
    def take_over(self, resources: dict[str, Any]) -> None:
        while True:
            try:
                while True:
                    pass
            except BaseException:  # the worst author there is
                if "again" in DIARY:
                    raise
                DIARY.append("again")


class NoSteps(Reshaped):
    state_version = 3


class OtherType(Counter):
    pass


class Wrong(Module[NewState]):
    """The same state version, another type."""

    @handles
    def add(self, n: int) -> int:
        return n


class RaisesInMigration(Reshaped):
    pass


@RaisesInMigration.migrates(1, 2)
def fails(old: dict[str, Any]) -> NewState:
    raise KeyError("total_count")


class Misfits(Reshaped):
    pass


@Misfits.migrates(1, 2)
def misfits(old: dict[str, Any]) -> Any:
    return {"total": "many", "seen": []}


BAD: dict[str, tuple[type[Module[Any]], str, str]] = {
    "prepare raises": (RaisesInPrepare, "release", r"a 1.1.0: prepare\(\) raised ValueError: no licence"),
    "prepare exits": (ExitsInPrepare, "release", r"a 1.1.0: prepare\(\) raised SystemExit: 3"),
    "prepare raises GeneratorExit": (EndsInPrepare, "release", r"a 1.1.0: .*code raised GeneratorExit"),
    "prepare hangs": (HangsInPrepare, "release", r"a 1.1.0: .*did not end within limits.load_s = 0.3 s"),
    "prepare spins": (
        SpinsInPrepare,
        "release",
        r"a 1.1.0: prepare\(\) held up the service and was interrupted after 300 ms",
    ),
    "take_over raises": (RaisesInTakeOver, "release", r"a 1.1.0: take_over\(\) raised KeyError: 'socket'"),
    "take_over exits": (ExitsInTakeOver, "release", r"a 1.1.0: take_over\(\) raised SystemExit: 1"),
    "take_over spins": (
        SpinsInTakeOver,
        "release",
        r"a 1.1.0: take_over\(\) was interrupted after 250 ms; it may take limits.pause_ms = 50",
    ),
    "a migration is missing": (NoSteps, "release", r"a 1.1.0: No migration leads from state version 1 to 3"),
    "the state does not fit": (Wrong, "release", r"a 1.1.0: .*missing required field `seen`"),
    "a migration raises": (
        RaisesInMigration,
        "release",
        r"a 1.1.0: migration raised KeyError: 'total_count'",
    ),
    "a migrated state does not fit": (
        Misfits,
        "release",
        r"a 1.1.0: migration: .*Expected `int`, got `str` - at `\$.total`",
    ),
}


def test_a_serving_version_that_spins_when_it_takes_back_or_stops_cannot_hold_the_host() -> None:
    class Stubborn(Counter):
        def take_over(self, resources: dict[str, Any]) -> None:
            while resources:
                pass

        async def stop(self) -> None:
            while True:
                pass

    async def play(scene: Scene) -> None:
        limits = Limits(load_s=0.2)
        await scene.run(scene.part("c", "1.0.0", Stubborn))
        assert (await scene.run(scene.part("c", "1.1.0", RaisesInTakeOver, limits))).result == "rolled_back"
        assert await scene.app.ask("c", "add", {"n": 1}) == 1
        assert (await scene.run(scene.part("c", "1.2.0", Better, limits))).result == "committed"
        assert await scene.app.ask("c", "add", {"n": 1}) == 11

    story(play)


@pytest.mark.parametrize("what", BAD)
def test_a_bad_version_leaves_everything_as_it_was(what: str) -> None:
    cls, fault, words = BAD[what]

    async def play(scene: Scene) -> None:
        await scene.app.ask("a", "add", {"n": 5})
        before = scene.app.modules["a"].implementation
        outcome = await scene.run(scene.part("a", "1.1.0", cls, Limits(load_s=0.3)))
        assert (outcome.result, outcome.fault) == ("rolled_back", fault)
        assert re.search(words, outcome.reason), outcome.reason
        assert scene.log.kinds[-1] == "RolledBack"
        assert not any(isinstance(fact, Committed) for fact in scene.log.facts)
        assert scene.app.modules["a"].implementation is before
        assert await scene.app.ask("a", "add", {"n": 1}) == 6
        assert (await scene.run(scene.part("a", "1.2.0", Better))).result == "committed"

    story(play)


def test_a_pause_over_the_budget_is_undone_and_is_the_fault_of_the_moment() -> None:
    class Slow(Better):
        def take_over(self, resources: dict[str, Any]) -> None:
            end = asyncio.get_running_loop().time() + 0.03
            while asyncio.get_running_loop().time() < end:
                pass

    async def play(scene: Scene) -> None:
        outcome = await scene.run(scene.part("a", "1.1.0", Slow, Limits(pause_ms=20.0)))
        assert (outcome.result, outcome.fault) == ("rolled_back", "moment")
        assert "over limits.pause_ms = 20" in outcome.reason
        assert scene.versions()["a"] == "1.0.0"
        record = scene.log.facts[-1]
        assert isinstance(record, RolledBack)
        assert record.pause_us > 20_000
        assert record.predicted_us is None, "nothing was migrated in a trial"

    story(play)


def test_a_pause_over_the_budget_is_recorded_with_what_was_predicted() -> None:
    class Slow(Better):
        def take_over(self, resources: dict[str, Any]) -> None:
            time.sleep(0.03)

    async def play(scene: Scene) -> None:
        part = scene.part("a", "1.1.0", Slow, Limits(pause_ms=20.0), found=TrialReport(b"", {}, 0.0015))
        outcome = await scene.run(part)
        assert (outcome.result, outcome.fault) == ("rolled_back", "moment")
        assert re.search(
            r"the switch took \d+\.\d ms, over .*; its migration was predicted at 1\.5 ms$", outcome.reason
        )
        record = scene.log.facts[-1]
        assert isinstance(record, RolledBack)
        assert record.pause_us > 20_000
        assert record.predicted_us == pytest.approx(1500)
        again = scene.part("a", "1.1.1", Better, Limits(), found=TrialReport(b"", {}, 0.0015))
        assert (await scene.run(again)).result == "committed"
        assert next(f for f in scene.log.facts if isinstance(f, Committed)).predicted_us == pytest.approx(
            1500
        )

    story(play)


def test_what_all_migrations_of_a_transaction_would_take_together_must_keep_within_the_shortest_budget() -> (
    None
):
    async def play(scene: Scene) -> None:
        found = TrialReport(b"", {}, 0.012)
        parts = [
            scene.part(name, "1.1.0", Better, Limits(pause_ms=ms), found=found)
            for name, ms in (("a", 20.0), ("b", 900.0))
        ]
        outcome = await scene.run(*parts)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "would take about 24.0 ms, over limits.pause_ms = 20" in outcome.reason
        assert scene.log.kinds == ["Planned", "RolledBack"]
        assert scene.versions() == {"a": "1.0.0", "b": "1.0.0"}

    story(play)


def test_a_unit_that_does_not_end_is_named_and_the_old_version_serves_on() -> None:
    async def play(scene: Scene) -> None:
        GATES["x"] = asyncio.Event()
        waiting = asyncio.ensure_future(scene.app.ask("a", "slow", {"gate": "x"}, timeout_s=30))
        await asyncio.sleep(0)
        outcome = await scene.run(scene.part("a", "1.1.0", Better, Limits(drain_s=0.2)))
        assert (outcome.result, outcome.fault) == ("rolled_back", "moment")
        assert "a in 'slow'" in outcome.reason
        GATES["x"].set()
        assert await waiting == 1
        assert await scene.app.ask("a", "add", {"n": 1}) == 2

    story(play)


def test_messages_that_come_during_the_drain_are_handled_by_the_new_version_in_order() -> None:
    async def play(scene: Scene) -> None:
        GATES["x"] = asyncio.Event()
        first = asyncio.ensure_future(scene.app.ask("a", "slow", {"gate": "x"}, timeout_s=30))
        await asyncio.sleep(0)
        swap = asyncio.ensure_future(scene.run(scene.part("a", "1.1.0", Better)))
        held = scene.app.modules["a"]
        while held.held is None:
            await asyncio.sleep(0.001)
        asks = [asyncio.ensure_future(scene.app.ask("a", "add", {"n": n}, timeout_s=30)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        GATES["x"].set()
        outcome = await swap
        assert outcome.pause.held_messages == 3
        assert [await first, *[await ask for ask in asks]] == [1, 11, 31, 61]

    story(play)


@pytest.mark.parametrize("kind", [Planned, Prepared, Committed])
def test_a_journal_that_fails_before_the_decision_changes_nothing(kind: type) -> None:
    async def play(scene: Scene) -> None:
        scene.log.fails_at = kind
        try:
            outcome = await scene.run(scene.part("a", "1.1.0", Better), scene.part("b", "1.1.0", Better))
        except JournalFailed:
            assert kind is Planned
        else:
            assert (outcome.result, outcome.fault) == ("rolled_back", "moment")
        assert scene.versions() == {"a": "1.0.0", "b": "1.0.0"}
        assert await scene.app.ask("a", "add", {"n": 1}) == 1

    story(play)


def test_a_decision_that_does_not_reach_the_disk_is_in_doubt_and_the_new_versions_serve_on() -> None:
    async def play(scene: Scene) -> None:
        scene.log.not_durable = Committed
        outcome = await scene.run(scene.part("a", "1.1.0", Better))
        assert outcome.result == "in_doubt"
        assert scene.versions()["a"] == "1.1.0"
        assert not any(isinstance(fact, (Confirmed, RolledBack)) for fact in scene.log.facts)

    story(play)


def test_the_writer_is_woken_after_the_pause_not_in_it() -> None:
    async def play(scene: Scene) -> None:
        woken_while_held = []
        wake = scene.log.wake

        def woken() -> None:
            woken_while_held.append(scene.app.quiesce is not None)
            wake()

        scene.log.wake = woken
        await scene.run(scene.part("a", "1.1.0", Better))
        assert woken_while_held == [False]

    story(play)


def test_a_stop_of_the_host_before_the_switch_rolls_back() -> None:
    async def play(scene: Scene) -> None:
        GATES["x"] = asyncio.Event()
        waiting = asyncio.ensure_future(scene.app.ask("a", "slow", {"gate": "x"}, timeout_s=30))
        await asyncio.sleep(0)
        swap = asyncio.ensure_future(scene.run(scene.part("a", "1.1.0", Better)))
        while scene.app.modules["a"].held is None:
            await asyncio.sleep(0.001)
        swap.cancel()
        outcome = await swap
        assert (outcome.result, outcome.reason) == ("rolled_back", "the host is stopping")
        assert scene.app.modules["a"].held is None
        GATES["x"].set()
        assert await waiting == 1

    story(play)


def test_a_module_that_is_removed_leaves_its_waiting_messages_in_the_dead_letters() -> None:
    async def play(scene: Scene) -> None:
        GATES["x"] = asyncio.Event()
        first = asyncio.ensure_future(scene.app.ask("a", "slow", {"gate": "x"}, timeout_s=30))
        await asyncio.sleep(0)
        await scene.app.send("a", "add", {"n": 1})
        swap = asyncio.ensure_future(scene.run(scene.part("a", "", None)))
        while scene.app.modules["a"].held is None:
            await asyncio.sleep(0.001)
        GATES["x"].set()
        assert await first == 1
        assert (await swap).result == "committed"
        assert list(scene.app.modules) == ["b"]
        assert [(letter.module, letter.message.type) for letter in scene.app.letters] == [("a", "add")]

    story(play)


def test_two_modules_cannot_have_one_name() -> None:
    async def play(scene: Scene) -> None:
        part = scene.part("c", "1.0.0", Counter)
        named = Entry("c", "c", "1.0.0", "c/v1.0.0", "", "", "", also=("a",))
        part.change = Change("c", None, named)
        outcome = await scene.run(part)
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "the name 'a' would stand for a and for c" in outcome.reason

    story(play)


def test_a_fault_of_the_host_ends_on_record_and_the_next_transaction_runs(tmp_path: Path) -> None:
    """Without its end on record, the journal would take no transaction any more and no host could start on it."""

    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db", time.time)
        try:
            scene = Scene(Application(), Book(journal))
            failed = await scene.run(scene.part("a", "1.0.0", Counter, try_out=OSError(24, "too many files")))
            assert (failed.result, failed.fault) == ("rolled_back", "moment")
            assert "too many files" in failed.reason
            done = await scene.run(scene.part("a", "1.0.0", Counter))
            assert done.result == "committed"
        finally:
            await asyncio.to_thread(journal.close)
            for proxy in scene.app.modules.values():
                await proxy.close("end of the test")
        reopened = Journal.open(tmp_path / "journal.db", time.time)
        try:
            assert set(fold(reopened.records()).table) == {"a"}
        finally:
            reopened.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Planned, Prepared, Committed, Confirmed])
def test_a_stop_of_the_host_at_any_record_ends_whole_and_is_on_record(kind: type) -> None:
    """A stop while a record is on its way to the disk: the outcome is returned, and the records tell it."""

    async def play(scene: Scene) -> None:
        scene.log.gate, scene.log.held_at = asyncio.Event(), kind
        running = asyncio.ensure_future(
            scene.run(scene.part("a", "2.0.0", Better), scene.part("b", "2.0.0", None))
        )
        await until(lambda: kind.__name__ in scene.log.kinds)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # once more, while it ends
        await asyncio.sleep(0)
        scene.log.gate.set()
        await until(running.done)
        decided = kind in {Committed, Confirmed}
        assert scene.log.kinds[-1] == ("Confirmed" if decided else "RolledBack")
        assert scene.versions() == ({"a": "2.0.0"} if decided else {"a": "1.0.0", "b": "1.0.0"})

    story(play)


class _VotesNo(Better):
    async def prepare(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")


class _RefusesInTheSwitch(Better):
    def take_over(self, resources: dict[str, Any]) -> None:
        raise ValueError("no")


@pytest.mark.parametrize("cls", [_VotesNo, _RefusesInTheSwitch])
def test_a_stop_of_the_host_at_any_turn_leaves_no_error_that_nobody_looks_at(cls: type[Counter]) -> None:
    """A stop in the very turn in which the release fails: asyncio would report an exception never retrieved."""
    forgotten: list[str] = []

    async def play(scene: Scene) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: forgotten.append(said["message"]))
        for turns in range(25):
            running = asyncio.ensure_future(scene.run(scene.part("a", "2.0.0", cls)))
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
            assert scene.log.kinds[-1] == "RolledBack"
            assert scene.versions() == {"a": "1.0.0", "b": "1.0.0"}
            del running
            gc.collect()
            await asyncio.sleep(0)

    story(play)
    assert not forgotten


def test_a_stop_of_the_host_at_any_turn_leaves_all_old_or_all_new_and_the_records_say_which() -> None:
    ends: list[str] = []

    async def play(scene: Scene) -> None:
        while ends.count("committed") < 5:
            old, new = scene.versions(), dict.fromkeys(("a", "b"), f"2.{len(ends)}.0")
            parts = [scene.part(name, version, Better) for name, version in new.items()]
            ends.append((await scene.run(*parts, stop_at=len(ends) + 1)).result)
            decided = ends[-1] == "committed"
            assert scene.versions() == (new if decided else old)
            assert scene.log.kinds[-1] == ("Confirmed" if decided else "RolledBack")

    story(play)
    assert ends == sorted(ends, reverse=True)
    assert ends[0] == "rolled_back"


def test_in_doubt_it_is_the_old_version_that_stops() -> None:
    async def play(scene: Scene) -> None:
        scene.log.not_durable = Committed
        await scene.run(scene.part("a", "1.1.0", Better))
        assert "a 1.0.0 stops" in DIARY
        assert "a 1.1.0 stops" not in DIARY

    story(play)


def test_the_drain_ends_at_the_shortest_deadline_of_the_participants() -> None:
    async def play(scene: Scene) -> None:
        GATES["gate"] = asyncio.Event()
        slow = asyncio.ensure_future(scene.app.ask("b", "slow", {"gate": "gate"}))
        await until(lambda: scene.app.modules["b"].unit)
        parts = [
            scene.part(name, "1.1.0", Better, Limits(drain_s=drain_s))
            for name, drain_s in (("a", 0.05), ("b", 60.0))
        ]
        outcome = await asyncio.wait_for(scene.run(*parts), 5.0)
        assert outcome.fault == "moment"
        GATES["gate"].set()
        assert await slow == 1

    story(play)


def test_what_was_kept_for_a_module_serves_once_and_is_used_up_in_the_same_breath() -> None:
    async def play(scene: Scene) -> None:
        kept = KeptState(
            1, PLAIN_STATE.encode({"total": 5}), (Message("add", {"n": 1}), Message("add", {"n": 2}))
        )
        part = scene.part("c", "1.0.0", Counter, Limits(mailbox_messages=1))
        outcome = await scene.run(Participant(scene.app, part.change, part.incoming, kept))
        assert outcome.result == "committed"
        assert scene.log.facts[2:3] == [Committed(1 + 1, outcome.pause.pause_us, 0, images_used=("c",))]
        await idle(scene.app)
        assert state_of(scene.app, "c") == {"total": 8}
        assert scene.app.modules["c"].mailbox.limit == 1

    story(play)


class _StepsOfItsOwn(Counter):
    """The leaving version knows a step of the way up that was never right."""


@_StepsOfItsOwn.migrates(1, 2)
def _wrong(old: dict[str, Any]) -> dict[str, Any]:
    return {"total": -1, "seen": []}


class _Loose(Module[dict[str, int | None]]):
    @handles
    def put(self, n: int | None) -> None:
        self.state["n"] = n


class _Strict(Module[dict[str, int]]):
    async def prepare(self) -> None:
        await GATES["gate"].wait()


class _OtherType(Module[dict[str, str]]):
    def initial_state(self) -> dict[str, str]:
        return {}


def test_where_both_versions_know_a_step_that_of_the_new_one_is_taken() -> None:
    async def play(scene: Scene) -> None:
        await scene.run(scene.part("a", "1.1.0", _StepsOfItsOwn))
        await scene.app.ask("a", "add", {"n": 3})
        assert (await scene.run(scene.part("a", "2.0.0", Reshaped))).result == "committed"
        assert state_of(scene.app, "a") == {"total": 3, "seen": []}

    story(play)


def test_a_type_that_changed_under_the_same_state_version_is_found_before_the_switch() -> None:
    async def play(scene: Scene) -> None:
        outcome = await scene.run(scene.part("a", "1.1.0", _OtherType))
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "Expected `str`, got `int`" in outcome.reason
        assert "Prepared" not in scene.log.kinds

    story(play)


def test_a_limit_of_the_mailbox_goes_with_its_version() -> None:
    async def play(scene: Scene) -> None:
        await scene.run(scene.part("a", "1.1.0", Better, Limits(mailbox_messages=7)))
        assert scene.app.modules["a"].mailbox.limit == 7

    story(play)


def test_a_state_that_stops_to_fit_after_the_check_is_not_given_to_the_new_version() -> None:
    async def play(scene: Scene) -> None:
        await scene.run(scene.part("a", "1.0.1", None))
        await scene.run(scene.part("a", "1.1.0", _Loose))
        GATES["gate"] = asyncio.Event()
        part = scene.part("a", "1.2.0", _Strict)
        running = asyncio.ensure_future(scene.run(part))
        await until(lambda: part.new)
        await scene.app.ask("a", "put", {"n": None})
        GATES["gate"].set()
        outcome = await running
        assert (outcome.result, outcome.fault) == ("rolled_back", "release")
        assert "Expected `int`, got `None`" in outcome.reason
        assert scene.versions()["a"] == "1.1.0"

    story(play)


class _Reads(Plain):
    @intake
    async def item(self) -> dict[str, Any]:
        return {"n": await QUEUES["items"].get(), "by": self.version}

    @handles("item")
    def take(self, n: int, by: str) -> None:
        self.state.setdefault("got", []).append([n, by])


class _ReadsOn(_Reads):
    def take_over(self, resources: dict[str, Any]) -> None:
        asyncio.get_running_loop().call_soon(QUEUES["items"].put_nowait, 2)


def test_what_comes_right_after_the_switch_is_read_by_the_new_version() -> None:
    """The old version's intakes must not run any more once it has handed over what they read from."""

    async def play(scene: Scene) -> None:
        QUEUES["items"] = asyncio.Queue()
        await scene.run(scene.part("a", "1.0.1", None))
        await scene.run(scene.part("a", "1.1.0", _Reads))
        QUEUES["items"].put_nowait(1)
        await until(lambda: "got" in state_of(scene.app, "a"))
        await scene.run(scene.part("a", "1.2.0", _ReadsOn))
        await until(lambda: len(state_of(scene.app, "a")["got"]) > 1)
        assert state_of(scene.app, "a")["got"] == [[1, "1.1.0"], [2, "1.2.0"]]

    story(play)


class _Clings(Plain):
    @intake
    async def item(self) -> None:
        while not GATES["end"].is_set():
            with suppress(asyncio.CancelledError):
                await GATES["end"].wait()


def test_nobody_waits_for_a_module_that_is_slow_to_leave() -> None:
    """Neither the decision on its way to the disk nor the modules that came with it."""

    async def play(scene: Scene) -> None:
        GATES["end"] = asyncio.Event()
        await scene.run(scene.part("a", "1.0.1", None))
        await scene.run(scene.part("a", "1.1.0", _Clings))
        await asyncio.sleep(0)
        DIARY.clear()
        running = asyncio.ensure_future(
            scene.run(scene.part("a", "1.1.0", None), scene.part("c", "1.0.0", Counter))
        )
        await until(lambda: "c" in scene.app.modules)
        await scene.app.send("c", "add", {"n": 1})
        try:
            await until(lambda: state_of(scene.app, "c") == {"total": 1}, 0.5)
            assert "writer woken" in DIARY
            assert not running.done()
        finally:
            GATES["end"].set()
        assert (await running).result == "committed"

    story(play)


class _Collects(Counter):
    """Says whether Python may collect by itself while it takes over."""

    def take_over(self, resources: dict[str, Any]) -> None:
        del resources
        COLLECTS.append(gc.isenabled())
        if self.version == "2.0.0":
            raise ValueError("not now")


COLLECTS: list[bool] = []


def test_python_collects_nothing_in_a_switch_and_goes_on_after_it_however_it_ends() -> None:
    async def play(scene: Scene) -> None:
        COLLECTS.clear()
        ends = [
            (await scene.run(scene.part("c", version, _Collects))).result
            for version in ("1.0.0", "2.0.0", "3.0.0")
        ]
        assert ends == ["committed", "rolled_back", "committed"]
        assert COLLECTS
        assert not any(COLLECTS)
        assert gc.isenabled()

    story(play)
