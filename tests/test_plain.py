"""Only plain data goes from one module to another: no code, no instance of a version's class (DESIGN §5)."""

from __future__ import annotations

import asyncio
import collections
import enum
import functools
import gc
import sys
import textwrap
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from livetag import handles, intake, testing
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import BodyRefused, HandlerFailed
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import Loaded, load_blueprint
from orchestrator.runtime.plain import check_body, first_not_plain
from orchestrator.runtime.proxy import ModuleProxy
from tests.runtime_kit import Plain, idle, until, wire


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Point(msgspec.Struct):
    x: int


class Pair(NamedTuple):
    a: int


class Text(str):
    __slots__ = ()


class Sly:
    """Its repr and its name are traps."""

    def __repr__(self) -> str:
        raise RuntimeError


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


PLAIN: tuple[object, ...] = (
    None,
    True,
    1,
    1.5,
    "a",
    b"a",
    datetime.now(timezone.utc),
    Decimal(1),
    UUID(int=1),
    {},
    {"a": None, "b": {"c": [1, {"d": (1, "x")}]}},
    {1: "a"},
    [1, [2], {3}, frozenset({4})],
    {"many": list(range(1000))},
    deep(90),
)


@pytest.mark.parametrize("body", PLAIN)
def test_plain_data_passes_untouched(body: object) -> None:
    check_body(body)
    check_body({"x": body})
    assert first_not_plain(body) == ""


NOT_PLAIN: tuple[tuple[object, str], ...] = (
    (Point(1), "it is an instance of Point"),
    ({"at": Point(1)}, "it['at'] is an instance of Point"),
    ({"rows": [1, {"at": Point(1)}]}, "it['rows'][1]['at'] is an instance of Point"),
    ({"f": check_body}, "it['f'] is the function check_body; no code goes"),
    ({"f": lambda: 1}, "it['f'] is the function <lambda>"),
    ({"f": functools.partial(check_body, 1)}, "an instance of partial"),
    ({"c": Point}, "it['c'] is the class Point; send its name"),
    ({"c": Colour.RED}, "a member of Colour; send its value"),
    ({"n": Number.ONE}, "a member of Number; send its value"),
    ({"p": Pair(1)}, "an instance of Pair"),
    ({"t": Text("a")}, "a Text; send a plain str"),
    ({"d": collections.defaultdict(list)}, "a defaultdict; send a plain dict"),
    ({"d": collections.OrderedDict()}, "a OrderedDict; send a plain dict"),
    ({"b": bytearray(b"a")}, "a bytearray; send a plain bytes"),
    ({Colour.RED: 1}, "a key of it is a member of Colour"),
    ({("a", "b"): 1}, "a key of it is an instance of tuple"),
    ({"s": {Number.ONE}}, "it['s'][0] is a member of Number"),
    ({"e": ValueError("x")}, "an instance of ValueError"),
    ({"s": Sly()}, "an instance of Sly"),
    (deep(200), "goes deeper than 100 levels"),
)


@pytest.mark.parametrize(("body", "says"), NOT_PLAIN, ids=[says for _, says in NOT_PLAIN])
def test_what_is_not_plain_is_refused_with_its_path(body: object, says: str) -> None:
    with pytest.raises(BodyRefused, match=r"the body is not plain data: .* Nothing was sent\.") as error:
        check_body(body)
    assert says in str(error.value)


def test_a_body_that_contains_itself_is_refused() -> None:
    body: dict[str, object] = {}
    body["self"] = [body]
    with pytest.raises(BodyRefused, match="or contains itself"):
        check_body(body)


@pytest.mark.parametrize("how", ["send", "publish", "ask"])
def test_the_sender_is_told_at_the_line_and_nothing_is_sent(how: str) -> None:
    class Careless(Plain):
        @handles
        async def go(self) -> str:
            try:
                if how == "ask":
                    await self.ask("other", "x", {"p": Point(1)})
                else:
                    (
                        self.send("other", "x", {"p": Point(1)})
                        if how == "send"
                        else self.publish("x", [Point(1)])
                    )
            except BodyRefused as error:
                return str(error)
            return "it went"

    async def story() -> None:
        async with testing.run(Careless) as module:
            assert "is an instance of Point" in await module.ask("go")
            assert (module.sent, module.published) == ([], [])

    asyncio.run(story())


