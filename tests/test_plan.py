"""The plan: a pure function from refs, table and quarantine to what is to be done (DESIGN §4, §7.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.checks import Environment, Live
from orchestrator.upgrade.desired import Wish, desired, wishes
from orchestrator.upgrade.plan import Plan, Say, make_plan
from orchestrator.upgrade.records import Entry
from repo_store.manifest import AppManifest, ModuleManifest, ModuleSpec, Requires
from repo_store.release import RefMap, Release, Tag, TagRef, Version, parse_tag

HERE = Environment("3.11.7", {"msgspec": "0.19.0"})


def ref(name: str, commit: str | None = "c1") -> TagRef:
    tag = parse_tag(name)
    assert tag is not None
    return TagRef(tag, f"object of {name}", commit)


def refs(**commits: str) -> RefMap:
    """`counter_1_0_0="c1"` → the tag counter/v1.0.0 on commit c1."""
    found = {}
    for key, commit in commits.items():
        package, version = key.split("_", 1)
        name = f"{package}/v{version.replace('_', '.')}"
        found[name] = ref(name, commit)
    return found


def description(*handles: str, version: int = 1, steps: tuple[tuple[int, int], ...] = ()) -> Description:
    return Description("x:X", {name: {} for name in handles}, (), {}, (), version, {}, steps)


def candidate(
    tag: str,
    commit: str,
    *,
    tree: str = "",
    said: Description | None = None,
    name: str | None = None,
    **manifest: Any,
) -> Candidate:
    at = ref(tag, commit)
    package = at.tag.package
    wish = Wish(name or package, package, at)
    release = Release(package, str(at.tag.version), tag, commit, tree or f"tree of {commit}", at.object_id)
    return Candidate(wish, release, ModuleManifest(**manifest), said or description("tick"))


def entry(name: str, version: str, commit: str, *, tree: str = "", state_version: int = 1) -> Entry:
    tag = f"{name}/v{version}"
    return Entry(
        name,
        name,
        version,
        tag,
        commit,
        tree or f"tree of {commit}",
        f"object of {tag}",
        state_version=state_version,
    )


def plan(candidates: list[Candidate], table: list[Entry], **more: Any) -> Plan:
    return make_plan(
        {c.wish.name: c for c in candidates},
        {e.name: e for e in table},
        app_ref=more.get("app_ref"),
        say=more.get("say") or Say(_leaving(candidates, table) if "app_ref" in more else ()),
        live={e.name: Live() for e in table} if "live" not in more else more["live"],
        environment=HERE,
        together=more.get("together", ()),
    )


def _leaving(candidates: list[Candidate], table: list[Entry]) -> set[str]:
    """Whom a composition of just these modules sends away."""
    return {e.name for e in table} - {c.wish.name for c in candidates}


def test_the_highest_version_of_each_package_is_desired() -> None:
    found = desired(refs(counter_1_9_0="c1", counter_1_10_0="c2", rib_2_0_0="c1"), {}, prereleases=False)
    assert {package: at.tag.name for package, at in found.items()} == {
        "counter": "counter/v1.10.0",
        "rib": "rib/v2.0.0",
    }


def test_a_quarantined_commit_is_passed_over_for_its_package_only() -> None:
    tags = refs(counter_1_0_0="c1", counter_1_1_0="c2", rib_1_1_0="c2")
    found = desired(tags, {("counter", "c2"): None}, prereleases=False)
    assert {package: at.commit_id for package, at in found.items()} == {"counter": "c1", "rib": "c2"}


def test_a_pre_release_is_desired_only_where_it_is_asked_for() -> None:
    tags = {**refs(counter_1_0_0="c1"), "counter/v1.1.0-rc.1": ref("counter/v1.1.0-rc.1", "c2")}
    assert desired(tags, {}, prereleases=False)["counter"].commit_id == "c1"
    assert desired(tags, {}, prereleases=True)["counter"].commit_id == "c2"


def test_a_tag_that_leads_to_no_commit_is_never_desired() -> None:
    assert desired({"counter/v1.0.0": ref("counter/v1.0.0", None)}, {}, prereleases=False) == {}


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 3), st.sampled_from("xyz")),
        max_size=12,
    )
)
def test_what_is_desired_does_not_depend_on_the_order_of_arrival(
    rows: list[tuple[str, int, int, str]],
) -> None:
    found = {}
    for package, major, minor, commit in rows:
        tag = Tag(package, Version(major, minor, 0))
        found[tag.name] = TagRef(tag, commit, commit)
    backwards = dict(reversed(list(found.items())))
    quarantine = {("a", "x")}
    assert desired(found, quarantine, prereleases=False) == desired(backwards, quarantine, prereleases=False)


def test_without_a_composition_every_package_is_a_module() -> None:
    tags = desired(refs(counter_1_0_0="c1", rib_1_0_0="c1"), {}, prereleases=False)
    assert set(wishes(tags, None)) == {"counter", "rib"}


def test_a_composition_names_modules_and_gives_packages_without_a_tag_its_own_commit() -> None:
    tags = desired(refs(counter_1_0_0="c1", app_1_0_0="c9"), {}, prereleases=False)
    app = AppManifest(
        modules={
            "first": ModuleSpec(package="counter", config={"n": 1}, also=("one",)),
            "second": ModuleSpec(package="counter"),
            "logger": ModuleSpec(),
            "idle": ModuleSpec(package="counter", enabled=False),
        }
    )
    found = wishes(tags, app)
    assert {name: (w.package, w.commit_id) for name, w in found.items()} == {
        "first": ("counter", "c1"),
        "second": ("counter", "c1"),
        "logger": ("logger", "c9"),
        "idle": ("counter", "c1"),
    }
    assert [name for name, wish in found.items() if not wish.enabled] == ["idle"]
    assert (found["first"].config, found["first"].also) == ({"n": 1}, ("one",))


def test_what_is_in_service_already_needs_nothing() -> None:
    same = candidate("counter/v1.0.0", "c1")
    assert plan([same], [entry("counter", "1.0.0", "c1")]) == Plan()


def test_the_same_tree_under_another_tag_is_recorded_not_swapped() -> None:
    found = plan([candidate("counter/v1.1.0", "c2", tree="t")], [entry("counter", "1.0.0", "c1", tree="t")])
    assert (found.ready, [change.name for change in found.unchanged]) == ((), ["counter"])


def test_packages_of_one_commit_are_one_group_and_of_two_commits_two() -> None:
    both = plan([candidate("counter/v1.1.0", "c2"), candidate("rib/v1.1.0", "c2")], [])
    assert [sorted(c.name for c in group.changes) for group in both.ready] == [["counter", "rib"]]
    assert both.ready[0].keys == (("counter", "c2"), ("rib", "c2"))
    apart = plan([candidate("counter/v1.1.0", "c2"), candidate("rib/v1.1.0", "c3")], [])
    assert len(apart.ready) == 2


def test_without_a_composition_what_keeps_its_release_goes_alone() -> None:
    """One that could not come back kept the others of its commit as the composition before had them, for ever."""
    table = [entry(name, "1.0.0", "c1") for name in ("counter", "rib")]
    table[0] = msgspec.structs.replace(table[0], enabled=False)
    table[1] = msgspec.structs.replace(table[1], config={"size": 2})
    asked = [candidate(f"{name}/v1.0.0", "c1") for name in ("counter", "log", "rib")]
    apart = plan(asked, table)
    assert [(g.keys, [c.name for c in g.changes]) for g in apart.ready] == [
        ((), ["counter"]),
        ((("log", "c1"),), ["log"]),
        ((), ["rib"]),
    ]
    composed = plan(asked, table, app_ref=ref("app/v1.0.0", "c9"))
    assert [[c.name for c in g.changes] for g in composed.ready] == [["counter", "log", "rib"]]


def test_what_is_not_loaded_changes_its_row_alone_and_keeps_nothing_from_going() -> None:
    """It was loaded for that: the failure was held against the composition, and a death in it against nobody."""
    table = [entry(name, "1.0.0", "c1") for name in ("counter", "rib")]
    table[0] = msgspec.structs.replace(table[0], enabled=False, also=("front",))
    asked = [candidate(f"{name}/v1.0.0", "c1") for name in ("counter", "rib")]
    asked[0] = replace(asked[0], problem=Problem("it cannot be staged", "release"))
    asked[1] = replace(asked[1], wish=replace(asked[1].wish, also=("front",)))
    found = plan(asked, table, app_ref=ref("app/v1.0.0", "c9"), live={"rib": Live()})
    assert [c.after for c in found.unchanged] == [entry("counter", "1.0.0", "c1")]
    assert [(g.keys, [c.name for c in g.changes]) for g in found.ready] == [((("app", "c9"),), ["rib"])]
    assert (found.refused, found.waiting) == ((), ())


def test_a_release_that_is_not_loaded_and_cannot_be_staged_changes_no_row() -> None:
    """It would be recorded anew in each look, and no look would end."""
    asked = replace(candidate("counter/v1.0.0", "c1"), problem=Problem("it cannot be staged", "release"))
    found = plan([asked], [entry("counter", "1.0.0", "c1")], app_ref=ref("app/v1.0.0", "c9"), live={})
    assert ([g.keys for g in found.refused], found.unchanged) == ([()], ())


def test_a_change_of_config_or_code_loads_what_could_not_come_back() -> None:
    """With another config it may come into service."""
    asked = candidate("counter/v1.0.0", "c1")
    asked = replace(asked, wish=replace(asked.wish, config={"port": 2}))
    found = plan([asked], [entry("counter", "1.0.0", "c1")], app_ref=ref("app/v1.0.0", "c9"), live={})
    assert ([g.keys for g in found.ready], found.unchanged) == ([(("app", "c9"),)], ())


def test_a_row_gets_no_name_that_another_one_still_has() -> None:
    """Two rows of one name would end each start of the host."""

    def bound(name: str, *also: str) -> Candidate:
        found = candidate(f"{name}/v1.0.0", "c1")
        return replace(found, wish=replace(found.wish, also=also))

    def row(name: str, *also: str) -> Entry:
        return msgspec.structs.replace(entry(name, "1.0.0", "c1"), also=also)

    at, counter = ref("app/v1.0.0", "c9"), bound("counter", "front")
    table = [row("counter"), row("rib", "front")]
    first = plan([counter, bound("rib")], table, app_ref=at, live={"rib": Live()})
    assert (len(first.ready), first.unchanged) == (1, ())  # rib gives it away first
    then = plan([counter, bound("rib")], [table[0], row("rib")], app_ref=at, live={"rib": Live()})
    assert [c.name for c in then.unchanged] == ["counter"]
    both = plan([counter, bound("rib")], table, app_ref=at, live={})
    assert [c.name for c in both.unchanged] == ["counter", "rib"]
    chain = [counter, bound("rib", "back"), bound("log")]
    later = plan(chain, [*table, row("log", "back")], app_ref=at, live={"log": Live()})
    assert later.unchanged == ()  # rib waits for log, so counter for rib


def test_one_bad_release_refuses_its_whole_group_and_no_other() -> None:
    bad = replace(candidate("counter/v1.1.0", "c2"), problem=Problem("syntax error", "release"))
    found = plan([bad, candidate("rib/v1.1.0", "c2"), candidate("log/v1.0.0", "c3")], [])
    assert [group.tags for group in found.refused] == [("counter/v1.1.0", "rib/v1.1.0")]
    assert [group.tags for group in found.ready] == [("log/v1.0.0",)]
    assert found.refused[0].refused == Problem("syntax error", "release")


def test_a_requirement_on_a_module_waits_until_it_is_met() -> None:
    needs = candidate("rib/v1.0.0", "c2", requires=Requires(modules={"counter": ">=1.1"}))
    alone = plan([needs], [entry("counter", "1.0.0", "c1")])
    assert (alone.ready, len(alone.waiting)) == ((), 1)
    assert alone.waiting[0].waits == "rib requires counter >=1.1, and counter 1.0.0 is in service"
    met = plan([needs, candidate("counter/v1.1.0", "c3")], [entry("counter", "1.0.0", "c1")])
    assert [group.tags for group in met.ready] == [("counter/v1.1.0",), ("rib/v1.0.0",)]


def test_groups_that_hold_only_together_are_one_transaction() -> None:
    one = candidate("a/v1.0.0", "c1", requires=Requires(modules={"b": ">=1"}))
    two = candidate("b/v1.0.0", "c2", requires=Requires(modules={"a": ">=1"}))
    found = plan([one, two], [])
    assert [group.tags for group in found.ready] == [("a/v1.0.0", "b/v1.0.0")]
    assert found.ready[0].keys == (("a", "c1"), ("b", "c2"))


def test_a_missing_distribution_and_a_wrong_python_are_said_with_what_the_host_has() -> None:
    wants = Requires(python=">=3.12", distributions=("msgspec>=99", "left-pad", "msgspec>=0.19"))
    found = plan([candidate("counter/v1.0.0", "c1", requires=wants)], [])
    reason = found.refused[0].refused
    assert reason is not None
    assert "requires Python >=3.12, this host runs 3.11.7" in reason.reason
    assert "msgspec>=99; the host has 0.19.0" in reason.reason
    assert "left-pad; the host does not have it" in reason.reason
    assert "0.19;" not in reason.reason.replace("0.19.0", "")


def test_a_release_that_accepts_less_must_say_so() -> None:
    live = {"counter": Live(frozenset({"tick", "reset"}))}
    table = [entry("counter", "1.0.0", "c1")]
    silent = plan([candidate("counter/v1.1.0", "c2", said=description("tick"))], table, live=live)
    reason = silent.refused[0].refused
    assert reason is not None
    assert "no longer handles 'reset'" in reason.reason
    said = plan(
        [candidate("counter/v1.1.0", "c2", said=description("tick"), drops=("reset",))], table, live=live
    )
    assert len(said.ready) == 1


def test_going_back_to_a_version_that_knew_fewer_types_is_allowed() -> None:
    live = {"counter": Live(frozenset({"tick", "reset"}))}
    old = candidate("counter/v1.1.1", "c1", said=description("tick"))
    assert old.release is not None
    back = replace(old, release=replace(old.release, version="1.0.0"))
    found = plan([back], [entry("counter", "1.1.0", "c2")], live=live)
    assert [group.tags for group in found.ready] == [("counter/v1.1.1",)]
    assert "messages of type 'reset' that still wait go to the dead letters" in found.ready[0].checks[0].why


def test_a_composition_that_serves_is_not_blamed_for_a_release_at_its_commit() -> None:
    bad = replace(candidate("counter/v1.2.0", "c1"), problem=Problem("broken", "release"))
    serving = [entry("counter", "1.1.0", "c2"), entry("rib", "1.0.0", "c1")]
    found = plan([bad, candidate("rib/v1.0.0", "c1")], serving, app_ref=ref("app/v1.0.0", "c1"))
    assert [(group.keys, group.tags) for group in found.refused] == [
        ((("counter", "c1"),), ("counter/v1.2.0",))
    ]


def test_a_new_state_needs_a_way_up_and_a_way_back() -> None:
    table = [entry("counter", "1.0.0", "c1")]

    def reason(said: Description, **manifest: Any) -> str | None:
        found = plan([candidate("counter/v2.0.0", "c2", said=said, **manifest)], table)
        return found.refused[0].refused.reason if found.refused and found.refused[0].refused else None

    assert "No migration leads from state version 1 to 2" in str(reason(description("tick", version=2)))
    assert "no way back from state version 2 to 1" in str(
        reason(description("tick", version=2, steps=((1, 2),)))
    )
    assert reason(description("tick", version=2, steps=((1, 2),)), one_way=True) is None
    assert reason(description("tick", version=2, steps=((1, 2), (2, 1)))) is None


def test_a_way_down_is_taken_from_the_version_that_leaves() -> None:
    table = [entry("counter", "2.0.0", "c2", state_version=2)]
    back = candidate("counter/v2.0.1", "c1", said=description("tick"))
    without = plan([back], table)
    assert without.refused
    with_step = plan([back], table, live={"counter": Live(frozenset(), frozenset({(1, 2), (2, 1)}))})
    assert len(with_step.ready) == 1


def test_a_module_leaves_only_by_the_composition() -> None:
    table = [entry("counter", "1.0.0", "c1"), entry("rib", "1.0.0", "c1")]
    assert plan([candidate("counter/v1.0.0", "c1")], table) == Plan()
    found = plan([candidate("counter/v1.0.0", "c1")], table, app_ref=ref("app/v1.0.0", "c5"))
    assert [(c.name, c.after) for group in found.ready for c in group.changes] == [("rib", None)]
    assert found.ready[0].tags == ("app/v1.0.0",)
    assert found.ready[0].keys == (("app", "c5"),)


def test_a_changed_config_is_a_swap_by_the_composition_which_alone_is_to_blame() -> None:
    same_code = candidate("counter/v1.0.0", "c1")
    other = replace(same_code, wish=replace(same_code.wish, config={"port": 2}))
    found = plan([other], [entry("counter", "1.0.0", "c1")], app_ref=ref("app/v1.1.0", "c7"))
    assert [(group.tags, group.keys) for group in found.ready] == [(("app/v1.1.0",), (("app", "c7"),))]


def test_a_module_that_is_loaded_already_keeps_its_state_version_when_only_its_names_change() -> None:
    loaded = replace(candidate("counter/v1.0.0", "c1"), description=None)
    other = replace(loaded, wish=replace(loaded.wish, also=("total",), enabled=False))
    table = [entry("counter", "1.0.0", "c1", state_version=3)]
    change = plan([other], table, app_ref=ref("app/v1.1.0", "c7")).ready[0].changes[0]
    assert change.after is not None
    assert (change.after.also, change.after.enabled, change.after.state_version) == (("total",), False, 3)


def test_tags_of_one_rollback_are_one_transaction_whatever_their_commits() -> None:
    tags = [candidate("a/v1.0.1", "c1"), candidate("b/v1.0.1", "c2"), candidate("c/v1.0.0", "c3")]
    together = plan(tags, [], together=[frozenset({"a/v1.0.1", "b/v1.0.1"})])
    assert [group.tags for group in together.ready] == [("a/v1.0.1", "b/v1.0.1"), ("c/v1.0.0",)]
