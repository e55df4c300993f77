"""What became of a tag, worked out from refs, ledger and plan."""

from __future__ import annotations

from typing import Any

from orchestrator.upgrade.desired import desired
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.plan import Group, Plan
from orchestrator.upgrade.records import (
    Breached,
    Change,
    Committed,
    Confirmed,
    Degraded,
    Entry,
    Fact,
    Inconclusive,
    Planned,
    Prepared,
    Quarantined,
    Record,
    RolledBack,
    Unchanged,
)
from orchestrator.upgrade.verdict import Verdict, View, verdict
from repo_store.release import TagRef, parse_tag


def entry(version: str, commit: str, tag: str | None = None) -> Entry:
    return Entry("counter", "counter", version, tag or f"counter/v{version}", commit, commit, "o")


NEW = (("app", "1.0.0"), ("counter", "1.2.0"), ("hen", "1.0.0"))
FIRST, SECOND = entry("1.0.0", "c1"), entry("1.1.0", "c2")


def committed(txn: int, change: Change) -> list[Fact]:
    return [
        Planned(txn, (change,), "tags", "ann"),
        Prepared(txn),
        Committed(txn, 42.4, 3),
        Confirmed(txn, ""),
    ]


def book(*facts: Fact) -> Ledger:
    return fold(Record(seq, float(seq), fact, b"") for seq, fact in enumerate(facts, 1))


SERVING = book(*committed(1, Change("counter", None, FIRST)), *committed(2, Change("counter", FIRST, SECOND)))


def said(
    name: str, ledger: Ledger = SERVING, commits: dict[str, str | None] | None = None, **more: Any
) -> Verdict:
    commits = commits or {"counter/v1.0.0": "c1", "counter/v1.1.0": "c2"}
    refs = {}
    for each, commit in commits.items():
        tag = parse_tag(each)
        assert tag is not None
        refs[each] = TagRef(tag, "o", commit)
    tags = desired(refs, ledger.quarantine, prereleases=False)
    return verdict(name, View(refs, tags, ledger, Plan(), {}, prereleases=False, **more))


def test_the_tag_in_service_is_live_with_its_pause_and_what_waited() -> None:
    answer = said("counter/v1.1.0")
    assert (answer.word, "counter 1.0.0 → 1.1.0; pause 42 µs, 3 messages waited" in answer.text) == (
        "live",
        True,
    )


def test_a_lower_tag_is_recorded_and_the_higher_one_named() -> None:
    answer = said("counter/v1.0.0")
    assert (answer.word, answer.text) == ("recorded", "not deployed: counter/v1.1.0 is higher")


def test_a_quarantined_commit_is_refused_with_reason_what_serves_and_what_to_do() -> None:
    third = entry("1.2.0", "c3")
    ledger = book(
        *committed(1, Change("counter", None, FIRST)),
        *committed(2, Change("counter", FIRST, SECOND)),
        Planned(3, (Change("counter", SECOND, third),), "tags", "ann"),
        RolledBack(3, "prepare() raised ValueError", "release"),
        Quarantined("counter", "c3", "counter/v1.2.0", "prepare() raised ValueError"),
    )
    answer = said("counter/v1.2.0", ledger, {"counter/v1.1.0": "c2", "counter/v1.2.0": "c3"})
    assert answer.word == "refused"
    for part in (
        "prepare() raised ValueError",
        "counter 1.1.0 serves on",
        "counter/v1.2.1",
        "livetag retry counter/v1.2.0",
    ):
        assert part in answer.text


def test_the_same_code_under_a_new_tag_is_unchanged() -> None:
    again = entry("1.1.0", "c2", "counter/v1.2.0")
    ledger = book(
        *committed(1, Change("counter", None, FIRST)),
        *committed(2, Change("counter", FIRST, SECOND)),
        Unchanged(3, (Change("counter", SECOND, again),)),
    )
    answer = said("counter/v1.2.0", ledger, {"counter/v1.1.0": "c2", "counter/v1.2.0": "c2"})
    assert (answer.word, "nothing was swapped" in answer.text) == ("unchanged", True)


def test_tags_that_say_nothing_to_this_host_are_told_why() -> None:
    assert said("nightly").word == "ignored"
    assert said("counter/v9.0.0").word == "recorded"  # it is gone
    blob = said("counter/v2.0.0", commits={"counter/v2.0.0": None})
    assert (blob.word, "points at no commit" in blob.text) == ("refused", True)
    early = said("counter/v2.0.0-rc.1", commits={"counter/v2.0.0-rc.1": "c9"})
    assert (early.word, "pre-release" in early.text) == ("recorded", True)


