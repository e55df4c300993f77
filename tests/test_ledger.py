"""The ledger is a pure fold over the journal's records."""

import gc
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.upgrade.errors import IllegalTransition
from orchestrator.upgrade.ledger import Ledger, TagPin, fold
from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.phases import UNFINISHED, Phase
from orchestrator.upgrade.records import (
    Breached,
    Change,
    Committed,
    Confirmed,
    Degraded,
    Entry,
    Fact,
    HostStarted,
    HostStopped,
    ImageSaved,
    ImageUsed,
    Inconclusive,
    Lifted,
    Planned,
    Prepared,
    Quarantined,
    Record,
    RollbackAsked,
    RolledBack,
    TagMoved,
    Unchanged,
)


def records(facts: Sequence[Fact]) -> list[Record]:
    return [Record(seq, 1000.0 + seq, fact, b"") for seq, fact in enumerate(facts, start=1)]


def read(*facts: Fact) -> Ledger:
    return fold(records(facts))


def entry(name: str, version: str, tag: str = "") -> Entry:
    tag = tag or f"{name}/v{version}"
    return Entry(name, name, version, tag, f"commit-{version}", f"tree-{name}-{version}", f"object-{tag}")


def planned(txn: int, *changes: tuple[Entry | None, Entry | None], reverts: int | None = None) -> Planned:
    return Planned(txn, tuple(change(*each) for each in changes), "push", "ann", reverts)


def change(before: Entry | None, after: Entry | None) -> Change:
    named = after or before
    assert named is not None
    return Change(named.name, before, after)


A1, A2, A3, B1, B2 = (
    entry("a", "1.0.0"),
    entry("a", "2.0.0"),
    entry("a", "3.0.0"),
    entry("b", "1.0.0"),
    entry("b", "2.0.0"),
)
FIRST = (planned(1, (None, A1), (None, B1)), Prepared(1), Committed(1, 7.5, 3), Confirmed(1, "passed"))
DIED = RolledBack(2, "the host died", "died")


def test_an_empty_journal_is_an_empty_table() -> None:
    ledger = read()
    assert ledger == Ledger()
    assert (dict(ledger.table), ledger.next_txn, ledger.unfinished) == ({}, 1, None)


def test_a_transaction_is_in_the_table_from_committed_on_and_not_before() -> None:
    tables = [dict(read(*FIRST[:count]).table) for count in range(5)]
    assert tables == [{}, {}, {}, {"a": A1, "b": B1}, {"a": A1, "b": B1}]
    assert [dict(read(*FIRST[:count]).confirmed) for count in (3, 4)] == [{}, {"a": A1, "b": B1}]


def test_a_view_tells_what_happened() -> None:
    view = read(*FIRST).transactions[1]
    assert (view.phase, view.outcome, view.reason) == (Phase.CONFIRMED, "committed", "passed")
    assert (view.pause_us, view.held_messages, view.trigger, view.who) == (7.5, 3, "push", "ann")
    assert (view.at, view.seq, view.ended_at, view.ended_seq) == (1001.0, 1, 1003.0, 3)


def test_a_rolled_back_transaction_leaves_the_table_as_it_was() -> None:
    before = read(*FIRST)
    for voted in ((), (Prepared(2),)):
        after = read(
            *FIRST, planned(2, (A1, A2)), *voted, RolledBack(2, "prepare() raised", "release", 1.5, 2)
        )
        assert (after.table, after.confirmed, after.deaths) == (before.table, before.confirmed, before.deaths)
        view = after.transactions[2]
        assert (view.outcome, view.reason, view.fault) == ("rolled_back", "prepare() raised", "release")
        assert (view.pause_us, view.held_messages, view.ended_seq) == (1.5, 2, after.seq)
        assert after.unfinished is None


