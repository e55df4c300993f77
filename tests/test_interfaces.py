"""The matrix: which changes of interfaces are refused or wait, with the right words, and which pass (DESIGN §4, §7.1).

Each row is a small application in service, what is pushed, and what the plan makes of it. Sources are real module code.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import msgspec
import pytest

from livetag import Module
from orchestrator.runtime.blueprint import Blueprint, describe
from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Environment, Live
from orchestrator.upgrade.desired import Wish
from orchestrator.upgrade.emits import completed, declared, scan_source
from orchestrator.upgrade.plan import Group, Plan, make_plan
from orchestrator.upgrade.records import Entry
from repo_store.manifest import ModuleManifest
from repo_store.release import Release, TagRef, parse_tag

HERE = Environment("3.11.7", {})
ABOVE = """
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from msgspec import Meta, Struct
from livetag import Module, handles, subscribes, upcasts
"""


def takes(parameters: str = "", *, name: str = "order", above: str = "", more: str = "") -> str:
    """A module that handles one type; `more` are further lines of the class."""
    lines = f"class It(Module):\n    @handles\n    def {name}(self, {parameters}) -> None: ...\n"
    return f"{above}\n{lines}{textwrap.indent(textwrap.dedent(more), '    ')}\n"


def says(call: str) -> str:
    """A module that does one call when it is asked to `go`."""
    return f"class It(Module):\n    @handles\n    async def go(self) -> None:\n        {call}\n"


@cache
def description(source: str, emits: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> Description:
    """What the describing child would say of a module with this code."""
    namespace: dict[str, Any] = {"__name__": "m"}
    exec(ABOVE + source, namespace)  # noqa: S102  # the test's own code
    found = describe(Blueprint(namespace["It"]), "m:It")
    assert issubclass(namespace["It"], Module)
    scanned = scan_source(ABOVE + source, "m/__init__.py")
    return msgspec.structs.replace(found, emits=completed(tuple(scanned), declared(dict(emits))))


@dataclass(frozen=True)
class Push:
    """One release that is pushed: its code, the commit it is on, and its module.toml."""

    tag: str
    source: str
    commit: str = "c2"
    drops: tuple[str, ...] = ()
    emits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""  # the module, if it is not named as its package
    also: tuple[str, ...] = ()
    own: str = ""  # its own version, if the tag is on an older commit

    def candidate(self) -> Candidate:
        parsed = parse_tag(self.tag)
        assert parsed is not None
        wish = Wish(
            self.name or parsed.package,
            parsed.package,
            TagRef(parsed, f"o {self.tag}", self.commit),
            also=self.also,
        )
        version = self.own or str(parsed.version)
        release = Release(parsed.package, version, self.tag, self.commit, f"t {self.tag}", f"o {self.tag}")
        manifest = ModuleManifest(drops=self.drops, emits=dict(self.emits))
        return Candidate(wish, release, manifest, description(self.source, tuple(self.emits.items())))


@dataclass(frozen=True)
class Row:
    what: str
    live: Mapping[str, str]  # module, or module:package, in service at 1.0.0 → its code
    pushes: tuple[Push, ...]
    outcome: str = "ready"
    why: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def plan(self) -> Plan:
        table, live, candidates = {}, {}, {}
        for key, source in self.live.items():
            name, _, package = key.partition(":")
            tag = f"{package or name}/v1.0.0"
            also = self.also.get(name, ())
            table[name] = Entry(name, package or name, "1.0.0", tag, "c1", f"t {tag}", f"o {tag}", also=also)
            said = description(source)
            live[name] = Live(frozenset(said.handles), frozenset(), said)
            at = parse_tag(tag)
            assert at is not None
            candidates[name] = Candidate(
                Wish(name, package or name, TagRef(at, f"o {tag}", "c1"), also=also),
                Release(package or name, "1.0.0", tag, "c1", f"t {tag}", f"o {tag}"),
            )
        for push in self.pushes:
            candidate = push.candidate()
            candidates[candidate.wish.name] = candidate
        return make_plan(candidates, table, app_ref=None, live=live, environment=HERE)


def successor(
    what: str, before: str, after: str, why: str = "", *, above: str = "", more: str = "", **push: Any
) -> Row:
    """The handler of one type, before and after."""
    pushed = Push("shop/v1.1.0", takes(after, above=above, more=more), **push)
    live = {"shop": takes(before, above=above)}
    return Row(what, live, (pushed,), "refused" if why else "ready", (why,) if why else ())


def edge(what: str, call: str, handler: str, why: str = "", **more: Any) -> Row:
    """A new sender to a shop in service."""
    pushed = (Push("till/v1.0.0", says(call)),)
    return Row(what, {"shop": handler}, pushed, "waiting" if why else "ready", (why,) if why else (), **more)


TYPES = """
class Order(TypedDict):
    sku: str
