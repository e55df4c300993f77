"""What has still to prove itself, what leads back, and what a breach puts in quarantine; worked out from the journal alone."""

from __future__ import annotations

import msgspec

from orchestrator.runtime.figures import Terms
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    Planned,
    Prepared,
    Quarantined,
    Record,
)
from orchestrator.upgrade.unproven import at_fault, changes_back, composition_back, ended_the_host, unproven

TERMS = {name: Terms(seconds=30.0) for name in "abc"}


def entry(name: str, version: str, **more: object) -> Entry:
    made = Entry(name, name, version, f"{name}/v{version}", f"c{version}", f"t{name}{version}", "o")
    return msgspec.structs.replace(made, **more)


A1, A2, A3, B1, B2 = (entry(n, v) for n, v in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2")))


def commits(
    txn: int,
    *changes: tuple[Entry | None, Entry | None],
    app: tuple[str, str] | None = None,
    confirmed: bool = False,
) -> list[Fact]:
    made = tuple(Change((after or before or A1).name, before, after) for before, after in changes)
    facts: list[Fact] = [Planned(txn, made, "t", "ann", app=app), Prepared(txn), Committed(txn, 1.0, 0)]
    return [*facts, Confirmed(txn, "")] if confirmed else facts


def read(*facts: Fact) -> Ledger:
    return fold(Record(seq, 1.0, fact, b"") for seq, fact in enumerate(facts, 1))


BOTH = commits(1, (None, A1), (None, B1), confirmed=True)


def back(ledger: Ledger) -> dict[str, Entry | None]:
    return {change.name: change.after for change in changes_back(ledger, ledger.in_probation[-1])}


def held(ledger: Ledger) -> set[tuple[str, str]]:
    return {(fact.package, fact.commit_id) for fact in at_fault(ledger, ledger.in_probation[-1], "why")}


def test_what_comes_first_has_nothing_to_prove_and_what_asks_for_none_neither() -> None:
    first = read(*commits(1, (None, A1)))
    assert unproven(first, first.in_probation[0], TERMS) == ()
    second = read(*BOTH, *commits(2, (A1, A2)))
    assert unproven(second, second.in_probation[0], TERMS) == ("a",)
    assert unproven(second, second.in_probation[0], {"a": Terms()}) == ()


def test_only_other_code_or_config_has_to_prove_itself() -> None:
    bound = read(*BOTH, *commits(2, (A1, entry("a", "1", also=("x",), enabled=False))))
    assert unproven(bound, bound.in_probation[0], TERMS) == ()
    configured = read(*BOTH, *commits(2, (A1, entry("a", "1", config={"n": 1}))))
    assert unproven(configured, configured.in_probation[0], TERMS) == ("a",)
    retagged = entry("a", "1", tag="a/v1.0.9")
    returned = read(*BOTH, *commits(2, (A1, A2)), *commits(3, (A2, retagged)))
    assert unproven(returned, returned.in_probation[0], TERMS) == ()


def test_all_of_a_chain_goes_back_to_what_passed_and_what_it_added_leaves() -> None:
    c1 = entry("c", "1")
    ledger = read(*BOTH, *commits(2, (A1, A2), (B1, B2), (None, c1)), *commits(3, (A2, A3)))
    assert unproven(ledger, ledger.in_probation[0], TERMS) == ("a", "b", "c")
    assert back(ledger) == {"a": A1, "b": B1, "c": None}
    assert held(ledger) == {("a", "c3"), ("b", "c2"), ("c", "c1")}
    removed = read(*BOTH, *commits(2, (A1, A2), (B1, None)))
    assert back(removed) == {"a": A1, "b": B1}


def test_what_a_person_made_of_its_names_and_its_service_stays() -> None:
    a2 = entry("a", "2", also=("x",), enabled=False)
    ledger = read(*BOTH, *commits(2, (A1, A2)), *commits(3, (A2, a2)))
    assert back(ledger) == {"a": entry("a", "1", also=("x",), enabled=False)}


def test_a_composition_goes_back_with_its_modules_and_is_what_was_at_fault() -> None:
    composed = commits(1, (None, A1), (None, B1), app=("app/v1", "k1"), confirmed=True)
    configured = entry("a", "1", config={"n": 1})
    ledger = read(*composed, *commits(2, (A1, configured), app=("app/v2", "k2")), *commits(3, (B1, B2)))
    (view,) = [view for view in ledger.in_probation if view.id == 2]
    assert {change.name: change.after for change in changes_back(ledger, view)} == {"a": A1}
    assert composition_back(ledger, view) == ("app/v1", "k1")
    assert {(f.package, f.commit_id) for f in at_fault(ledger, view, "why")} == {("app", "k2")}
    assert composition_back(ledger, ledger.in_probation[-1]) is None


def test_without_a_composition_before_there_is_none_after_the_way_back() -> None:
    ledger = read(*BOTH, *commits(2, (A1, A2), app=("app/v1", "k1")))
    assert composition_back(ledger, ledger.in_probation[0]) == ("", "")
    (way,) = changes_back(ledger, ledger.in_probation[0])
    gone = read(
        *BOTH,
        *commits(2, (A1, A2), app=("app/v1", "k1")),
        *(Planned(3, (way,), "", "w", 2, app=("", "")), Prepared(3), Committed(3, 1.0, 0)),
    )
    assert gone.app is None


def test_what_ended_the_host_goes_back_to_what_passed_and_not_to_what_served_in_between() -> None:
    chain = [*BOTH, *commits(2, (A1, A2), (B1, B2)), *commits(3, (A2, A3))]
    alive = read(*chain)
    assert ended_the_host(alive) == []
    ledger = read(*chain, Quarantined("a", "c3", "a/v3", "the host died 2 times", fatal=True))
    ((view, reason),) = ended_the_host(ledger)
    assert (view.id, reason) == (3, "the host died 2 times")
    assert {change.name: change.after for change in changes_back(ledger, view)} == {"a": A1, "b": B1}
    nowhere = read(
        *chain,
        Quarantined("a", "c3", "a/v3", "died", fatal=True),
        Quarantined("a", "c1", "a/v1", "left by hand"),
    )
    assert ended_the_host(nowhere) == []
