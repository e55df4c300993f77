"""Rollback of a transaction as data: which tags on which commits, what is quarantined (DESIGN §9)."""

from __future__ import annotations

from typing import Any

import pytest

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
from orchestrator.upgrade.rollback import RollbackRefused, plan_rollback, shown
from repo_store.release import RefMap, TagRef, parse_tag


def entry(name: str, version: str, commit: str, state_version: int = 1, package: str | None = None) -> Entry:
    package = package or name
    return Entry(
        name, package, version, f"{package}/v{version}", commit, commit, commit, state_version=state_version
    )


def ledger(*transactions: list[Change]) -> Ledger:
    """The ledger after these transactions were committed, numbered from 1."""
    facts: list[Fact] = []
    for number, changes in enumerate(transactions, 1):
        facts += [Planned(number, tuple(changes), "tags", "ann"), Prepared(number), Committed(number, 5.0, 0)]
        facts.append(Confirmed(number, ""))
    return fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))


def refs(**tags: str) -> RefMap:
    found = {}
    for key, commit in tags.items():
        package, version = key.split("_", 1)
        tag = parse_tag(f"{package}/v{version.replace('_', '.')}")
        assert tag is not None
        found[tag.name] = TagRef(tag, commit, commit)
    return found


OLD, NEW = entry("counter", "1.0.0", "c1"), entry("counter", "1.3.0", "c2", 2)
RIB_OLD, RIB_NEW = entry("rib", "1.0.0", "c1"), entry("rib", "1.1.0", "c2")
TAGS = refs(counter_1_0_0="c1", counter_1_3_0="c2", rib_1_0_0="c1", rib_1_1_0="c2")
FACTS: list[Fact] = [
    Planned(1, (Change("counter", None, OLD),), "tags", "ann"),
    Prepared(1),
    Committed(1, 1.0, 0),
]
BOTH = ledger(
    [Change("counter", None, OLD), Change("rib", None, RIB_OLD)],
    [Change("counter", OLD, NEW), Change("rib", RIB_OLD, RIB_NEW)],
)


def test_every_module_of_the_transaction_goes_back_by_the_next_free_patch_on_the_old_commit() -> None:
    rollback = plan_rollback(BOTH, TAGS)
    assert rollback.txn == 2
    assert {(s.tag.name, s.commit_id) for s in rollback.steps} == {
        ("counter/v1.3.1", "c1"),
        ("rib/v1.1.1", "c1"),
    }
    assert rollback.quarantine == (("counter", "c2"), ("rib", "c2"))


def test_only_one_module_of_it_goes_back_if_that_is_asked() -> None:
    rollback = plan_rollback(BOTH, TAGS, module="rib", only=True)
    assert [(s.package, s.tag.name) for s in rollback.steps] == [("rib", "rib/v1.1.1")]
    assert rollback.quarantine == (("rib", "c2"),)


def test_a_version_can_be_named() -> None:
    rollback = plan_rollback(BOTH, TAGS, module="counter", only=True, to="1.0.0")
    assert [(s.to_version, s.commit_id, s.tag.name) for s in rollback.steps] == [
        ("1.0.0", "c1", "counter/v1.3.1")
    ]


def test_the_preview_says_what_becomes_of_the_state() -> None:
    preview: Any = shown(plan_rollback(BOTH, TAGS))
    assert {step["modules"][0]: step["state"] for step in preview["steps"]} == {
        "counter": "kept, migrated 2→1",
        "rib": "kept as it is",
    }


def test_two_instances_of_one_package_go_back_by_one_tag() -> None:
    before = [entry(name, "1.0.0", "c1", package="counter") for name in ("one", "two")]
    after = [entry(name, "1.3.0", "c2", package="counter") for name in ("one", "two")]
    book = ledger(
        [Change(e.name, None, e) for e in before],
        [Change(b.name, b, a) for b, a in zip(before, after, strict=True)],
    )
    rollback = plan_rollback(book, TAGS)
    assert [(s.modules, s.tag.name) for s in rollback.steps] == [(("one", "two"), "counter/v1.3.1")]


def test_rolling_back_twice_goes_further_back_and_never_forward_again() -> None:
    newer = entry("counter", "1.4.0", "c4")
    facts = [
        *FACTS,
        Planned(2, (Change("counter", OLD, NEW),), "tags", "ann"),
        Prepared(2),
        Committed(2, 1.0, 0),
        Planned(3, (Change("counter", NEW, newer),), "tags", "ann"),
        Prepared(3),
        Committed(3, 1.0, 0),
        Planned(4, (Change("counter", newer, NEW),), "tags", "rollback", reverts=3),
        Prepared(4),
        Committed(4, 1.0, 0),
    ]
    book = fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))
    rollback = plan_rollback(book, {**TAGS, **refs(counter_1_4_0="c4")})
    assert (rollback.txn, [s.commit_id for s in rollback.steps]) == (2, ["c1"])


def test_a_module_that_went_back_alone_leaves_the_others_to_go_back_after_it() -> None:
    alone: list[Fact] = [
        Planned(3, (Change("rib", RIB_NEW, RIB_OLD),), "tags", "rollback", reverts=2),
        Prepared(3),
        Committed(3, 1.0, 0),
    ]
    rest: list[Fact] = [
        Planned(4, (Change("counter", NEW, OLD),), "tags", "rollback", reverts=2),
        Prepared(4),
        Committed(4, 1.0, 0),
    ]

    def after(facts: list[Fact]) -> Ledger:
        book = BOTH
        for seq, fact in enumerate(facts, 9):
            book = book.apply(Record(seq, float(seq), fact, b""))
        return book

    assert after(alone).transactions[2].outcome == "committed"
    rollback = plan_rollback(after(alone), TAGS)
    assert (rollback.txn, [s.package for s in rollback.steps]) == (2, ["counter"])
    assert rollback.quarantine == (("counter", "c2"),)
    assert after([*alone, *rest]).transactions[2].outcome == "reverted"
    with pytest.raises(RollbackRefused, match="added by transaction 1"):
        plan_rollback(after([*alone, *rest]), TAGS)


