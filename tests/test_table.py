"""A Table as its author uses it: like a dict, checked at each write, undone with its unit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypedDict

import pytest

from livetag import Module, Table, every, handles
from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint, describe
from orchestrator.runtime.errors import DefinitionInvalid, HandlerFailed, NotInService, StateInvalid
from tests.runtime_kit import Plain, books_balance, idle, implement, running, until


class Route(TypedDict):
    path: str
    origin: int | None


class Rib(Plain):
    routes: Table[tuple[str, str], Route] = Table(version=1)
    hits: Table[int, int] = Table()
    seen: Any = None
    kept: Any = None

    @handles
    def put(self, prefix: str, path: str, origin: int | None = None) -> None:
        self.routes[prefix, "peer"] = {"path": path, "origin": origin}
        self.hits[1] = self.hits.get(1, 0) + 1

    @handles
    def put_and_fail(self, prefix: str) -> None:
        self.routes[prefix, "peer"] = {"path": "new", "origin": 1}
        self.routes[prefix, "peer"] = {"path": "newer", "origin": 1}
        self.routes["another", "peer"] = {"path": "another", "origin": 1}
        self.routes.pop(("gone", "peer"), None)
        self.hits[1] = 99
        raise RuntimeError("as it happens")

    @handles
    async def put_ask_and_fail(self, prefix: str) -> None:
        self.routes[prefix, "peer"] = {"path": "new", "origin": 1}
        await asyncio.sleep(0)
        self.routes["gone", "peer"] = {"path": "changed", "origin": 1}
        raise SystemExit

    @handles(thread=True)
    def put_in_a_thread_and_fail(self, prefix: str) -> None:
        self.put_and_fail(prefix)

    @handles
    async def put_in_a_task_and_fail(self, prefix: str) -> None:
        self.routes["by itself", "peer"] = {"path": "new", "origin": 1}
        self.kept = asyncio.ensure_future(self.put_ask_and_fail(prefix))

    @handles
    async def put_and_wait(self, prefix: str) -> None:
        self.routes[prefix, "peer"] = {"path": "half done", "origin": 1}
        await asyncio.Event().wait()

    @handles
    def look(self) -> dict[str, Any]:
        return {
            "routes": sorted([*k, r["path"]] for k, r in self.routes.items()),
            "hits": self.hits.get(1, 0),
        }


def inside(work: Callable[[Any], Any]) -> Any:
    """What `work` returns in a unit of a module with tables, given the instance."""

    class Doing(Rib):
        @handles
        async def do(self) -> None:
            found = work(self)
            self.seen = await found if isinstance(found, Awaitable) else found

    async def story() -> Any:
        async with running({"rib": Doing}) as app:
            await app.ask("rib", "do")
            implementation = app.modules["rib"].implementation
            assert implementation is not None
            return implementation.instance.seen

    return asyncio.run(story())


ROUTE: Route = {"path": "1 2 3", "origin": 3}


def test_a_table_is_used_like_a_dict() -> None:
    def work(rib: Rib) -> None:
        table, key = rib.routes, ("10.0.0.0/8", "192.0.2.1")
        assert len(table) == 0
        assert not table
        assert key not in table
        assert table.get(key) is None
        assert table.get(key, 7) == 7
        with pytest.raises(KeyError):
            table[key]
        with pytest.raises(KeyError):
            del table[key]
        table[key] = ROUTE
        table.set(("172.16.0.0/12", "192.0.2.1"), {"path": "4", "origin": None})
        assert table
        assert len(table) == 2
        assert key in table
        assert table[key] == table.get(key) == ROUTE
        assert sorted(table) == sorted(table.keys()) == [key, ("172.16.0.0/12", "192.0.2.1")]
        assert sorted(r["path"] for r in table.values()) == ["1 2 3", "4"]
        assert dict(table.items())[key] == ROUTE
        assert table.pop(key) == ROUTE
        assert table.pop(key, None) is None
        with pytest.raises(KeyError):
            table.pop(key)
        assert len(table) == 1

    inside(work)


def test_a_record_that_was_read_is_a_copy() -> None:
    def work(rib: Rib) -> None:
        given: Route = {"path": "1", "origin": 1}
        rib.routes["a", "b"] = given
        given["path"] = "changed after it was written"
        rib.routes["a", "b"]["path"] = "changed after it was read"
        assert rib.routes["a", "b"] == {"path": "1", "origin": 1}

    inside(work)


@pytest.mark.parametrize(
    ("key", "record", "said"),
    [
        (
            ("a", "b"),
            {"path": 1, "origin": 1},
            r"^Table routes: the record for \('a', 'b'\) .* version 1: .*\$\.path`",
        ),
        (("a", "b"), {"path": "1"}, "missing required field `origin`"),
        (("a", "b"), object(), "routes"),
        (("a", "b"), {"path": "1", "origin": 2**70}, "routes"),
        (("a", "b"), {"path": "half \ud800", "origin": 1}, "routes"),
        (("a", 1), ROUTE, r"the key \('a', 1\) is not of type tuple\[str, str\]"),
        ("ab", ROUTE, "the key 'ab'"),
        (("a", "\ud800"), ROUTE, "cannot be stored"),
    ],
)
def test_a_write_that_does_not_fit_names_table_key_and_field(key: Any, record: Any, said: str) -> None:
    def work(rib: Rib) -> None:
        with pytest.raises(StateInvalid, match=said):
            rib.routes[key] = record
        assert len(rib.routes) == 0

    inside(work)


def test_a_key_has_exactly_the_type_that_is_written() -> None:
    def work(rib: Rib) -> None:
        for key in (True, 1.0, "1", 2**64):
            with pytest.raises(StateInvalid, match="Table hits"):
                rib.hits[key] = 1  # type: ignore[index]
        rib.hits[2**63] = 1
        assert len(rib.hits) == 1

    inside(work)


def test_adding_or_removing_a_key_ends_an_iteration_as_in_a_dict() -> None:
    def work(rib: Rib) -> None:
        for n in range(50):
            rib.hits[n] = n
        for n in rib.hits:
            rib.hits[n] = -n  # replaced: no harm
        assert sum(rib.hits.values()) == -sum(range(50))
        for change in (lambda n: rib.hits.set(1000 + n, n), rib.hits.pop):
            with pytest.raises(RuntimeError, match="changed its keys"):
                all(change(n) != 0.5 for n in rib.hits)
        for n in list(rib.hits):
            del rib.hits[n]
        assert not rib.hits

    inside(work)


async def look(app: Application) -> Any:
    return await app.ask("rib", "look")


def test_a_unit_that_raises_leaves_no_trace_in_any_table() -> None:
    async def story() -> None:
        async with running({"rib": Rib}) as app:
            for prefix in ("kept", "gone"):
                await app.ask("rib", "put", {"prefix": prefix, "path": prefix})
            before = await look(app)
            for type_ in ("put_and_fail", "put_ask_and_fail", "put_in_a_thread_and_fail"):
                with pytest.raises(HandlerFailed):  # an idle module answers at once
                    await app.ask("rib", type_, {"prefix": "kept"})
                assert await look(app) == before
            for type_ in (
                "put_and_fail",
                "put_ask_and_fail",
                "put_in_a_thread_and_fail",
                "put_in_a_task_and_fail",
            ):
                await app.send("rib", type_, {"prefix": "fresh"})
                await idle(app)
                assert await look(app) == before
            proxy = app.modules["rib"]
            assert (proxy.dead, proxy.written) == (7, [])
            await app.ask("rib", "put", {"prefix": "kept", "path": "works on"})
            assert (await look(app))["routes"][1] == ["kept", "peer", "works on"]
            assert books_balance(app)

    asyncio.run(story())


def test_a_unit_that_is_cut_leaves_no_trace_in_a_table() -> None:
    async def story() -> None:
        async with running({"rib": Rib}) as app:
            await app.ask("rib", "put", {"prefix": "a", "path": "a"})
            await app.send("rib", "put_and_wait", {"prefix": "a"})
            proxy = app.modules["rib"]
            await until(lambda: proxy.written)
            await proxy.close("the test says so")
            store = proxy.tables.stores["routes"]
            assert [list(shard.values()) for shard in store.shards if shard] == [
                [proxy.tables.live["routes"].type.encode({"path": "a", "origin": None})]
            ]

    asyncio.run(story())


def test_the_records_that_a_unit_has_changed_are_known_until_it_ends() -> None:
    async def story() -> None:
        async with running({"rib": Rib}) as app:
            await app.ask("rib", "put", {"prefix": "a", "path": "a"})
            await app.send("rib", "put_and_wait", {"prefix": "b"})
            proxy = app.modules["rib"]
            await until(lambda: proxy.written)
            (table,) = proxy.written
            assert list(table.changed()) == [("b", "peer")]

    asyncio.run(story())


def test_a_table_is_refused_before_service_and_outside_a_unit() -> None:
    class Early(Rib):
        said = ""

        async def prepare(self) -> None:
            try:
                self.routes.get(("a", "b"))
            except NotInService as error:
                self.said = str(error)

    async def story() -> None:
        implementation = implement(Early, "early")
        await implementation.instance.prepare()
        assert "The Table routes was used by a version that is not in service" in implementation.instance.said
        async with running({"rib": Rib}) as app:
            served = app.modules["rib"].implementation
            assert served is not None
            rib = served.instance
            assert isinstance(rib, Rib)
            assert rib.hits.get(1) is None  # reading does no harm
            with pytest.raises(NotInService, match="outside a unit of work"):
                rib.hits[1] = 1
            with pytest.raises(NotInService, match="outside a unit of work"):
                del rib.hits[1]
            left = rib.hits
            other = implement(Rib, "rib", "2.0.0")
            app.modules["rib"].serve(other, {})
            for use in (
                lambda: rib.hits,
                lambda: left.get(1),
                lambda: list(left),
                lambda: len(left),
                lambda: 1 in left,
            ):
                with pytest.raises(NotInService):
                    use()

    asyncio.run(story())


class Keyed(TypedDict, total=False):
    title: str
    next: Keyed


def invalid() -> Iterator[Any]:
    class NoTypes(Plain):
        things = Table(version=1)  # type: ignore[var-annotated]

    yield (
        NoTypes,
        r"things does not say what it holds\. Write `things: Table\[str, Record\] = Table\(version=1\)`",
    )

    class FloatKeys(Plain):
        things: Table[float, int] = Table()

    yield FloatKeys, r"keys of type <class 'float'> are not possible"

    class NotPlain(Plain):
        things: Table[str, object] = Table()
        others: Table[str, Module[Any]] = Table()

    yield NotPlain, "The records of Table others"

    class StepOfNothing(Plain):
        things: Table[str, int] = Table()

    @StepOfNothing.migrates("thing", 1, 2)
    def up(key: str, old: int) -> int:
        return old

    yield (
        StepOfNothing,
        r'migrates\("thing", 1, 2\) is a step of a Table that the class does not have \(it has: things\)',
    )

    class Waiting(Plain):
        things: Table[str, int] = Table()

    @Waiting.migrates("things", 1, 2)
    async def wait(key: str, old: int) -> int:
        return old

    yield Waiting, "must be a plain `def`"


@pytest.mark.parametrize(("cls", "said"), list(invalid()))
def test_a_table_that_is_not_written_right_says_what_to_write(cls: Any, said: str) -> None:
    with pytest.raises(DefinitionInvalid, match=said):
        Blueprint(cls)


def test_a_version_is_a_whole_number() -> None:
    for version in (-1, True, 1.0, "1"):
        with pytest.raises(DefinitionInvalid, match="whole number from 0"):
            Table(version=version)  # type: ignore[arg-type]


def test_a_description_tells_tables_their_versions_types_and_steps() -> None:
    class Renamed(TypedDict):
        """The same fields under another name."""

        path: str
        origin: int | None

    class Two(Plain):
        a: Table[str, Route] = Table(version=2)
        b: Table[str, Keyed] = Table()
        c = Table[str, Renamed](version=2)

    Two.migrates("a", 1, 2)(lambda key, old: old)
    described = describe(Blueprint(Two), "x:Two").tables
    assert {name: (t.version, t.migrations) for name, t in described.items()} == {
        "a": (2, ((1, 2),)),
        "b": (1, ()),
        "c": (2, ()),
    }
    assert described["a"].record_schema == described["c"].record_schema  # names of classes do not count
    assert described["b"].record_schema["properties"]["title"] == {"type": "string"}


def test_steps_belong_to_the_class_that_registers_them() -> None:
    class Base(Plain):
        things: Table[str, int] = Table(version=2)

    class Other(Base):
        pass

    Base.migrates("things", 1, 2)(lambda key, old: old)
    Other.migrates("things", 0, 1)(lambda key, old: old)
    assert sorted(Blueprint(Base).tables["things"].steps) == [(1, 2)]
    assert (0, 1) in Blueprint(Other).tables["things"].steps


def test_a_tick_writes_too() -> None:
    class Ticking(Rib):
        @every(seconds=0.001)
        def tick(self) -> None:
            self.hits[7] = self.hits.get(7, 0) + 1

    async def story() -> None:
        async with running({"rib": Ticking}) as app:
            table = app.modules["rib"].tables.live["hits"]
            await until(lambda: table.get(7, 0) > 1)

    asyncio.run(story())