class Loose(TypedDict, total=False):
    sku: str
class Item(TypedDict):
    weight: int
class Heavy(TypedDict):
    weight: float
class Light(TypedDict):
    weight: str
class Size(Enum):
    SMALL = "s"
    LARGE = "l"
"""
OLD_SHAPE = """
@upcasts("order", 1, 2)
def _old(self, sku: str) -> dict:
    return {"name": sku}
"""
TWO = takes("sku: str", more="@handles\ndef cancel(self, sku: str) -> None: ...")

ROWS = (
    # a version and the one before it: the fields of one type
    successor("nothing changed", "sku: str", "sku: str"),
    successor("an optional field is added", "sku: str", "sku: str, count: int = 1"),
    successor("a required field is added", "sku: str", "sku: str, count: int", "count: new, and required"),
    successor("a field is removed", "sku: str, count: int = 1", "sku: str", "count: no longer a field"),
    successor("a field is renamed", "sku: str", "name: str", "name: new, and required"),
    successor("a default is added", "count: int", "count: int = 1"),
    successor("a default is removed", "count: int = 1", "count: int", "count: was optional, is required now"),
    successor("another default", "count: int = 1", "count: int = 2"),
    successor("an integer becomes a number", "count: int", "count: float"),
    successor(
        "a number becomes an integer", "count: float", "count: int", "count: a number before, now an integer"
    ),
    successor("a text becomes bytes", "sku: str", "sku: bytes", "sku: a text before, now bytes"),
    successor("a union grows", "sku: str", "sku: str | int | None"),
    successor("a union shrinks", "sku: str | None", "sku: str", "sku: None before, now a text"),
    successor("a literal is added", "size: Literal['s']", "size: Literal['s', 'l']"),
    successor(
        "a literal is removed",
        "size: Literal['s', 'l']",
        "size: Literal['s']",
        "size: does not take l any more",
    ),
    successor("an enum becomes the same literals", "size: Size", "size: Literal['s', 'l']", above=TYPES),
    successor(
        "an enum loses a member", "size: Size", "size: Literal['s']", "does not take l any more", above=TYPES
    ),
    successor("an enum becomes a text", "size: Size", "size: str", above=TYPES),
    successor("a list takes more", "rows: list[int]", "rows: list[int | str]"),
    successor(
        "a list takes less",
        "rows: list[int | str]",
        "rows: list[int]",
        "rows[]: a text before, now an integer",
    ),
    successor("a nested field takes more", "item: Item, n: int = 0", "item: Heavy, n: int = 0", above=TYPES),
    successor(
        "a nested field takes less",
        "items: list[Item], n: int = 0",
        "items: list[Light], n: int = 0",
        "items[].weight: an integer before, now a text",
        above=TYPES,
    ),
    successor("a limit is raised", "n: Annotated[int, Meta(le=5)]", "n: Annotated[int, Meta(le=9)]"),
    successor(
        "a limit is set", "n: int", "n: Annotated[int, Meta(le=9)]", "n: without a limit, now at most 9"
    ),
    successor(
        "any dict becomes a TypedDict", "body: dict", "body: Order", "sku: new, and required", above=TYPES
    ),
    successor(
        "any dict becomes a loose TypedDict", "body: dict", "body: Loose", "sku: anything before", above=TYPES
    ),
    successor("a TypedDict becomes any dict", "body: Order", "body: dict", above=TYPES),
    successor(
        "a TypedDict becomes parameters", "body: Order", "sku: str", "now they are refused", above=TYPES
    ),
    successor("parameters become a TypedDict", "sku: str", "body: Order", above=TYPES),
    successor("a narrower type that is named in drops", "sku: str", "sku: bytes", drops=("order",)),
    successor("an old shape that is upcast", "sku: str", "name: str", more=OLD_SHAPE),
    successor(
        "an upcast from another shape than the old one",
        "sku: str, count: int = 1",
        "name: str",
        "count: no longer a field",
        more=OLD_SHAPE,
    ),
    # a version and the one before it: the types
    Row("a type is added", {"shop": takes("sku: str")}, (Push("shop/v1.1.0", TWO),)),
    Row(
        "a type is removed in silence",
        {"shop": TWO},
        (Push("shop/v1.1.0", takes("sku: str")),),
        "refused",
        ("shop no longer handles 'cancel', which 1.0.0 accepts", "drops = ['cancel']"),
    ),
    Row(
        "a type is removed and named",
        {"shop": TWO},
        (Push("shop/v1.1.0", takes("sku: str"), drops=("cancel",)),),
    ),
    Row(
        "a type is renamed in silence",
        {"shop": takes("sku: str")},
        (Push("shop/v1.1.0", takes("sku: str", name="purchase")),),
        "refused",
        ("no longer handles 'order'",),
    ),
    Row(
        "a type is renamed and the old one named",
        {"shop": takes("sku: str")},
        (Push("shop/v1.1.0", takes("sku: str", name="purchase"), drops=("order",)),),
    ),
    Row(
        "a version gives up the old shape that the one before upcast",
        {"shop": takes("name: str", more=OLD_SHAPE)},
        (Push("shop/v1.1.0", takes("name: str")),),
        "refused",
        ("sku: no longer a field", '@upcasts("order", 2, 3)'),
    ),
    # a new sender
    edge("what is sent is taken", 'self.send("shop", "order", {"sku": "a"})', takes("sku: str")),
    edge("what is sent is not known", 'self.send("shop", "order", dict(x=1))', takes("sku: str")),
    edge("to a name nobody has", 'self.send("stop", "order", {})', takes("sku: str")),
    edge(
        "a type that is not handled",
        'self.send("shop", "ordre")',
        takes("sku: str"),
        "does not handle it; it handles: order",
    ),
    edge(
        "a field is missing",
        'self.send("shop", "order", {})',
        takes("sku: str"),
        "sku: is required there, and not sent",
    ),
    edge(
        "no body at all",
        'self.send("shop", "order")',
        takes("sku: str"),
        "sku: is required there, and not sent",
    ),
    edge("no body where none is needed", 'self.send("shop", "order")', takes("sku: str = ''")),
    edge(
        "an unknown field",
        'await self.ask("shop", "order", {"sku": "a", "n": 1})',
        takes("sku: str"),
        "n: is sent, but it is no",
    ),
    edge(
        "a wrong type",
        'self.send("shop", "order", {"sku": 1})',
        takes("sku: str"),
        "sku: 1 is sent, a text is taken",
    ),
    edge(
        "a text of unknown content", 'self.send("shop", "order", {"sku": f"{1}"})', takes("sku: Literal['a']")
    ),
    edge("a spread may have the rest", 'self.send("shop", "order", {**x})', takes("sku: str")),
    edge(
        "an old shape that is upcast there",
        'self.send("shop", "order", {"sku": "a"})',
        takes("name: str", more=OLD_SHAPE),
    ),
    edge(
        "by another name of the shop",
        'self.send("store", "ordre")',
        takes("sku: str"),
        "till 1.0.0 sends 'ordre' to store (m/__init__.py line 9), and shop 1.0.0 does not handle it",
        also={"shop": ("store",)},
    ),
    Row(
        "what only module.toml says",
        {"shop": takes("sku: str")},
        (Push("till/v1.0.0", takes("n: int"), emits={"shop": ("refund",), "topics": ("a.b",)}),),
        "waiting",
        ("till 1.0.0 sends 'refund' to shop (its module.toml), and shop 1.0.0 does not handle it",),
    ),
    # two sides
    Row(
        "sender and target in one commit",
        {"shop": takes("sku: str")},
        (
            Push("shop/v1.1.0", takes("name: str"), drops=("order",)),
            Push("till/v1.0.0", says('self.send("shop", "order", {"name": "a"})')),
        ),
    ),
    Row(
        "the target is ahead, and says that it drops what a sender in service sends",
        {"shop": TWO, "till": says('self.send("shop", "cancel", {"sku": "a"})')},
        (Push("shop/v1.1.0", takes("sku: str"), drops=("cancel",)),),
        "waiting",
        (
            "till 1.0.0 sends 'cancel' to shop",
            "and shop 1.1.0 does not handle it",
            "Release a till that no longer sends that",
        ),
    ),
    Row(
        "the target is ahead in the shape, and says so",
        {"shop": takes("sku: str"), "till": says('self.send("shop", "order", {"sku": "a"})')},
        (Push("shop/v1.1.0", takes("name: str"), drops=("order",)),),
        "waiting",
        ("shop 1.1.0 refuses the body: sku: is sent", "name: is required there, and not sent"),
    ),
    Row(
        "both sides in two commits that hold only together",
        {"shop": takes("sku: str"), "till": says('self.send("shop", "order", {"sku": "a"})')},
        (
            Push("shop/v1.1.0", takes("name: str"), commit="c3", drops=("order",)),
            Push("till/v1.1.0", says('self.send("shop", "order", {"name": "a"})'), commit="c4"),
        ),
    ),
    Row(
        "a sender that upgrades for another reason and was wrong before",
        {"shop": takes("sku: str"), "till": says('self.send("shop", "ordre")')},
        (Push("till/v1.1.0", "N = 1\n" + says('self.send("shop", "ordre")')),),
    ),
    Row(
        "a bystander of an edge that was broken before",
        {"shop": takes("sku: str"), "till": says('self.send("shop", "ordre")'), "clock": takes("n: int")},
        (Push("clock/v1.1.0", takes("n: float")),),
    ),
    Row(
        "two modules of one package, of which one is sent what it does not take",
        {"one:shop": takes("sku: str"), "two:shop": takes("sku: str")},
        (Push("till/v1.0.0", says('self.send("two", "ordre")')),),
        "waiting",
        ("to two (m/__init__.py line 9), and two 1.0.0 does not handle it",),
    ),
    Row(
        "an event that a subscriber would not take",
        {"shop": "class It(Module):\n    @subscribes('till.*')\n    def sold(self, sku: str) -> None: ...\n"},
        (Push("till/v1.0.0", says('self.publish("till.sold", {"name": "a"})')),),
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_matrix(row: Row) -> None:
    plan = row.plan()
    groups = {kind: getattr(plan, kind) for kind in ("ready", "waiting", "refused")}
    assert [kind for kind, found in groups.items() if found] == [row.outcome], _whys(plan)
    assert len(groups[row.outcome]) == 1
    (group,) = groups[row.outcome]
    reason = {"ready": "", "waiting": group.waits, "refused": group.refused.reason if group.refused else ""}[
        row.outcome
    ]
    for why in row.why:
        assert why in reason
    assert bool(row.why) == bool(reason)


def _whys(plan: Plan) -> list[str]:
    groups: tuple[Group, ...] = (*plan.ready, *plan.waiting, *plan.refused)
    return [check.why for group in groups for check in group.checks if not check.ok]


def of(what: str) -> Row:
    return next(row for row in ROWS if row.what == what)


def said(plan: Plan) -> list[str]:
    """What the ready groups say beside that all is well."""
    return [check.why for group in plan.ready for check in group.checks if check.ok and "→" in check.what]


def test_what_is_not_refused_is_said() -> None:
    (nobody,) = said(of("to a name nobody has").plan())
    assert nobody.startswith(
        "till 1.0.0 sends 'order' to stop (m/__init__.py line 9), and no module has that name. It is"
    )
    (before,) = said(of("a sender that upgrades for another reason and was wrong before").plan())
    assert before.endswith("does not handle it; it handles: order, as before")
    assert said(of("a bystander of an edge that was broken before").plan()) == []
    (event,) = said(of("an event that a subscriber would not take").plan())
    assert "shop 1.0.0, which subscribes to it, refuses the body: name: is sent" in event


def test_groups_that_hold_only_together_go_while_another_waits() -> None:
    row = of("both sides in two commits that hold only together")
    stranger = Push("clock/v1.0.0", says('self.send("shop", "never")'), commit="c9")
    plan = replace(row, pushes=(*row.pushes, stranger)).plan()
    assert [group.tags for group in plan.ready] == [("shop/v1.1.0", "till/v1.1.0")]
    assert [group.tags for group in plan.waiting] == [("clock/v1.0.0",)]


def test_a_target_that_takes_both_goes_first_and_then_the_sender() -> None:
    both = takes("sku: str", more="@handles\ndef purchase(self, name: str) -> None: ...")
    pushes = (
        Push("shop/v1.1.0", both, commit="c3"),
        Push("a_till/v1.0.0", says('self.send("shop", "purchase", {"name": "a"})'), commit="c4"),
    )
    plan = Row("", {"shop": takes("sku: str")}, pushes).plan()
    assert [group.tags for group in plan.ready] == [("shop/v1.1.0",), ("a_till/v1.0.0",)]


def test_a_way_back_is_never_held_up_and_says_loudly_what_it_breaks() -> None:
    back = Push("shop/v1.0.1", takes("sku: str"), own="0.9.0")
    row = Row("", {"shop": TWO, "till": says('self.send("shop", "cancel", {"sku": "a"})')}, (back,))
    plan = row.plan()
    (group,) = plan.ready
    loud = [check.why for check in group.checks if check.loud]
    assert len(loud) == 2
    assert "messages of type 'cancel' that still wait go to the dead letters" in loud[0]
    assert "from then on till 1.0.0 sends 'cancel' to shop" in loud[1]
    narrower = Push("shop/v1.0.1", takes("sku: Literal['a']"), own="0.9.0")
    (group,) = Row("", {"shop": takes("sku: str")}, (narrower,)).plan().ready
    assert [check.loud for check in group.checks if check.loud] == [True]


def test_a_refused_release_shows_the_edges_that_it_would_break() -> None:
    live = {"shop": TWO, "till": says('self.send("shop", "cancel", {"sku": "a"})')}
    plan = Row("", live, (Push("shop/v1.1.0", takes("sku: str")),)).plan()
    (group,) = plan.refused
    assert [check.what for check in group.checks if not check.ok] == [
        "shop: accepts what 1.0.0 accepted",
        "till → shop: cancel",
    ]


def test_the_matrix_has_what_it_promises() -> None:
    outcomes = [row.outcome for row in ROWS]
    assert len(ROWS) >= 50
    assert min(outcomes.count(kind) for kind in ("ready", "waiting", "refused")) >= 10