def test_a_release_that_failed_with_others_names_them_and_the_tags_to_push_next() -> None:
    bad = [entry("1.2.0", "c9"), Entry("hen", "hen", "1.0.0", "hen/v1.0.0", "c9", "c9", "o")]
    changes = (Change("counter", SECOND, bad[0]), Change("hen", None, bad[1]))
    failed = book(
        *committed(1, Change("counter", None, SECOND)),
        Planned(2, changes, "app/v1.0.0 counter/v1.2.0 hen/v1.0.0", "ann"),
        RolledBack(2, "hen failed its trial", "release"),
        *(Quarantined(p, "c9", f"{p}/v{v}", "hen failed its trial") for p, v in NEW),
    )
    answer = said("counter/v1.2.0", failed, {f"{p}/v{v}": "c9" for p, v in NEW})
    _, now, then = answer.text.splitlines()
    assert now == "counter 1.1.0 serves on, with all state and messages."
    assert "in one transaction with app/v1.0.0 and hen/v1.0.0, so they are refused together" in then
    assert "push new tags, e.g. counter/v1.2.1, app/v1.0.1 and hen/v1.0.1." in then
    app = said("app/v1.0.0", failed, {f"{p}/v{v}": "c9" for p, v in NEW}).text
    assert "counter 1.1.0 serves on" in app


def test_a_composition_that_was_decided_before_the_journal_failed_is_live() -> None:
    """Its push succeeds, and its tag stays: taken back, it would be undone by the next start."""
    change = Change("counter", None, FIRST)
    begun = Planned(1, (change,), "app/v1.0.0", "ann", app=("app/v1.0.0", "a1"))
    tags = [parse_tag("app/v1.0.0"), parse_tag("app/v1.1.0")]
    refs = {tag.name: TagRef(tag, "o", commit) for tag, commit in zip(tags, ("a1", "a2"), strict=True) if tag}
    decided = book(begun, Prepared(1), Committed(1, 42.4, 0))

    def told(name: str, ledger: Ledger) -> tuple[str, str]:
        answer = verdict(name, View(refs, refs, ledger, Plan(), {}, prereleases=False, stopped="disk full"))
        return answer.word, answer.text

    assert told("app/v1.0.0", decided) == ("live", "counter 1.0.0 added")
    for name, ledger in (("app/v1.0.0", book(begun, Prepared(1))), ("app/v1.1.0", decided)):
        word, text = told(name, ledger)
        assert (word, "it deploys nothing: disk full" in text) == ("refused", True), name


ON = [*committed(2, Change("counter", FIRST, SECOND))[:-1]]


def on_probation(*more: Fact) -> Ledger:
    return book(*committed(1, Change("counter", None, FIRST)), *ON, *more)


def test_what_is_in_probation_says_for_how_long_and_how_that_stands() -> None:
    watched = {"counter": 30.0}
    assert said("counter/v1.1.0", on_probation(), watched=watched).text.endswith("; in probation for 30 s")
    few = said("counter/v1.1.0", on_probation(Inconclusive(2, "no message")), watched=watched)
    assert few.word == "live"
    assert "Its probation is inconclusive: no message. counter stays in probation" in few.text
    bad = said("counter/v1.1.0", on_probation(Breached(2, "it fails"), Degraded(2, "no way back: it fails")))
    assert bad.word == "degraded"
    assert "no way back: it fails. counter serves on, degraded: a person has to decide." in bad.text


def test_what_breached_its_probation_is_refused_with_what_serves_again() -> None:
    way_back = Planned(3, (Change("counter", SECOND, FIRST),), "", "livetag, in probation", 2)
    gone = on_probation(
        Quarantined("counter", "c2", "counter/v1.1.0", "counter: 9 of 90 messages failed"),
        Breached(2, "counter: 9 of 90 messages failed"),
        *(way_back, Prepared(3), Committed(3, 1.0, 0), Confirmed(3, "")),
    )
    answer = said("counter/v1.1.0", gone)
    assert answer.word == "refused"
    assert "9 of 90 messages failed." in answer.text
    assert "counter 1.0.0 serves on, with all state and messages." in answer.text


def test_a_tag_of_what_is_about_to_go_back_is_under_way() -> None:
    third = entry("1.2.0", "c3")
    refs = {t: TagRef(parse_tag(t), "o", c) for t, c in (("counter/v1.1.0", "c2"), ("counter/v1.2.0", "c3"))}  # type: ignore[arg-type]
    group = Group((("counter", "c3"),), ("counter/v1.2.0",), (Change("counter", SECOND, third),))
    ledger = on_probation(Breached(2, "it fails"))
    view = View(
        refs,
        {"counter": refs["counter/v1.2.0"]},
        ledger,
        Plan(ready=(group,)),
        {},
        False,
        going_back={"counter"},
    )
    answer = verdict("counter/v1.2.0", view)
    assert (answer.word, "after that" in answer.text) == ("under way", True)