def test_modules_are_added_swapped_and_removed_by_one_transaction() -> None:
    c1 = entry("c", "1.0.0")
    ledger = read(*FIRST, planned(2, (A1, A2), (B1, None), (None, c1)), Prepared(2), Committed(2, 1.0, 0))
    assert dict(ledger.table) == {"a": A2, "c": c1}
    assert dict(ledger.confirmed) == {"a": A1, "b": B1}
    ledger = ledger.apply(Record(ledger.seq + 1, 9.0, Confirmed(2, "ok"), b""))
    assert dict(ledger.confirmed) == {"a": A2, "c": c1}


def test_the_unfinished_transaction_is_known_with_its_phase() -> None:
    started = read(*FIRST, planned(2, (A1, A2)))
    assert started.unfinished is started.transactions[2]
    assert started.next_txn == 3
    voted = read(*FIRST, planned(2, (A1, A2)), Prepared(2))
    assert voted.unfinished is not None
    assert voted.unfinished.phase is Phase.PREPARED


def test_a_newer_transaction_takes_over_the_whole_probation_it_touches() -> None:
    both = (planned(2, (A1, A2), (B1, B2)), Prepared(2), Committed(2, 1.0, 0))
    newer = (planned(3, (A2, A3)), Prepared(3), Committed(3, 1.0, 0))
    ledger = read(*FIRST, *both)
    assert [(view.id, view.probation) for view in ledger.in_probation] == [(2, ("a", "b"))]
    ledger = read(*FIRST, *both, *newer)
    assert [(view.id, view.probation) for view in ledger.in_probation] == [(3, ("a", "b"))]
    assert dict(ledger.confirmed) == {"a": A1, "b": B1}
    late = read(*FIRST, *both, *newer, Confirmed(2, "its own timer"))
    assert dict(late.confirmed) == {"a": A1, "b": B1}  # 2.0.0 of a was replaced unproven
    done = read(*FIRST, *both, *newer, Confirmed(3, "ok"))
    assert dict(done.confirmed) == {"a": A3, "b": B2}
    assert done.in_probation == ()


def test_probations_of_other_modules_are_left_alone() -> None:
    ledger = read(
        *FIRST,
        *(planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0)),
        *(planned(3, (B1, B2)), Prepared(3), Committed(3, 1.0, 0)),
        Confirmed(3, "ok"),
    )
    assert [(view.id, view.probation) for view in ledger.in_probation] == [(2, ("a",))]
    assert dict(ledger.confirmed) == {"a": A1, "b": B2}


def test_a_way_back_marks_what_it_took_back() -> None:
    ledger = read(
        *FIRST,
        *(planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0)),
        *(planned(3, (A2, A1), reverts=2), Prepared(3)),
    )
    assert ledger.transactions[2].outcome == "committed"
    ledger = ledger.apply(Record(ledger.seq + 1, 9.0, Committed(3, 1.0, 0), b""))
    assert [view.outcome for view in ledger.transactions.values()] == ["committed", "reverted", "committed"]
    assert dict(ledger.table) == {"a": A1, "b": B1}


def test_unchanged_renames_rows_and_what_was_confirmed_stays_confirmed() -> None:
    renamed = entry("a", "1.0.0", "a/v4.0.0")
    ledger = read(*FIRST, Unchanged(2, (change(A1, renamed),), "push", "bob"))
    assert dict(ledger.table) == {"a": renamed, "b": B1}
    assert dict(ledger.confirmed) == {"a": renamed, "b": B1}
    view = ledger.transactions[2]
    assert (view.outcome, view.who, ledger.next_txn, ledger.unfinished) == ("unchanged", "bob", 3, None)

    unproven = (planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0))
    again = entry("a", "2.0.0", "a/v5.0.0")
    ledger = read(*FIRST, *unproven, Unchanged(3, (change(A2, again),)))
    assert (ledger.table["a"], ledger.confirmed["a"]) == (again, A1)
    assert (
        read(*FIRST, *unproven, Unchanged(3, (change(A2, again),)), Confirmed(2, "ok")).confirmed["a"]
        == again
    )