@pytest.mark.parametrize("later", [False, True])
def test_a_reply_that_is_not_plain_is_a_failure_of_the_handler(later: bool) -> None:  # a case
    class Now(Plain):
        @handles
        def point(self, x: int) -> object:
            return {"p": Point(x)}

    class Later(Plain):
        @handles
        async def point(self, x: int) -> object:
            return {"p": Point(x)}

    async def story() -> None:
        async with testing.run(Later if later else Now, name="map") as module:
            with pytest.raises(
                HandlerFailed, match=r"map \w+ failed on 'point': its reply is not plain data: it\['p'\] is"
            ):
                await module.ask("point", {"x": 1})
            assert len(module.dead_letters) == 1

    asyncio.run(story())


def test_what_a_handler_returns_to_nobody_is_not_looked_at() -> None:
    class Lax(Plain):
        @handles
        def point(self) -> object:
            return Point(1)

    async def story() -> None:
        async with testing.run(Lax) as module:
            await module.send("point")
            assert module.dead_letters == []

    asyncio.run(story())


def test_an_item_of_an_intake_that_is_not_plain_counts_as_a_failure_of_the_intake() -> None:
    class Reader(Plain):
        def initial_state(self) -> dict[str, Any]:
            return {"read": 0}

        @intake
        async def line(self) -> object:
            return Point(1)

        @handles("line")
        def on_line(self, line: dict[str, Any]) -> None:
            self.state["read"] += 1

    async def story() -> None:
        async with testing.run(Reader, name="reader") as module:
            await until(lambda: module.proxy.intakes.failures)
            assert (module.state, module.dead_letters) == ({"read": 0}, [])

    asyncio.run(story())


# -- a walk over everything that one version reaches ------------------------------------------------------------------

SOURCES = {
    "shop": """
        from dataclasses import dataclass
        from typing import TypedDict
        from livetag import Module, handles, subscribes

        class State(TypedDict):
            orders: list
            events: list

        @dataclass
        class Order:
            sku: str

        class Shop(Module[State]):
            def initial_state(self):
                return {"orders": [], "events": []}
            @handles
            async def order(self, sku: str, notes: list[str]) -> dict:
                order = Order(sku)
                self.state["orders"].append({"sku": order.sku, "notes": notes})
                self.publish("shop.sold", {"sku": sku, "rows": [{"n": 1}]})
                price = await self.ask("bank", "price", {"sku": sku})
                self.send("till", "paid", {"sku": sku, "price": price})
                return {"price": price}
            @subscribes("till.*")
            def heard(self, event: dict) -> None:
                self.state["events"].append(event)
    """,
    "till": """
        from livetag import Module, handles, subscribes

        class Till(Module[dict]):
            def initial_state(self):
                return {"seen": []}
            @handles
            def paid(self, body: dict) -> None:
                self.state["seen"].append(body)
                self.publish("till.paid", body)
            @subscribes("shop.*")
            def sold(self, event: dict) -> None:
                self.state["seen"].append(event)
    """,
    "bank": """
        from livetag import Module, handles

        class Price:
            cents = 100

        class Bank(Module[dict]):
            def initial_state(self):
                return {"asked": []}
            @handles
            def price(self, sku: str) -> dict:
                self.state["asked"].append(sku)
                return {"cents": Price.cents, "sku": sku}
    """,
}


@asynccontextmanager
async def staged(tmp_path: Path) -> AsyncIterator[tuple[Application, dict[str, Loaded]]]:
    """The three modules, each from a package of its own, loaded as the host loads them."""
    app, loads, proxies = Application(), {}, {}
    for name, source in SOURCES.items():
        folder = tmp_path / name
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(textwrap.dedent(source))
        loaded = loads[name] = Loaded(folder, (name,), VERSION[2:])
        blueprint, entry = load_blueprint(loaded, name, None)
        implementation = Implementation(
            blueprint, name=name, version="1.0.0", config={}, loaded=loaded, entry=entry
        )
        proxy = proxies[name] = ModuleProxy(app, name, 100)
        proxy.serve(implementation, implementation.first_state())
    wire(app, proxies)
    for proxy in proxies.values():
        proxy.start()
    try:
        yield app, loads
    finally:
        for proxy in proxies.values():
            await proxy.close("the test is over")
        for loaded in loads.values():
            loaded.unload()