def test_a_commit_in_quarantine_that_a_rollback_names_gets_its_chance() -> None:
    facts = [*FACTS, Quarantined("counter", "c2", "counter/v1.3.0", "it was slow")]
    book = fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))
    rollback = plan_rollback(book, TAGS, module="counter", only=True, to="1.3.0")
    assert rollback.lifted == (("counter", "c2"),)


REFUSED: dict[str, tuple[Ledger, dict[str, Any], str]] = {
    "nothing went live yet": (Ledger(), {}, "No transaction went live yet"),
    "the module was never touched": (BOTH, {"module": "logger"}, "No transaction with logger went live yet"),
    "there is no such transaction": (BOTH, {"txn": 9}, "Transaction 9 did not go live"),
    "the transaction did not touch the module": (
        BOTH,
        {"txn": 2, "module": "x"},
        "Transaction 2 did not touch x",
    ),
    "there is no version before it": (BOTH, {"txn": 1}, "was added by transaction 1"),
    "there is no such version": (BOTH, {"module": "rib", "only": True, "to": "7.0.0"}, "no tag rib/v7.0.0"),
    "it serves already": (
        BOTH,
        {"module": "rib", "only": True, "to": "1.1.0"},
        "in service from that commit already",
    ),
    "only what?": (BOTH, {"only": True}, "--only needs a module"),
    "one version for two packages": (BOTH, {"to": "1.0.0"}, "--to names the version of one package"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_rollback_that_makes_no_sense_is_refused_with_the_reason(why: str) -> None:
    book, asked, words = REFUSED[why]
    with pytest.raises(RollbackRefused, match=words):
        plan_rollback(book, TAGS, **asked)


def test_a_composition_goes_back_by_a_higher_app_tag_on_the_commit_before() -> None:
    plain = entry("rib", "1.0.0", "c1")
    named = Entry("rib", "rib", "1.0.0", "rib/v1.0.0", "c1", "c1", "c1", also=("routes",))
    facts: list[Fact] = []
    for number, (changes, app) in enumerate(
        [
            ((Change("rib", None, plain), Change("counter", None, OLD)), ("app/v1.0.0", "a1")),
            ((Change("rib", plain, named), Change("counter", OLD, None)), ("app/v1.1.0", "a2")),
        ],
        1,
    ):
        planned = Planned(number, changes, app[0], "ann", app=app)
        facts += [planned, Prepared(number), Committed(number, 5.0, 0), Confirmed(number, "")]
    book = fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))
    rollback = plan_rollback(book, refs(app_1_0_0="a1", app_1_1_0="a2", rib_1_0_0="c1"))
    assert [(s.package, s.tag.name, s.commit_id, s.from_version) for s in rollback.steps] == [
        ("app", "app/v1.1.1", "a1", "1.1.0")
    ]
    assert rollback.quarantine == (("app", "a2"),)
    assert rollback.does == ("rib 1.0.0 no longer bound to routes", "counter 1.0.0 added")
    with pytest.raises(RollbackRefused, match="no composition before app/v1"):
        plan_rollback(book, refs(app_1_0_0="a1", app_1_1_0="a2"), txn=1)


def test_a_name_that_was_moved_goes_back_to_whom_it_was_taken_from() -> None:
    def named(name: str, *also: str) -> Entry:
        return Entry(name, name, "1.0.0", f"{name}/v1.0.0", "c1", "c1", "c1", also=also)

    moved = (
        Change("counter", named("counter", "front"), named("counter")),
        Change("rib", named("rib"), named("rib", "front")),
    )
    came = tuple(Change(c.name, None, c.before) for c in moved)
    facts: list[Fact] = []
    for number, changes in enumerate((came, moved), 1):
        keys = (("", "name front"),) if number == 2 else ()
        facts += [
            Planned(number, changes, "x", "ann", overrides=keys),
            Prepared(number),
            Committed(number, 1.0, 0),
        ]
        facts.append(Confirmed(number, ""))
    book = fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))
    assert [command.text for command in plan_rollback(book, TAGS).commands] == ["livetag bind front counter"]


def test_what_a_command_did_goes_back_by_the_commands_that_undo_it() -> None:
    off = Entry("rib", "rib", "1.0.0", "rib/v1.0.0", "c1", "c1", "c1", enabled=False)
    facts: list[Fact] = []
    steps: list[tuple[Change, tuple[tuple[str, str], ...]]] = [
        (Change("rib", None, RIB_OLD), ()),
        (Change("rib", RIB_OLD, off), (("rib", "service"),)),
    ]
    for number, (change, keys) in enumerate(steps, 1):
        planned = Planned(
            number, (change,), "livetag disable rib" if keys else "rib/v1.0.0", "ann", overrides=keys
        )
        facts += [planned, Prepared(number), Committed(number, 5.0, 0), Confirmed(number, "")]
    book = fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))
    assert [command.text for command in plan_rollback(book, TAGS).commands] == ["livetag enable rib"]
    on_again = [*facts, Planned(3, (Change("rib", off, RIB_OLD),), "rib/v1.0.0", "ann"), Prepared(3)]
    over = fold(Record(s, float(s), fact, b"") for s, fact in enumerate([*on_again, Committed(3, 1.0, 0)], 1))
    with pytest.raises(RollbackRefused, match="is over already"):
        plan_rollback(over, TAGS, txn=2)