def test_quarantine_holds_until_it_is_lifted() -> None:
    facts = (
        Quarantined("a", "commit-2", "a/v2.0.0", "KeyError('n')"),
        Quarantined("b", "commit-2", "b/v2", "x"),
    )
    ledger = read(*facts)
    assert set(ledger.quarantine) == {("a", "commit-2"), ("b", "commit-2")}
    why = ledger.quarantine["a", "commit-2"]
    assert (why.tag, why.reason, why.at, why.seq) == ("a/v2.0.0", "KeyError('n')", 1001.0, 1)
    assert set(read(*facts, Lifted("a", "commit-2", "ann", "fixed")).quarantine) == {("b", "commit-2")}
    assert read(*facts, Lifted("z", "commit-9", "ann", "never was")).quarantine == ledger.quarantine


def test_a_tag_is_pinned_to_what_it_was_last_seen_at() -> None:
    seen = TagMoved("a/v1", "o1", "c1", None, None, "ann")
    moved = TagMoved("a/v1", "o2", None, "o1", "c1", "bob")
    gone = TagMoved("a/v1", None, None, "o2", None, "bob")
    assert dict(read(seen).tags) == {"a/v1": TagPin("o1", "c1")}
    assert dict(read(seen, moved).tags) == {"a/v1": TagPin("o2", None)}
    assert dict(read(seen, moved, gone).tags) == {}


def test_a_death_inside_a_transaction_counts_against_what_it_was_bringing() -> None:
    ledger = read(HostStarted(1, "x"), *FIRST, planned(2, (A1, A2), (B1, B2)), HostStarted(2, "x"), DIED)
    assert dict(ledger.deaths) == {("a", "commit-2.0.0"): 1, ("b", "commit-2.0.0"): 1}
    again = (planned(3, (A1, A2)), Prepared(3), RolledBack(3, "again", "died"))
    ledger = fold(records([HostStarted(1, "x"), *FIRST, planned(2, (A1, A2), (B1, B2)), DIED, *again]))
    assert ledger.deaths["a", "commit-2.0.0"] == 2


def test_a_death_in_probation_counts_and_a_clean_stop_or_a_confirmation_does_not() -> None:
    committed = (HostStarted(1, "x"), *FIRST, planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0))
    died = read(*committed, HostStarted(2, "x"))
    assert dict(died.deaths) == {("a", "commit-2.0.0"): 1}
    assert dict(read(*committed, HostStarted(2, "x"), HostStarted(3, "x")).deaths) == {
        ("a", "commit-2.0.0"): 2
    }
    assert dict(read(*committed, HostStopped(clean=True), HostStarted(2, "x")).deaths) == {}
    assert dict(read(*committed, Confirmed(2, "ok"), HostStarted(2, "x")).deaths) == {}
    proven = read(*committed, HostStarted(2, "x"), Confirmed(2, "ok"))
    assert dict(proven.deaths) == {}
    lifted = read(*committed, HostStarted(2, "x"), Lifted("a", "commit-2.0.0", "ann", "not its fault"))
    assert dict(lifted.deaths) == {}


def test_a_death_in_the_way_back_is_not_held_against_what_has_passed() -> None:
    second = (planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0), Breached(2, "it fails"))
    way_back = Planned(3, (change(A2, A1),), "", IN_PROBATION, 2)
    died = read(*FIRST, *second, way_back, RolledBack(3, "the host died", "died"))
    assert not died.deaths
    assert [view.id for view in died.in_probation] == [2]
    assert died.in_probation[0].breach is not None  # a start goes on with it


