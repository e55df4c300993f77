"""Whose fault a row of deaths right after a start is taken to be, on the journal alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from orchestrator.upgrade.crash_loop import fatal_releases, put_back_from, start_died, ways_back
from orchestrator.upgrade.crash_row import crash_row
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.noted import AFTER_DEATHS
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    HostStarted,
    HostStopped,
    Planned,
    Prepared,
    Quarantined,
    Record,
    Served,
    Settled,
    StartDied,
)

OLD, NEW = (
    Entry("hen", "hen", version, f"hen/v{version}", f"c-{version}", f"t-{version}", "")
    for version in ("1.0.0", "1.1.0")
)
KEY = (NEW.package, NEW.commit_id)


def deployed(txn: int, before: Entry | None, after: Entry) -> list[Fact]:
    planned = Planned(txn, (Change(after.name, before, after),), after.tag, "ann")
    return [planned, Prepared(txn), Committed(txn, 50.0, 0), Confirmed(txn, "")]


BROUGHT: list[Fact] = [
    HostStarted(1, "1"),
    *deployed(1, None, OLD),
    Settled(),
    *deployed(2, OLD, NEW),
]


def accused(facts: Sequence[Fact], deaths: int, releases: tuple[tuple[str, str], ...]) -> bool:
    died: list[Fact] = [
        f for _ in range(deaths) for f in (HostStarted(2, "1"), StartDied(releases, "somehow"))
    ]
    records = [Record(seq, 1000.0 + seq, fact, b"") for seq, fact in enumerate([*facts, *died], 1)]
    return [(q.package, q.commit_id) for q in fatal_releases(fold(records))] == [KEY]


@pytest.mark.parametrize(
    ("lasted", "known_max", "unknown_max"),
    [((), 2, 3), ((Served(),), 2, 6), ((HostStarted(1, "1"), Settled()), 4, None)],
    ids=["nothing is known of it", "it has served since its switch", "it has lasted through a start"],
)
def test_what_has_lasted_before_is_accused_later(
    lasted: tuple[Fact, ...], known_max: int, unknown_max: int | None
) -> None:
    facts = [*BROUGHT, *lasted]
    assert not accused(facts, known_max - 1, (KEY,))
    assert accused(facts, known_max, (KEY,))
    if unknown_max is None:
        assert not accused(facts, 20, ())
    else:
        assert not accused(facts, unknown_max - 1, ())
        assert accused(facts, unknown_max, ())


def test_what_goes_back_after_deaths_leaves_a_name_with_the_module_that_has_it_now() -> None:
    """Two modules of one name would end each start, and nobody would be left to blame."""
    before, egg = replace(OLD, also=("roost",)), replace(OLD, name="egg", package="egg")
    moved = (Change("egg", egg, replace(egg, also=("roost",))), Change("hen", before, NEW))
    facts: list[Fact] = [
        HostStarted(1, "1"),
        *deployed(1, None, egg),
        *deployed(2, None, before),
        *(Planned(3, moved, "t", "ann"), Prepared(3), Committed(3, 50.0, 0), Confirmed(3, "")),
        Quarantined(*KEY, NEW.tag, "it died", fatal=True),
    ]
    ((_view, changes),) = ways_back(
        fold([Record(n, 1000.0 + n, fact, b"") for n, fact in enumerate(facts, 1)])
    )
    assert changes == (Change("hen", NEW, OLD),)


@pytest.mark.parametrize(
    ("confirmed", "who", "then", "says"),
    [
        (False, AFTER_DEATHS, [], ("1.1.0", 1009.0)),
        (True, AFTER_DEATHS, [], None),  # what it failed on since it had passed is a person's to judge
        (False, "livetag rollback", [], None),
        (False, AFTER_DEATHS, [replace(OLD, version="1.2.0")], None),  # something else has come since
    ],
)
def test_what_failed_in_a_probation_is_given_again_by_the_start_that_puts_it_back(
    confirmed: bool, who: str, then: list[Entry], says: tuple[str, float] | None
) -> None:
    facts = list(BROUGHT)
    if not confirmed:
        del facts[-1]
    back = Planned(3, (Change("hen", NEW, OLD),), "", who, 2)
    facts += [Quarantined(*KEY, NEW.tag, "it died", fatal=True), back, Prepared(3), Committed(3, 0.0, 0)]
    facts += [fact for entry in then for fact in deployed(4, OLD, entry)]
    ledger = fold([Record(n, 1000.0 + n, fact, b"") for n, fact in enumerate(facts, 1)])
    assert put_back_from(ledger, "hen") == says
    assert put_back_from(ledger, "egg") is None


def test_what_failed_counts_from_the_first_transaction_of_a_probation_that_was_taken_over() -> None:
    egg = replace(OLD, name="egg", package="egg")
    newer, newest = replace(egg, version="1.1.0"), replace(egg, version="1.2.0")
    moved = (Change("egg", egg, newer), Change("hen", OLD, NEW))
    back = (Change("egg", newest, egg), Change("hen", NEW, OLD))
    facts: list[Fact] = [
        HostStarted(1, "1"),
        *deployed(1, None, OLD),
        *deployed(2, None, egg),
        *(Planned(3, moved, "t", "ann"), Prepared(3), Committed(3, 50.0, 0)),
        *deployed(4, newer, newest)[:-1],
        *(Planned(5, back, "", AFTER_DEATHS, 4), Prepared(5), Committed(5, 0.0, 0)),
    ]
    ledger = fold([Record(n, 1000.0 + n, fact, b"") for n, fact in enumerate(facts, 1)])
    assert ledger.transactions[4].covers == (3,)
    assert put_back_from(ledger, "hen") == ("1.1.0", 1012.0)
    assert put_back_from(ledger, "egg") == ("1.2.0", 1012.0)


def test_what_is_in_quarantine_and_serves_still_is_not_spared() -> None:
    """The host died between a person's `rollback`, which quarantines first, and what puts the release before back."""
    facts = [*BROUGHT, HostStarted(1, "1"), Quarantined(*KEY, NEW.tag, "rolled back by hand")]
    assert not accused(facts, 2, ())
    assert accused(facts, 3, ())


