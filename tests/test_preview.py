"""What a plan shows is what was measured and found: states that are passed, the way back, the pause to expect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.desired import Wish
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.plan import Group, Plan
from orchestrator.upgrade.preview import Forecast, Seen, Tried, check_text, foresee, groups_of, is_remark
from orchestrator.upgrade.records import Change, Entry
from repo_store.manifest import Limits, ModuleManifest, Shadow
from repo_store.release import TagRef, parse_tag


def entry(version: str, state_version: int = 1, name: str = "counter") -> Entry:
    return Entry(
        name, name, version, f"{name}/v{version}", version, version, version, state_version=state_version
    )


UNSHADOWED = Shadow()


def candidate(
    after: Entry, *steps: tuple[int, int], pause_ms: float = 50.0, shadow: Shadow = UNSHADOWED
) -> Candidate:
    tag = parse_tag(after.tag)
    assert tag is not None
    description = Description("counter:Counter", {}, (), {}, (), after.state_version, {}, steps)
    manifest = ModuleManifest(limits=Limits(pause_ms=pause_ms), shadow=shadow)
    return Candidate(Wish(after.name, after.package, TagRef(tag, "t", "c")), None, manifest, description)


def switched(
    pause_us: float, before: Entry | None = None, outcome: str = "committed", id_: int = 1
) -> TransactionView:
    change = Change("counter", before, entry("1.0.0"))
    return TransactionView(id_, 1.0, id_, (change,), "t", "w", outcome=outcome, pause_us=pause_us)


UP = entry("1.1.0", 3)
SEEN = Seen(
    {"counter": candidate(UP, (1, 2), (2, 3), (3, 2), (2, 1))},
    Ledger(),
    {"counter": Live(steps=frozenset())},
    {},
    {},
)
MIGRATES = Group((), ("counter/v1.1.0",), (Change("counter", entry("1.0.0"), UP),))
SAME = Group((), ("counter/v1.1.0",), (Change("counter", entry("1.0.0"), entry("1.1.0")),))


def shown(group: Group = MIGRATES, seen: Seen = SEEN) -> Forecast:
    return foresee("ready", 1, group, seen)


def tried(**facts: object) -> Seen:
    return replace(SEEN, tried={"counter": Tried(on="the whole state (7 B)", seconds=0.5, **facts)})  # type: ignore[arg-type]


def with_past(seen: Seen, *views: TransactionView) -> Seen:
    return replace(seen, ledger=Ledger(transactions={view.id: view for view in views}))


def test_the_states_that_are_passed_are_named_up_by_the_new_and_down_by_the_old_steps() -> None:
    assert shown().steps[0].states == (1, 2, 3)
    down = Group((), (), (Change("counter", UP, entry("1.0.0")),))
    seen = replace(
        SEEN,
        candidates={"counter": candidate(entry("1.0.0"))},
        live={"counter": Live(steps=frozenset({(3, 2), (2, 1)}))},
    )
    assert shown(down, seen).steps[0].states == (3, 2, 1)
    no_steps = replace(seen, live={})
    assert shown(down, no_steps).steps[0].states == (3, 1), "a check says what is missing"
    added = Group((), (), (Change("counter", None, UP),))
    assert shown(added).steps[0].states == (3,)
    assert shown(added, replace(SEEN, kept={"counter": 1})).steps[0].states == (1, 2, 3), "its state was kept"


@pytest.mark.parametrize(
    ("group", "seen", "expected_us", "text"),
    [
        (MIGRATES, SEEN, None, "not measured: no trial has run the migration of counter 1→2→3"),
        (SAME, SEEN, None, "not measured: no switch of counter yet"),
        (MIGRATES, tried(migration_s=40e-6), 40.0, "about 40 µs (migration 40 µs in the trial)"),
        (SAME, with_past(SEEN, switched(12.0, entry("0.9.0"))), 12.0, "about 12 µs (last pause of counter: 12 µs)"),
        (
            MIGRATES,
            with_past(tried(migration_s=2e-3), switched(500.0, entry("0.9.0"))),
            2500.0,
            "about 2.5 ms (migration 2.0 ms in the trial, last pause of counter: 500 µs)",
        ),
        (
            SAME,
            with_past(SEEN, switched(12.0, entry("0.9.0")), switched(99.0, entry("0.9.0"), "rolled_back", 2)),
            12.0,
            "about 12 µs (last pause of counter: 12 µs)",
        ),
        (SAME, with_past(SEEN, switched(12.0)), None, "not measured: no switch of counter yet"),
        (
            Group((), (), (Change("counter", None, UP),)),
            SEEN,
            None,
            "no pause: nothing that is in service is touched",
        ),
    ],
)  # fmt: skip
def test_the_pause_is_made_of_measurements_or_is_not_said(
    group: Group, seen: Seen, expected_us: float | None, text: str
) -> None:
    forecast = shown(group, seen)
    assert forecast.pause == text
    assert forecast.expected_us == (pytest.approx(expected_us) if expected_us is not None else None)


def test_a_migration_over_the_budget_is_refused_and_one_within_it_is_said() -> None:
    within = shown(seen=tried(migration_s=0.05))
    assert [(c.what, c.ok) for c in within.checks if c.what == "pause budget"] == [("pause budget", True)]
    assert within.kind == "ready"
    over = shown(seen=tried(migration_s=0.051))
    assert over.kind == "refused"
    assert over.number is None
    assert "would take about 51.0 ms, over limits.pause_ms = 50, so nothing was touched" in over.why


def test_what_the_trial_found_takes_the_place_of_what_the_steps_promise() -> None:
    promised = Check("counter: way back 3→1", True, "counter: way back 3→1: yes")
    group = replace(MIGRATES, checks=(promised,))
    assert [check_text(c) for c in shown(group).checks] == ["counter: way back 3→1: yes"]
    found = shown(group, tried(lost=("by_key",)))
    assert [check_text(c) for c in found.checks] == [
        "counter: way back 3→1: yes, loses by_key",
        "counter: trial: passed in 0.50 s, on the whole state (7 B)",
    ]
    records = shown(SAME, tried(lost=("rib.peer",)))
    assert "counter: way back: yes, loses rib.peer" in [check_text(c) for c in records.checks]


def test_a_failed_trial_refuses_what_could_go_and_a_failure_of_the_moment_says_so() -> None:
    failed = shown(seen=tried(problem=Problem("counter 1.1.0 failed its trial: no.", "release")))
    assert (failed.kind, failed.number) == ("refused", None)
    assert failed.text == "would be refused: counter 1.0.0 → 1.1.0"
    assert failed.full_text == f"{failed.text}. counter 1.1.0 failed its trial: no."


def test_the_groups_of_a_plan_keep_their_order_and_their_place() -> None:
    first, second = replace(SAME, tags=("a/v1.0.0",)), replace(SAME, tags=("b/v1.0.0",))
    held = replace(SAME, tags=("c/v1.0.0",), held="held by ada: the exam")
    plan = Plan(ready=(first, second), waiting=(first,), held=(held,), refused=(second,))
    assert [(kind, number) for kind, number, _ in groups_of(plan)] == [
        ("ready", 1),
        ("ready", 2),
        ("waiting", None),
        ("held", None),
        ("refused", None),
    ]
    assert [(kind, number) for kind, number, _ in groups_of(plan, ["b/v1.0.0"])] == [
        ("ready", 2),
        ("refused", None),
    ]
    forecast = foresee("held", None, held, SEEN)
    assert forecast.full_text == "would be held: counter 1.0.0 → 1.1.0. held by ada: the exam."


def test_a_check_is_said_once_and_a_remark_is_told_from_a_pass() -> None:
    assert (
        check_text(Check("counter: state 1→2", True, "counter: steps up 1→2"))
        == "counter: state 1→2: steps up 1→2"
    )
    assert (
        check_text(Check("counter: way back 2→1", True, "counter: way back 2→1: yes"))
        == "counter: way back 2→1: yes"
    )
    assert check_text(Check("app.toml", ok=False, why="unknown key")) == "app.toml: unknown key"
    assert is_remark(Check("clock → counter: tick", True, "as before"))
    assert is_remark(Check("counter: accepts what 1.0.0 accepted", True, "it goes back", loud=True))
    assert not is_remark(Check("counter: state 1→2", True, "steps"))
    assert not is_remark(Check("clock → counter: tick", False, "refused"))


def test_a_shadow_is_named_and_where_there_is_none_why() -> None:
    asks = candidate(entry("1.1.0"), shadow=Shadow(messages=500, max_mismatch=2))
    seen = replace(SEEN, candidates={"counter": asks})

    def said(group: Group, seen: Seen) -> list[str]:
        return [check_text(c) for c in shown(group, seen).checks if c.what == "counter: shadow"]

    assert said(SAME, seen) == [
        "counter: shadow: first handles 500 live messages beside 1.0.0, unheard; 2 may differ. Waits up to 60 s for them"
    ]
    assert said(SAME, SEEN) == []
    first = Group((), ("counter/v1.1.0",), (Change("counter", None, entry("1.1.0")),))
    assert "none: nothing of it is in service yet" in said(first, seen)[0]
    assert (
        "none: livetag.toml of this host says shadow = false" in said(SAME, replace(seen, shadows=False))[0]
    )
    back = Group((), ("counter/v1.1.0",), (Change("counter", entry("1.2.0"), entry("1.0.0")),))
    served = with_past(seen, switched(1.0))  # 1.0.0 has served before
    assert "none: it has been in service before" in said(back, served)[0]
    undone = with_past(seen, switched(1.0, outcome="rolled_back"))
    assert said(back, undone)[0].startswith("counter: shadow: first handles 500")