def test_what_was_found_of_a_probation_is_kept_until_it_is_over() -> None:
    second = (planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0))
    found = read(
        *FIRST, *second, Inconclusive(2, "too few"), Breached(2, "it fails"), Degraded(2, "no way back")
    )
    (view,) = found.in_probation
    said = (view.inconclusive, view.breach, view.degraded)
    assert [each.reason for each in said if each is not None] == ["too few", "it fails", "no way back"]
    later = read(
        *FIRST, *second, planned(3, (A2, A3)), Prepared(3), Committed(3, 1.0, 0), Breached(2, "too late")
    )
    assert [(v.id, v.breach, v.covers) for v in later.in_probation] == [(3, None, (2,))]
    assert later.transactions[2].breach is None  # it was taken over in that moment
    confirmed = read(*FIRST, *second, Confirmed(2, "", "confirmed by ann"))
    assert confirmed.transactions[2].judged == "confirmed by ann"


def test_the_way_back_of_a_chain_marks_all_of_it_as_put_back() -> None:
    chain = (
        *(planned(2, (A1, A2)), Prepared(2), Committed(2, 1.0, 0)),
        *(planned(3, (A2, A3)), Prepared(3), Committed(3, 1.0, 0), Breached(3, "it fails")),
        *(Planned(4, (change(A3, A1),), "", IN_PROBATION, 3), Prepared(4), Committed(4, 1.0, 0)),
    )
    ledger = read(*FIRST, *chain)
    assert [ledger.transactions[txn].outcome for txn in (2, 3, 4)] == ["reverted", "reverted", "committed"]


def test_several_modules_of_one_package_die_once() -> None:
    one, two = (Entry(name, "p", "1.0.0", "p/v1.0.0", "c", "t", "o") for name in ("one", "two"))
    ledger = read(planned(1, (None, one), (None, two)), RolledBack(1, "died", "died"))
    assert dict(ledger.deaths) == {("p", "c"): 1}


def test_the_ledger_knows_whether_a_host_runs_and_which_images_wait() -> None:
    started = (HostStarted(1, "x"), ImageSaved(("a", "b")))
    assert read(*started).running
    stopped = read(*started, HostStopped(clean=True))
    assert (stopped.running, stopped.stopped_clean, stopped.images) == (False, True, frozenset("ab"))
    used = read(*started, HostStopped(clean=True), HostStarted(2, "x"), ImageUsed(("a",)))
    assert (used.running, used.stopped_clean, used.images) == (True, False, frozenset("b"))
    came_back = read(ImageSaved(("a", "b")), *FIRST[:2], Committed(1, 1.0, 0, images_used=("b",)))
    assert came_back.images == frozenset("a")


ILLEGAL: dict[str, tuple[Fact, ...]] = {
    "record 1 (Prepared) does not fit the journal: there is no transaction 1": (Prepared(1),),
    "record 1 (Confirmed) .*no transaction 7": (Confirmed(7, ""),),
    "record 2 (Committed) .*planned cannot take the signal switched": (FIRST[0], Committed(1, 1.0, 0)),
    "record 4 (RolledBack) .*committed cannot take the signal failed": (
        *FIRST[:3],
        RolledBack(1, "", "moment"),
    ),
    "record 5 (Breached) .*in no probation": (*FIRST, Breached(1, "")),
    "record 5 (Confirmed) .*confirmed cannot take": (*FIRST, Confirmed(1, "")),
    "record 5 (Planned) .*transaction 1 exists already": (*FIRST, planned(1, (A1, A2))),
    "record 5 (Unchanged) .*transaction 1 exists already": (*FIRST, Unchanged(1, ())),
    "record 2 (Planned) .*transaction 1 is unfinished": (FIRST[0], planned(2, (A1, A2))),
}


@pytest.mark.parametrize("message", ILLEGAL)
def test_a_record_that_does_not_follow_is_refused_and_changes_nothing(message: str) -> None:
    all_records = records(ILLEGAL[message])
    before = fold(all_records[:-1])
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(IllegalTransition, match=pattern):
        fold(all_records)
    with pytest.raises(IllegalTransition, match=pattern):
        before.apply(all_records[-1])
    assert before == fold(all_records[:-1])


