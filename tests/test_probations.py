"""Probations as they go on: what is watched, what passes, what stays open, and who ends it (DESIGN §7.7)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from livetag import Module, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import HandlerFailed
from orchestrator.runtime.figures import Terms
from orchestrator.testing.clock import FakeClock
from orchestrator.testing.memory import ClassSource, entry_of
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.incoming import Incoming
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.probations import Probations
from orchestrator.upgrade.progress import Event, Progress
from orchestrator.upgrade.records import Change, Entry, Fact, Planned
from orchestrator.upgrade.source import incoming_release, unwatched
from orchestrator.upgrade.transaction import UpgradeTransaction
from repo_store.manifest import Limits, ModuleManifest, TrialSection, parse_host
from tests.runtime_kit import Plain, idle, state_of, until

TERMS = Terms(seconds=10.0, min_messages=20, self_test_s=2.0)


class First(Plain):
    def initial_state(self) -> dict[str, Any]:
        return {"total": 0}

    @handles
    def add(self, n: int = 1) -> int:
        if n < 0:
            raise ValueError("less than nothing")
        self.state["total"] += n
        return int(self.state["total"])


class Second(First): ...


class Third(First): ...


class Tested(First):
    said = ""

    async def self_test(self) -> None:
        if self.state["total"] > 100:
            raise ValueError("the books do not balance")
        if self.state["total"] == 50:
            await asyncio.Event().wait()
        if self.state["total"] == 60:
            raise SystemExit(3)


class Place:
    """An application over a real journal, with a clock that stands until it is told."""

    def __init__(self, journal: Journal) -> None:
        self.clock = FakeClock()
        self.app = Application(self.clock)
        self.book = Book(journal)
        self.told: list[Event] = []
        progress = Progress()
        self._listening = progress.listening(self.told.append)
        self._listening.__enter__()
        self.probations = Probations(self.app, self.book, progress)

    async def deploy(
        self, cls: type[Module[Any]], terms: Terms = TERMS, names: tuple[str, ...] = ("counter",)
    ) -> int:
        """Bring a class into service under these names, in one transaction; returns its number."""
        txn, table = self.book.ledger.next_txn, self.book.ledger.table
        changes = tuple(Change(name, table.get(name), entry(name, cls)) for name in names)
        incoming = Incoming(ClassSource(cls), Limits(), {}, terms=terms)
        parts = [Participant(self.app, change, incoming) for change in changes]
        planned = Planned(txn, changes, f"counter/v{txn}.0.0", "ada", why="a reason")
        transaction = UpgradeTransaction(
            self.app,
            planned,
            parts,
            self.book,
            why="a reason",
            on_probation=lambda: self.probations.begin(txn),
        )
        outcome = await transaction.run()
        assert outcome.result == "committed", outcome.reason
        await transaction.retire(outcome)
        return txn

    async def pass_s(self, seconds: int) -> None:
        """Let so many seconds pass, with a look at the end of each."""
        for _ in range(seconds):
            await self.clock.advance(1.0, self._settle)
            await self.probations.look()
            await self._settle()

    async def _settle(self) -> None:
        for _ in range(100):  # turns of the loop: a self_test takes some, and no clock goes on meanwhile
            await asyncio.sleep(0)

    async def handle(self, count: int, n: int = 1) -> None:
        for _ in range(count):
            await self.app.send("counter", "add", {"n": n})
        await idle(self.app)

    @property
    def facts(self) -> list[Fact]:
        return [record.fact for record in self.book.journal.records()]

    def phase(self, txn: int) -> Phase:
        return self.book.ledger.transactions[txn].phase

    def judged(self, txn: int) -> str:
        return self.book.ledger.transactions[txn].judged


def entry(name: str, cls: type[Module[Any]]) -> Entry:
    import msgspec

    return msgspec.structs.replace(entry_of(name, cls), package="counter", commit_id=cls.__name__)


def story(folder: Path, tell: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        journal = Journal.open(folder / "journal.db", lambda: 1.0)
        place = Place(journal)
        try:
            await tell(place)
        finally:
            for proxy in place.app.modules.values():
                await proxy.close("the test is over")
            journal.close()

    asyncio.run(main())


def test_what_comes_first_has_no_probation_and_what_replaces_it_has(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        first = await place.deploy(First)
        assert place.phase(first) is Phase.CONFIRMED
        second = await place.deploy(Second)
        assert place.phase(second) is Phase.COMMITTED
        assert [view.id for view in place.book.ledger.in_probation] == [second]
        assert place.book.ledger.confirmed["counter"].version == "First"
        assert place.book.ledger.transactions[second].reason == "a reason"

    story(tmp_path, tell)


def test_it_passes_when_its_time_is_over_and_enough_was_handled(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        begun = place.probations.facts("counter")
        assert begun is not None
        assert begun["reason"] == "it has just begun"
        await place.handle(25)
        await place.pass_s(9)
        assert place.phase(second) is Phase.COMMITTED
        await place.pass_s(1)
        assert place.phase(second) is Phase.CONFIRMED
        assert place.judged(second).startswith("passed: counter: 25 messages, none failed, p99 ")
        assert place.book.ledger.confirmed["counter"].version == "Second"
        assert [event.phase for event in place.told] == ["confirmed"]
        assert place.probations.facts("counter") is None

    story(tmp_path, tell)


def test_too_little_is_inconclusive_and_stays_so_until_enough_came(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.handle(3)
        await place.pass_s(30)
        facts = place.probations.facts("counter")
        assert facts is not None
        assert (facts["verdict"], facts["messages"], facts["errors"]) == ("inconclusive", 3, 0)
        assert "min_messages = 20" in facts["reason"]
        assert [event.phase for event in place.told] == ["inconclusive"]  # told once
        assert "livetag confirm counter" in place.told[0].text
        await place.handle(17)
        await place.pass_s(1)
        assert place.phase(second) is Phase.CONFIRMED

    story(tmp_path, tell)


def test_a_death_of_the_host_is_held_against_it_until_it_is_inconclusive(tmp_path: Path) -> None:
    from orchestrator.upgrade.records import HostStarted, Record

    def deaths(place: Place) -> int:
        ledger = place.book.ledger
        for _ in range(2):
            ledger = ledger.apply(Record(ledger.seq + 1, 1.0, HostStarted(1, "x"), b""))
        return sum(ledger.deaths.values())

    async def tell(place: Place) -> None:
        await place.deploy(First)
        await place.deploy(Second)
        assert deaths(place) == 1
        await place.pass_s(11)
        assert deaths(place) == 0

    story(tmp_path, tell)


def test_a_person_ends_it(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        confirmed = await place.probations.confirm("counter", "confirmed by os:ada: it is quiet at night")
        assert confirmed is not None
        assert confirmed.id == second
        assert place.judged(second) == "confirmed by os:ada: it is quiet at night"
        assert (
            place.book.ledger.transactions[second].reason == "a reason"
        )  # the history in Git tells it by that
        assert await place.probations.confirm("counter", "again") is None
        await place.pass_s(20)
        assert [type(fact).__name__ for fact in place.facts].count("Confirmed") == 2

    story(tmp_path, tell)


def test_the_next_transaction_takes_all_modules_of_the_probation_over(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        both = ("counter", "other")
        await place.deploy(First, names=both)
        second = await place.deploy(Second, names=both)
        await place.handle(25)
        await place.pass_s(9)
        third = await place.deploy(Third)
        assert place.book.ledger.transactions[third].covers == (second,)
        await place.pass_s(9)
        assert place.phase(third) is Phase.COMMITTED
        confirmed = place.book.ledger.confirmed
        assert {name: confirmed[name].version for name in both} == {"counter": "First", "other": "First"}
        await place.handle(25)
        for _ in range(25):
            await place.app.send("other", "add", {"n": 1})
        await place.pass_s(1)
        assert place.phase(third) is Phase.CONFIRMED
        confirmed = place.book.ledger.confirmed
        assert {name: confirmed[name].version for name in both} == {"counter": "Third", "other": "Second"}

    story(tmp_path, tell)


def test_what_goes_back_to_what_has_passed_needs_no_probation(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        await place.deploy(Second)
        back = await place.deploy(First)
        assert place.phase(back) is Phase.CONFIRMED
        assert place.app.modules["counter"].vitals.slow_s is None
        assert place.book.ledger.in_probation == ()

    story(tmp_path, tell)


def test_one_that_asks_for_none_is_confirmed_at_once(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First, Terms())
        second = await place.deploy(Second, Terms())
        assert place.phase(second) is Phase.CONFIRMED

    story(tmp_path, tell)


def test_a_start_of_the_host_watches_anew_from_zero(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.handle(25)
        await place.pass_s(9)
        again = place.probations = Probations(place.app, place.book, Progress())
        again.resume()
        await place.pass_s(9)
        assert place.phase(second) is Phase.COMMITTED
        await place.pass_s(1)
        assert place.phase(second) is Phase.CONFIRMED

    story(tmp_path, tell)


def test_one_that_was_inconclusive_before_a_start_passes_as_soon_as_enough_came(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.pass_s(11)
        place.probations = Probations(place.app, place.book, Progress())
        place.probations.resume()
        await place.handle(20)
        await place.pass_s(1)
        assert place.phase(second) is Phase.CONFIRMED

    story(tmp_path, tell)


def test_a_self_test_runs_each_second_and_is_waited_for(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Tested)
        await place.handle(25)
        await place.pass_s(10)
        assert place.phase(second) is Phase.CONFIRMED
        proxy = place.app.modules["counter"]
        assert (proxy.handled, proxy.dead, len(place.app.letters)) == (25, 0, 0)

    story(tmp_path, tell)


def test_what_a_self_test_said_keeps_no_version_that_has_left(tmp_path: Path) -> None:
    """The next one has no test of its own to say anything in its place, and its probation may last."""

    async def tell(place: Place) -> None:
        for cls in (First, Tested):
            await place.deploy(cls)
        tested = weakref.ref(place.app.modules["counter"].implementation)
        await place.pass_s(2)
        await place.deploy(Third)
        await place.pass_s(2)
        gc.collect()
        assert tested() is None, gc.get_referrers(tested())

    story(tmp_path, tell)


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (101, "counter: self_test() raised ValueError: the books do not balance"),
        (50, "counter: self_test() did not end within limits.load_s = 2 s"),
        (60, "counter: self_test() raised SystemExit: 3"),
    ],
)
def test_what_a_self_test_says_against_it_is_a_breach(tmp_path: Path, total: int, said: str) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Tested)
        await place.handle(1, total)
        await place.pass_s(6)
        breach = place.book.ledger.transactions[second].breach
        assert breach is not None
        assert breach.reason.startswith(said)
        assert len(place.app.letters) == 0
        assert state_of(place.app, "counter")["total"] == total

    story(tmp_path, tell)


def test_a_breach_is_recorded_once_with_the_quarantine_before_it(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        woken: list[str] = []
        place.probations.on_breach = lambda: woken.append("look")
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.handle(5)
        with pytest.raises(HandlerFailed):
            await place.app.ask("counter", "add", {"n": -1})
        await place.pass_s(3)
        kinds = [type(fact).__name__ for fact in place.facts]
        assert kinds[-2:] == ["Quarantined", "Breached"]
        breach = place.book.ledger.transactions[second].breach
        assert breach is not None
        assert breach.reason == "counter: 1 of 6 messages failed, over probation.max_error_rate = 0.01"
        assert list(place.book.ledger.quarantine) == [("counter", "Second")]
        assert woken == ["look"]
        await until(lambda: place.told)
        assert place.told[0].phase == "breach"

    story(tmp_path, tell)


def test_one_that_can_not_go_back_only_calls_a_person(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        terms = Terms(seconds=10.0, min_messages=20, one_way=True)
        second = await place.deploy(Second, terms)
        await place.handle(2, -1)
        await place.pass_s(1)
        view = place.book.ledger.transactions[second]
        assert view.degraded is not None
        assert "one_way" in view.degraded.reason
        assert not place.book.ledger.quarantine
        assert place.book.ledger.going_back == ()
        facts: Mapping[str, Any] | None = place.probations.facts("counter")
        assert facts is not None
        assert facts["verdict"] == "degraded"
        assert await place.probations.confirm("counter", "it is as good as it gets") is not None
        assert place.phase(second) is Phase.CONFIRMED

    story(tmp_path, tell)


def test_the_terms_are_those_of_module_toml_unless_the_host_watches_nothing(tmp_path: Path) -> None:
    made = entry("counter", First)
    asked = ModuleManifest(one_way=True, limits=Limits(load_s=3.0))
    terms = incoming_release(tmp_path, made, asked, TrialSection()).terms
    assert terms == Terms(30.0, 100, 0.01, 100.0, one_way=True, self_test_s=3.0)
    assert unwatched(tmp_path, made, asked, TrialSection()).terms == Terms()
    assert parse_host(b"", "livetag.toml").host.probation
    assert not parse_host(b"[host]\nprobation = false\n", "livetag.toml").host.probation


def test_a_way_back_that_fails_for_the_moment_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.handle(2, -1)
        await place.pass_s(1)
        (view,) = place.probations.due()
        assert view.id == second
        assert place.probations.keeps(["counter"])
        assert not place.probations.keeps(["other"])
        for delay in (1.0, 10.0, 60.0):
            await place.probations.failed(view, "no boundary in 5 s", "moment")
            assert place.probations.next_due == place.clock.now() + delay
            assert place.probations.due() == []
            await place.pass_s(int(delay))
            assert [each.id for each in place.probations.due()] == [second]
        assert list(place.book.ledger.quarantine) == [("counter", "Second")]
        await place.probations.failed(view, "no boundary in 5 s", "moment")
        degraded = place.book.ledger.transactions[second].degraded
        assert degraded is not None
        assert (
            "no boundary in 5 s. It breached its probation: counter: 2 of 2 messages failed"
            in degraded.reason
        )
        assert place.probations.next_due is None
        assert not place.probations.keeps(["counter"])
        assert not place.book.ledger.quarantine  # it serves on, and its tag asks for what serves

    story(tmp_path, tell)


def test_a_way_back_that_the_old_version_refuses_is_given_up_at_once(tmp_path: Path) -> None:
    async def tell(place: Place) -> None:
        await place.deploy(First)
        second = await place.deploy(Second)
        await place.handle(2, -1)
        await place.pass_s(1)
        (view,) = place.probations.due()
        await place.probations.failed(view, "prepare() raised OSError", "release")
        assert place.book.ledger.transactions[second].degraded is not None
        assert place.told[-1].phase == "degraded"
        assert "a person has to decide" in place.told[-1].text

    story(tmp_path, tell)
