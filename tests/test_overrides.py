"""Overrides: laid over what the refs ask for, until the refs give another release (DESIGN §4). Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from orchestrator.upgrade.candidate import Problem
from orchestrator.upgrade.checks import Live
from orchestrator.upgrade.desired import Wish, desired, wishes
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.overrides import Override, explains
from orchestrator.upgrade.overrule import Overruled, Sight, overrule
from orchestrator.upgrade.plan import Plan, Say, make_plan
from orchestrator.upgrade.reconfigure import Command, Scene, decide, hold, unhold
from orchestrator.upgrade.records import (
    Change,
    Deed,
    Entry,
    Fact,
    Held,
    Overridden,
    OverrideEnded,
    Planned,
    Prepared,
    Record,
    RolledBack,
    Unheld,
)
from orchestrator.upgrade.states import AlreadySo, CommandRefused, ModuleState, Verb
from repo_store.manifest import AppManifest, ModuleSpec
from tests.test_plan import HERE, candidate, entry, refs

TAGS = refs(counter_1_0_0="c1", counter_1_1_0="c2", rib_1_0_0="c3")
AGAINST = {"counter": ("counter/v1.1.0", "c2"), "rib": ("rib/v1.0.0", "c3")}
TABLE = {"counter": entry("counter", "1.1.0", "c2"), "rib": entry("rib", "1.0.0", "c3")}


def override(what: Deed, module: str = "counter", value: str = "", **more: Any) -> Override:
    against = more.pop("against", AGAINST.get(module))
    return Override(module, what, value, "ada", "a reason", against, seq=more.pop("seq", 1))


def laid(
    *overrides: Override, app: AppManifest | None = None, tags: Any = TAGS, table: Any = TABLE, bad: Any = ()
) -> Overruled:
    best = desired(tags, bad, prereleases=False)
    composed = None if app is None else app.modules.keys()
    return overrule(wishes(best, app, bad), overrides, Sight(tags, best, bad, composed, table))


def test_a_name_is_taken_from_a_module_that_serves_on_without_a_tag() -> None:
    """Its tags are gone, and so is the composition that gave it the name: only what is in service says that it has it."""
    table = altered(altered(TABLE, "rib", also=("front",)), "rib", enabled=False)
    found = laid(override("bind", value="front"), tags=refs(counter_1_1_0="c2"), table=table)
    assert found.wishes["counter"].also == ("front",)
    assert found.wishes["rib"].also == ()
    assert not found.wishes["rib"].enabled
    assert found.wishes["rib"].commit_id == "c3"


def test_a_name_that_the_composition_gives_away_leaves_a_module_of_which_nothing_good_is_left() -> None:
    """Its tags are gone, and the commit of the composition is in quarantine for it: it serves on, without the name."""
    app = AppManifest(modules={"counter": ModuleSpec(also=("front",)), "rib": ModuleSpec()})
    tags, bad = refs(counter_1_1_0="c2", app_1_0_0="c4"), {("rib", "c4")}
    table = altered(TABLE, "rib", also=("front", "back"))
    found = laid(app=app, tags=tags, table=table, bad=bad)
    assert found.wishes["counter"].also == ("front",)
    assert (found.wishes["rib"].also, found.wishes["rib"].commit_id) == (("back",), "c3")
    assert found.given.keys() == {"counter"}  # what is said of it is not held against what it keeps
    disabled = laid(override("disable", "rib", against=None), app=app, tags=tags, table=table, bad=bad)
    assert (disabled.wishes["rib"].also, disabled.wishes["rib"].enabled) == (("back",), False)
    bound = laid(override("bind", "rib", "front", against=None), app=app, tags=tags, table=table, bad=bad)
    assert (bound.wishes["rib"].also, bound.wishes["counter"].also) == (("back", "front"), ())
    as_it_is = altered(TABLE, "rib", also=("back",))
    assert "rib" not in laid(app=app, tags=tags, table=as_it_is, bad=bad).wishes
    unloaded = laid(override("unload", "rib", against=None), app=app, tags=tags, table=table, bad=bad)
    assert "rib" not in unloaded.wishes


def test_a_new_module_takes_its_name_from_a_module_that_serves_on_without_a_tag() -> None:
    table = altered(TABLE, "rib", also=("front",))
    found = laid(tags=refs(counter_1_1_0="c2", front_1_0_0="c5"), table=table)
    assert found.wishes["rib"].also == ()
    assert found.wishes["front"].commit_id == "c5"


def altered(table: dict[str, Entry], name: str, **more: Any) -> dict[str, Entry]:
    return {**table, name: msgspec.structs.replace(table[name], **more)}


def test_without_overrides_the_refs_are_obeyed() -> None:
    found = laid()
    assert {name: wish.ref.tag.name for name, wish in found.wishes.items()} == {
        "counter": "counter/v1.1.0",
        "rib": "rib/v1.0.0",
    }
    assert (found.leaving, found.holding, found.ended) == (frozenset(), (), ())


def test_each_verb_does_what_it_says() -> None:
    assert laid(override("disable")).wishes["counter"].enabled is False
    assert laid(override("swap", value="1.0.0")).wishes["counter"].ref.tag.name == "counter/v1.0.0"
    gone = laid(override("unload"))
    assert (set(gone.wishes), gone.leaving) == ({"rib"}, frozenset({"counter"}))
    more = laid(override("load", "second", "counter", against=None)).wishes["second"]
    assert (more.package, more.ref.tag.name) == ("counter", "counter/v1.1.0")
    assert laid(override("bind", value="total")).wishes["counter"].also == ("total",)


def test_an_override_ends_when_the_refs_give_another_release() -> None:
    newer = {**TAGS, **refs(counter_1_2_0="c9")}
    found = laid(override("disable"), override("swap", value="1.0.0"), override("disable", "rib"), tags=newer)
    assert [(o.what, why) for o, why in found.ended] == [
        ("swap", "the tags give counter/v1.2.0 now"),
        ("disable", "the tags give counter/v1.2.0 now"),
    ]
    assert found.wishes["counter"] == Wish("counter", "counter", newer["counter/v1.2.0"])
    assert found.wishes["rib"].enabled is False


def test_another_tag_on_the_same_commit_is_another_release() -> None:
    assert laid(override("disable"), tags={**TAGS, **refs(counter_1_1_1="c2")}).ended


def test_a_tag_that_is_missing_ends_nothing() -> None:
    only = refs(rib_1_0_0="c3")
    found = laid(override("disable"), tags=only)
    assert (found.ended, found.wishes["counter"].enabled) == ((), False)
    assert found.wishes["counter"].commit_id == "c2", "what is live stays"
    assert laid(tags=only).leaving == frozenset()


def test_an_override_is_over_once_the_refs_ask_for_the_same_and_it_is_so() -> None:
    disabled = altered(TABLE, "counter", enabled=False)
    assert not laid(override("enable"), table=disabled).ended, "first it has to be done"
    assert [why for _, why in laid(override("enable")).ended] == ["the tags ask for the same"]
    assert laid(override("swap", value="1.1.0")).ended
    assert laid(override("unbind", value="total")).ended
    without = {name: row for name, row in TABLE.items() if name != "counter"}
    assert not laid(override("load", value="counter"), table=without).ended
    assert laid(override("load", value="counter")).ended


def test_a_swap_ends_where_its_tag_is_gone_or_in_quarantine() -> None:
    swapped = override("swap", value="1.0.0")
    tags = {name: at for name, at in TAGS.items() if name != "counter/v1.0.0"}
    assert [why for _, why in laid(swapped, tags=tags).ended] == ["the tag counter/v1.0.0 is gone"]
    assert laid(swapped, bad={("counter", "c1")}).ended
    assert laid(swapped, bad={("counter", "c1")}).wishes["counter"].commit_id == "c2"


def test_a_swap_outlives_the_deletion_of_the_tag_that_serves_by_it() -> None:
    swapped = override("swap", value="1.0.0")
    table = {**TABLE, "counter": entry("counter", "1.0.0", "c1")}
    tags = {name: at for name, at in TAGS.items() if name != "counter/v1.0.0"}
    found = laid(swapped, tags=tags, table=table)
    assert not found.ended
    assert found.wishes["counter"].commit_id == "c1", "a missing tag changes nothing that is live"


def test_a_loaded_module_follows_its_package_and_what_else_was_done_to_it_ends_then() -> None:
    load = override("load", "second", "counter", against=None)
    swap = override("swap", "second", "1.0.0", against=("counter/v1.1.0", "c2"), seq=2)
    table = {**TABLE, "second": entry("counter", "1.0.0", "c1")}
    assert laid(load, swap, table=table).wishes["second"].commit_id == "c1"
    newer = laid(load, swap, table=table, tags={**TAGS, **refs(counter_1_2_0="c9")})
    assert newer.wishes["second"].commit_id == "c9"
    assert [o.what for o, _ in newer.ended] == ["swap"]


def test_a_composition_takes_out_what_it_does_not_name_but_not_what_a_person_loaded() -> None:
    app = AppManifest(modules={"counter": ModuleSpec()})
    load = override("load", "second", "counter", against=None)
    table = {**TABLE, "second": entry("counter", "1.1.0", "c2")}
    found = laid(load, override("disable", "rib", seq=2), app=app, table=table)
    assert found.leaving == {"rib"}
    assert [(o.module, why) for o, why in found.ended] == [("rib", "the composition has no rib any more")]


def test_a_composition_that_comes_to_name_a_loaded_module_has_it_from_then_on() -> None:
    app = AppManifest(modules={"second": ModuleSpec(package="rib"), "counter": ModuleSpec()})
    found = laid(override("load", "second", "counter", against=None), app=app)
    assert found.wishes["second"].package == "rib"
    assert found.ended


def test_a_release_that_a_hold_keeps_back_ends_no_override() -> None:
    tags = {**TAGS, **refs(counter_1_2_0="c9")}
    best = desired(tags, (), prereleases=False)
    sight = Sight(tags, best, (), None, TABLE, held={"counter"})
    found = overrule(wishes(best, None), [override("disable")], sight)
    assert (found.ended, found.wishes["counter"].enabled) == ((), False)


def test_a_name_is_moved_from_the_module_that_has_it() -> None:
    app = AppManifest(modules={"counter": ModuleSpec(also=("front",)), "rib": ModuleSpec()})
    found = laid(override("bind", "rib", "front"), app=app)
    assert (found.wishes["counter"].also, found.wishes["rib"].also) == ((), ("front",))
    taken = laid(override("unbind", "counter", "front"), app=app)
    assert taken.wishes["counter"].also == ()


def test_a_module_s_other_overrides_end_when_it_is_unloaded() -> None:
    without = {"rib": TABLE["rib"]}
    found = laid(override("unload"), override("disable", seq=2), table=without)
    assert [(o.what, why) for o, why in found.ended] == [("disable", "counter is loaded no more")]
    assert [o.what for o in found.holding] == ["unload"]
    assert laid(override("unload", against=None), table=without, tags=refs(rib_1_0_0="c3")).ended


# -- in the plan ---------------------------------------------------------------------------------------------------


def planned(
    overruled: Overruled,
    table: dict[str, Entry] = TABLE,
    failed: Collection[str] = (),
    broken: Collection[str] = (),
    **say: Any,
) -> Plan:
    """`failed` are the modules that could not come back, `broken` those whose wished release cannot be staged."""
    found = {n: candidate(w.ref.tag.name, w.commit_id, name=n) for n, w in overruled.wishes.items()}
    for name, wish in overruled.wishes.items():
        problem = Problem(f"{wish.ref.tag.name} does not compile", "release") if name in broken else None
        found[name] = replace(found[name], wish=wish, problem=problem)
    return make_plan(
        found,
        table,
        app_ref=None,
        live={name: Live() for name in table if name not in failed},
        environment=HERE,
        say=Say(overruled.leaving, overruled.holding, **say),
    )


def test_what_a_command_asks_for_is_a_transaction_of_its_own_that_blames_no_release() -> None:
    tags = {**TAGS, **refs(rib_1_1_0="c1")}  # a release at the very commit that is swapped in
    found = planned(laid(override("swap", value="1.0.0"), tags=tags))
    assert [(g.tags, g.keys) for g in found.ready] == [
        (("livetag swap counter 1.0.0",), ()),
        (("rib/v1.1.0",), (("rib", "c1"),)),
    ]


def test_a_name_that_moves_is_one_transaction_of_both_modules() -> None:
    table = altered(TABLE, "counter", also=("front",))
    app = AppManifest(modules={"counter": ModuleSpec(also=("front",)), "rib": ModuleSpec()})
    found = planned(laid(override("bind", "rib", "front"), app=app, table=table), table)
    assert [[c.name for c in g.changes] for g in found.ready] == [["counter", "rib"]]


def test_modules_that_exchange_names_are_one_transaction_though_their_commits_differ() -> None:
    table = altered(altered(TABLE, "counter", also=("a",)), "rib", also=("b",))
    one, two = candidate("counter/v1.2.0", "c8"), candidate("rib/v1.2.0", "c9")
    found = {
        "counter": replace(one, wish=replace(one.wish, also=("b",))),
        "rib": replace(two, wish=replace(two.wish, also=("a",))),
    }
    plan = make_plan(found, table, app_ref=None, live={}, environment=HERE)
    assert [[c.name for c in g.changes] for g in plan.ready] == [["counter", "rib"]]


def test_a_hold_keeps_tags_from_going_and_not_what_a_person_asks_for() -> None:
    tags = {**TAGS, **refs(counter_1_2_0="c9")}
    ledger = folded(Held("counter", "ada", "freeze"))
    kept = planned(laid(override("disable", "rib"), tags=tags), holds=ledger.holds)
    assert [g.held for g in kept.held] == ["held by ada: freeze; livetag unhold counter"]
    assert [g.tags for g in kept.ready] == [("livetag disable rib",)]
    by_hand = planned(
        laid(tags=tags), holds=folded(Held("", "ada", "freeze")).holds, by_hand={"counter/v1.2.0"}
    )
    assert [g.tags for g in by_hand.ready] == [("counter/v1.2.0",)]


def test_a_command_takes_no_release_with_it_that_is_held_or_waits() -> None:
    tags = {**TAGS, **refs(counter_1_2_0="c9")}
    made_now = override("disable", against=("counter/v1.2.0", "c9"))
    holds = folded(Held("", "ada", "freeze")).holds
    found = planned(laid(made_now, tags=tags), holds=holds)
    disabled = altered(TABLE, "counter", enabled=False)["counter"]
    assert [g.changes for g in found.ready] == [(Change("counter", TABLE["counter"], disabled),)]
    assert [(g.tags, g.changes[0].before) for g in found.held] == [(("counter/v1.2.0",), disabled)]


def test_a_command_is_not_refused_for_a_release_that_is_held_and_broken() -> None:
    tags = {**TAGS, **refs(counter_1_2_0="c9")}
    made_now = override("disable", against=("counter/v1.2.0", "c9"))
    holds = folded(Held("", "ada", "freeze")).holds
    found = planned(laid(made_now, tags=tags), broken={"counter"}, holds=holds)
    assert [g.tags for g in found.ready] == [("livetag disable counter",)]
    assert [g.tags for g in found.held] == [("counter/v1.2.0",)]


@pytest.mark.parametrize("newer", ["", "c9"])
def test_a_command_loads_nothing_that_could_not_come_back(newer: str) -> None:
    """With a newer release held, the code of that one was loaded under the name and version of the one in the table."""
    tags = {**TAGS, **refs(counter_1_2_0=newer)} if newer else TAGS
    given = ("counter/v1.2.0", "c9") if newer else AGAINST["counter"]
    holds = folded(Held("", "ada", "freeze")).holds
    table = altered(TABLE, "counter", enabled=False)
    enable = override("enable", against=given)
    found = planned(laid(enable, tags=tags, table=table), table, failed={"counter"}, holds=holds)
    assert (found.ready, found.refused) == ((), ())
    assert [(g.tags, g.overrides) for g in found.waiting] == [(("livetag enable counter",), (enable,))]
    assert found.waiting[0].waits.startswith("counter: it could not come back at the start of the host. Push")
    assert len(found.held) == bool(newer)


def test_a_command_takes_a_name_from_what_could_not_come_back() -> None:
    """It was refused for what is so of that module."""
    app = AppManifest(modules={"counter": ModuleSpec(also=("front",)), "rib": ModuleSpec()})
    table = altered(TABLE, "counter", also=("front",))
    bind = override("bind", "rib", "front")
    found = planned(laid(bind, app=app, table=table), table, failed={"counter"})
    assert [(c.name, c.after and c.after.also) for c in found.unchanged] == [("counter", ())]
    assert [[(c.name, c.after and c.after.also) for c in g.changes] for g in found.ready] == [
        [("rib", ("front",))]
    ]
    assert found.waiting == ()


def test_what_could_not_come_back_can_be_swapped() -> None:
    found = planned(laid(override("swap", value="1.0.0")), failed={"counter"})
    assert [g.tags for g in found.ready] == [("livetag swap counter 1.0.0",)]


def test_what_a_person_says_goes_even_where_its_module_is_held() -> None:
    found = planned(laid(override("disable")), holds=folded(Held("", "ada", "freeze")).holds)
    assert (len(found.ready), found.held) == (1, ())


# -- in the ledger -------------------------------------------------------------------------------------------------


def folded(*facts: Fact) -> Ledger:
    return fold(Record(n, float(n), fact, b"") for n, fact in enumerate(facts, 1))


def told(what: Deed, module: str = "counter", value: str = "") -> Overridden:
    return Overridden(module, what, value, "ada", "a reason", AGAINST.get(module))


def test_one_override_of_each_kind_holds_and_one_that_fails_gives_back_the_one_before() -> None:
    found = folded(told("disable"), told("swap", value="1.0.0"), told("enable"))
    assert {o.what for o in found.overrides.values()} == {"swap", "enable"}
    back = folded(
        told("disable"), told("enable"), OverrideEnded("counter", "enable", "", "no", restores=True)
    )
    assert [o.what for o in back.overrides.values()] == ["disable"]
    over = folded(told("disable"), told("enable"), OverrideEnded("counter", "enable", "", "the same"))
    assert over.overrides == {}


def test_a_name_has_one_override_whichever_module_it_is_of() -> None:
    found = folded(told("bind", value="front"), told("bind", "rib", "front"))
    assert [(o.module, o.value) for o in found.overrides.values()] == [("rib", "front")]


def test_holds_are_kept_until_they_are_ended() -> None:
    found = folded(Held("", "ada", "freeze"), Held("rib", "bob", "demo"), Unheld("", "ada", ""))
    assert {name: h.why for name, h in found.holds.items()} == {"rib": "demo"}


def test_a_death_while_a_module_was_disabled_is_no_mark_against_its_release() -> None:
    change = altered(TABLE, "counter", enabled=False)["counter"]
    died: list[Fact] = [
        Planned(1, (Change("counter", TABLE["counter"], change),), "livetag disable counter", "ada"),
        Prepared(1),
        RolledBack(1, "the host died", "died"),
    ]
    assert folded(*died).deaths == {}


# -- decided -------------------------------------------------------------------------------------------------------


def scene(*facts: Fact, app: AppManifest | None = None, **states: ModuleState) -> Scene:
    ledger = folded(*facts)
    ledger = replace(ledger, table=TABLE)
    best = desired(TAGS, (), prereleases=False)
    known = dict.fromkeys(TABLE, ModuleState.IN_SERVICE) | states
    return Scene(ledger, TAGS, best, laid(*ledger.overrides.values(), app=app), known)


def test_a_command_is_made_against_what_the_refs_give() -> None:
    facts = decide(Command(Verb.DISABLE, "counter", who="ada", why="x"), scene())
    assert facts == [Overridden("counter", "disable", "", "ada", "x", ("counter/v1.1.0", "c2"))]
    facts = decide(Command(Verb.LOAD, "second", "counter", "1.0.0", True, "ada", "x"), scene())
    assert [(f.what, f.value, f.against) for f in facts] == [
        ("load", "counter", None),
        ("swap", "1.0.0", ("counter/v1.1.0", "c2")),
        ("disable", "", ("counter/v1.1.0", "c2")),
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Command(Verb.DISABLE, "cuonter"), "There is no module cuonter"),
        (Command(Verb.SWAP, "counter", "7.0.0"), "Releases of counter: counter/v1.0.0, counter/v1.1.0"),
        (Command(Verb.LOAD, "Second!", "counter"), "cannot name a module"),
        (Command(Verb.LOAD, "other"), "Released packages: counter, rib"),
        (Command(Verb.LOAD, "counter", "rib"), "counter is loaded already, as counter"),
        (Command(Verb.BIND, "counter", "rib"), "which stays with it"),
        (Command(Verb.UNBIND, "", "nothing"), "Nothing is bound to nothing"),
        (Command(Verb.UNBIND, "", "rib"), "the module's own name"),
        (Command(Verb.ENABLE, "gone"), "livetag load brings it back"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(command: Command, said: str) -> None:
    with pytest.raises(CommandRefused, match=said):
        decide(command, scene(gone=ModuleState.UNLOADED))


def test_what_is_so_already_is_said() -> None:
    with pytest.raises(AlreadySo, match=r"already counter/v1\.1\.0"):
        decide(Command(Verb.SWAP, "counter", "v1.1.0"), scene())
    with pytest.raises(AlreadySo, match="already held by ada"):
        hold("", "bob", "x", scene(Held("", "ada", "freeze")))
    with pytest.raises(AlreadySo, match="Nothing is held"):
        unhold("", "bob", "", scene())
    with pytest.raises(CommandRefused, match=r"Nothing holds rib alone.*livetag unhold"):
        unhold("rib", "bob", "", scene(Held("", "ada", "freeze")))


def test_a_change_is_explained_by_the_override_that_asked_for_it_and_by_no_other() -> None:
    off = altered(TABLE, "counter", enabled=False)["counter"]
    disable, on = override("disable"), TABLE["counter"]
    assert explains(disable, Change("counter", on, off))
    assert not explains(disable, Change("counter", off, on))
    assert not explains(disable, Change("counter", on, altered(TABLE, "counter", config={"n": 1})["counter"]))
    assert not explains(override("load", value="counter"), Change("counter", on, off))