def test_a_gap_in_the_records_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="it follows record 1"):
        fold([records(FIRST)[0], records(FIRST)[2]])


def test_a_ledger_cannot_be_edited() -> None:
    ledger = read(*FIRST)
    with pytest.raises(TypeError):
        ledger.table["a"] = A2  # type: ignore[index]


def test_nothing_that_made_a_ledger_stays_in_memory() -> None:
    ledger = Ledger()
    fact = TagMoved("counter/v1.0.0", "a" * 40, "b" * 40, None, None, "me")
    for seq in (1, 2):
        ledger = ledger.apply(Record(seq, 0.0, fact, b""))
    gc.collect()
    assert [type(each) for each in gc.get_objects() if type(each).__name__ == "_Draft"] == []


def test_fifty_thousand_records_fold_in_linear_time() -> None:
    facts: list[Fact] = []
    for txn in range(1, 12_501):
        facts += [planned(txn, (None, A1)), Prepared(txn), Committed(txn, 1.0, 0), Confirmed(txn, "ok")]
    assert len(read(*facts).transactions) == 12_500  # quadratic would be minutes, and the test has a timeout


# --- any legal history

NAMES = ("a", "b", "c")


@st.composite
def changes(draw: st.DrawFn, table: dict[str, Entry]) -> tuple[Change, ...]:
    drawn = []
    for name in sorted(draw(st.sets(st.sampled_from(NAMES), min_size=1))):
        stays = name not in table or draw(st.integers(0, 3))
        after = entry(name, f"{draw(st.integers(1, 3))}.0.0") if stays else None
        drawn.append(Change(name, table.get(name), after))
    return tuple(drawn)


@st.composite
def deploys(draw: st.DrawFn, txn: int, table: dict[str, Entry]) -> list[Fact]:
    """Draw one transaction with its end; what it does to `table` is done there too."""
    drawn = draw(changes(table))
    end = draw(st.sampled_from(["commit", "commit", "planned", "prepared", "died"]))
    begin: list[Fact] = [Planned(txn, drawn, "push", "ann")]
    if end != "planned":
        begin.append(Prepared(txn))
    if end != "commit":
        return [*begin, RolledBack(txn, end, "died" if end == "died" else "moment")]
    for each in drawn:
        table.pop(each.name, None)
        if each.after is not None:
            table[each.name] = each.after
    return [*begin, Committed(txn, 1.0, 0)]


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """Draw a legal history: each step is what a host could write next, odd ones included."""
    facts: list[Fact] = []
    table: dict[str, Entry] = {}
    unproven: list[int] = []
    aside: st.SearchStrategy[Fact] = st.one_of(
        st.builds(HostStarted, st.just(1), st.just("x")),
        st.builds(HostStopped, clean=st.booleans()),
        st.sampled_from([Quarantined("a", f"commit-{number}.0.0", "t", "why") for number in (1, 2, 3)]),
        st.sampled_from([Lifted("a", f"commit-{number}.0.0", "ann", "why") for number in (1, 2, 3)]),
    )
    for txn in range(1, draw(st.integers(1, 15))):
        drawn = draw(deploys(txn, table))
        facts += drawn
        if isinstance(drawn[-1], Committed):
            unproven.append(txn)
        if draw(st.booleans()) and unproven:
            facts.append(Confirmed(unproven.pop(draw(st.integers(0, len(unproven) - 1))), "ok"))
        facts += draw(st.lists(aside, max_size=2))
    return facts


@settings(max_examples=100, deadline=None)
@given(histories())
def test_one_record_at_a_time_gives_what_the_fold_gives(history: list[Fact]) -> None:
    ledger = Ledger()
    for record in records(history):
        ledger = ledger.apply(record)
        assert ledger == fold(records(history)[: record.seq])
        proving = [v for v in ledger.transactions.values() if v.phase is Phase.COMMITTED and v.probation]
        assert ledger.in_probation == tuple(proving)
    assert ledger == fold(records(history)) == Ledger().apply(*records(history))