@pytest.mark.parametrize("no_module", [False, True])
def test_a_death_that_no_module_can_have_caused_is_not_counted(no_module: bool) -> None:
    facts = [*BROUGHT, HostStarted(2, "1")]
    left = fold([Record(seq, 1000.0 + seq, fact, b"") for seq, fact in enumerate(facts, 1)])
    died = start_died(left, left, None, no_module=no_module)
    assert (died is None) == no_module


def told(facts: Sequence[Fact], *, host_runs: bool) -> str:
    row = crash_row(ledger_of(facts), 10.0, host_runs=host_runs)
    return row.what if row is not None else ""


def ledger_of(facts: Sequence[Fact]) -> Ledger:
    return fold([Record(seq, 1000.0 + seq, fact, b"") for seq, fact in enumerate(facts, 1)])


LASTED: list[Fact] = [*BROUGHT, HostStarted(1, "1"), Settled()]


def starts(count: int, *left: Fact) -> list[Fact]:
    """So many starts after one that has lasted; each from the second on has taken down what is `left` of the one before."""
    return [HostStarted(2, "1"), *(fact for _ in range(count - 1) for fact in (HostStarted(2, "1"), *left))]


def test_a_row_is_told_from_the_third_host_on_that_ended_early() -> None:
    assert not told([*LASTED, *starts(3)], host_runs=True)
    assert told([*LASTED, *starts(3)], host_runs=False).startswith("3 hosts in a row ended within 10 s")
    assert told([*LASTED, *starts(4)], host_runs=True).startswith("3 hosts in a row ended within 10 s")
    assert not told([*LASTED, *starts(4), Settled()], host_runs=False)
    assert not told([*LASTED, *starts(4), HostStopped(clean=True)], host_runs=False)


@pytest.mark.parametrize(
    ("left", "says", "never"),
    [
        ((StartDied((KEY,), "?"),), "code of hen 1.1.0 ran at 3 of the ends, and it goes out of service at 4", "no release"),
        ((StartDied((), "?"),), "of 3 nothing says whose code it was; no release is accused", "before any"),
        ((), "before any module's code had run, with an error of their own, or with the machine; no release", "whose"),
    ],
    ids=["its code ran", "nothing is known", "no module's doing"],
)  # fmt: skip
def test_a_row_says_what_is_known_of_the_cause(left: tuple[Fact, ...], says: str, never: str) -> None:
    what = told([*LASTED, *starts(4, *left)], host_runs=True)
    assert "started at 1970-01-01 00:16:53 UTC" in what
    assert says in what
    assert never not in what