VERSION = "__" + "0" * 12  # in the name of each module of a version
CACHE = type(
    functools.lru_cache(int)
)  # typing has some, of every class; they are cleared when a version leaves


def _home(thing: Any) -> str:  # Any: a module, or a cache around a function
    return str(thing.__name__ if isinstance(thing, ModuleType) else thing.__module__)


def reached(implementation: Implementation, own: Iterable[str]) -> list[object]:
    """All that can be reached from a version: its instance, state, class, functions and modules, whatever hangs on them.

    Not through its proxy, which is the way to everybody, nor through modules of others (the standard library, livetag).
    """
    mine = set(own)
    foreign = [
        vars(module) for name, module in list(sys.modules.items()) if name not in mine and module is not None
    ]
    seen: dict[int, object] = {id(thing): thing for thing in foreign}
    found: list[object] = []
    ahead: list[object] = [
        implementation.instance,
        implementation.blueprint.cls,
        *implementation.handlers.values(),
    ]
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, (ModuleProxy, FrameType)):
            continue
        if isinstance(thing, (ModuleType, CACHE)) and VERSION not in _home(thing):
            continue
        seen[id(thing)] = thing
        found.append(thing)
        ahead += gc.get_referents(thing)
    return found


def belongs_to(thing: object, loaded: Loaded) -> bool:
    """Whether it is code of that load, or an instance of one of its classes."""
    aliases = tuple(loaded.aliases.values())
    if isinstance(thing, CodeType):
        return thing.co_filename.startswith(str(loaded._folder))
    if isinstance(thing, ModuleType):
        return thing.__name__.startswith(aliases)
    named = thing if isinstance(thing, (type, FunctionType)) else type(thing)
    return str(getattr(named, "__module__", "")).startswith(aliases)


def met(app: Application, loads: Mapping[str, Loaded], name: str) -> list[object]:
    """What of the other versions can be reached from this one."""
    implementation = app.modules[name].implementation
    assert implementation is not None
    own = [n for n in sys.modules if n.startswith(tuple(loads[name].aliases.values()))]
    assert own
    things = reached(implementation, own)
    assert any(thing is implementation.state for thing in things)
    assert any(belongs_to(thing, loads[name]) for thing in things)
    others = [loaded for other, loaded in loads.items() if other != name]
    return [thing for thing in things for loaded in others if belongs_to(thing, loaded)]


def test_a_version_in_service_reaches_no_other_version(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as (app, loads):
            for number in range(20):
                assert await app.ask("shop", "order", {"sku": f"s{number}", "notes": ["a"]}) == {
                    "price": {"cents": 100, "sku": f"s{number}"}
                }
            await idle(app)
            states = {name: _state(app, name) for name in SOURCES}
            assert (
                len(states["shop"]["orders"])
                == len(states["shop"]["events"])
                == len(states["bank"]["asked"])
                == 20
            )
            assert len(states["till"]["seen"]) == 40
            for name in SOURCES:
                assert met(app, loads, name) == []

    asyncio.run(story())


def test_the_walk_would_meet_an_instance_or_a_function_of_another_version(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as (app, loads):
            bank = sys.modules[loads["bank"].aliases["bank"]]
            for leak in (bank.Price(), bank.Price, bank.Bank.price, {"deep": [bank.Price()]}, bank):
                _state(app, "shop")["orders"].append(leak)
                assert met(app, loads, "shop"), leak
                _state(app, "shop")["orders"].clear()
            assert met(app, loads, "shop") == []

    asyncio.run(story())


def _state(app: Application, name: str) -> Any:
    implementation = app.modules[name].implementation
    assert implementation is not None
    return implementation.state