@settings(max_examples=100, deadline=None)
@given(histories())
def test_the_table_changes_at_committed_only_and_by_exactly_its_changes(history: list[Fact]) -> None:
    ledger = Ledger()
    for record in records(history):
        before, ledger = ledger, ledger.apply(record)
        if isinstance(record.fact, Committed):
            expected = dict(before.table)
            for each in ledger.transactions[record.fact.txn].changes:
                expected.pop(each.name, None)
                if each.after is not None:
                    expected[each.name] = each.after
            assert dict(ledger.table) == expected
        else:
            assert ledger.table == before.table
        if not isinstance(record.fact, Confirmed):
            assert ledger.confirmed == before.confirmed


@settings(max_examples=100, deadline=None)
@given(histories())
def test_recovery_twice_gives_the_same_as_once_and_never_a_mixed_table(history: list[Fact]) -> None:
    tables = [dict(fold(records(history)[:count]).table) for count in range(len(history) + 1)]
    for count in range(len(history) + 1):
        crashed = fold(records(history)[:count])
        recovered = crashed
        for _ in range(2):
            if recovered.unfinished is not None:
                fact = RolledBack(recovered.unfinished.id, "the host died", "died")
                recovered = recovered.apply(Record(recovered.seq + 1, 0.0, fact, b""))
        assert recovered.unfinished is None
        assert dict(recovered.table) == tables[count]
        assert all(view.phase not in UNFINISHED for view in recovered.transactions.values())


@settings(max_examples=100, deadline=None)
@given(histories())
def test_a_module_is_in_at_most_one_probation_and_an_unproven_one_in_exactly_one(history: list[Fact]) -> None:
    ledger = fold(records(history))
    covered = [name for view in ledger.in_probation for name in view.probation]
    assert len(covered) == len(set(covered))
    for name, row in ledger.table.items():
        if ledger.confirmed.get(name) != row:
            assert name in covered


def test_a_rollback_is_open_until_a_tag_of_it_serves() -> None:
    back = entry("a", "1.0.0", "a/v2.0.1")
    asked = RollbackAsked({"a/v2.0.1": "commit-1.0.0"}, (("a", "commit-2.0.0", "a/v2.0.0"),), "ann", "bad", 2)
    begun = Planned(3, (change(A2, back),), "a/v2.0.1", "ann", 2)
    serving: list[Fact] = [
        Planned(2, (change(None, A2),), "a/v2.0.0", "ann"),
        Prepared(2),
        Committed(2, 1.0, 0),
    ]
    assert read(*serving, asked).rollback == asked
    assert read(*serving, asked, begun, RolledBack(3, "the host died", "died")).rollback == asked
    assert read(*serving, asked, begun, Prepared(3), Committed(3, 1.0, 0)).rollback is None
    assert read(*serving, asked, Unchanged(3, (change(A2, back),))).rollback is None
    other: list[Fact] = [
        Planned(3, (change(None, B1),), "b/v1.0.0", "ann"),
        Prepared(3),
        Committed(3, 1.0, 0),
    ]
    assert read(*serving, asked, *other).rollback == asked


def test_what_is_given_another_chance_is_not_left_by_an_open_rollback() -> None:
    asked = RollbackAsked({"a/v2.0.1": "commit-1.0.0"}, (("a", "commit-2.0.0", "a/v2.0.0"),), "ann", "bad", 2)
    still = read(asked, Lifted("b", "commit-2.0.0", "ann", "")).rollback
    assert still == asked
    lifted = read(asked, Lifted("a", "commit-2.0.0", "ann", "")).rollback
    assert lifted is not None
    assert lifted.quarantine == ()
