"""`livetag interface`: a module's interface as a table, as JSON, and as a typed client that works when pasted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from msgspec import Meta

from livetag import Module, handles, testing, upcasts
from orchestrator.control.annotations import Annotations
from orchestrator.control.cli import interface as shown
from orchestrator.control.cli.session import view
from orchestrator.control.interface import facts_of
from orchestrator.control.stub import client_source
from orchestrator.runtime.blueprint import Blueprint, describe
from orchestrator.runtime.description import Emit
from orchestrator.runtime.schema import schema_of
from orchestrator.upgrade.emits import scan_source

ROOT = Path(__file__).parents[1]


class Item(TypedDict):
    sku: str
    count: int


class Order(Item, total=False):
    gift: bool
    notes: list[str]


class Tree(msgspec.Struct):
    name: str
    below: list[Tree] = []


Odd = TypedDict("Odd", {"a b": int})  # a field that is no name


class State(TypedDict):
    total: int
    by_key: dict[str, int]


class Counter(Module[State]):
    def initial_state(self) -> State:
        return {"total": 0, "by_key": {}}

    @handles
    def tick(self, key: str, by: int = 1) -> int:
        self.state["total"] += by
        self.state["by_key"][key] = self.state["by_key"].get(key, 0) + by
        return self.state["total"]

    @upcasts("tick", 1, 2)
    def _old_tick(self, name: str) -> dict[str, str]:
        return {"key": name}

    @handles
    def order(self, order: Order) -> dict[str, int | None]:
        return {order["sku"]: order["count"]}

    @handles("odd-name.2")
    def odd(
        self,
        tree: list[Tree],
        size: Literal["s", "l"] = "s",
        at: datetime = datetime(2026, 1, 1),  # noqa: DTZ001
    ) -> Any:  # a default
        return [len(tree), size, at.year]

    @handles
    def reset(self) -> None:
        self.state["total"] = 0

    @handles("class")
    def classify(self, timeout_s: Annotated[float, Meta(ge=0)], parts: list[int] = []) -> tuple[int, str]:  # noqa: B006  # a default
        return (len(parts), f"{timeout_s:g}")


def facts() -> dict[str, Any]:
    said = describe(Blueprint(Counter), "counter:Counter")
    emits = (Emit("send", "logger", "line", {}, "counter/__init__.py", 7), Emit("publish", "counter.total"))
    return {
        "module": "counter",
        "version": "1.1.0",
        "names": ["counter", "count"],
        **facts_of(msgspec.structs.replace(said, emits=emits)),
    }


def client() -> str:
    # as it comes over the socket
    return client_source(msgspec.json.decode(msgspec.json.encode(facts())))


USER = """
from livetag import handles


class User(Module[dict[str, Any]]):
    @handles
    async def go(self) -> list[object]:
        counter = CounterClient(self)
        first: int = await counter.tick("a")
        second: int = await counter.tick(key="b", by=2)
        counter.send_tick("c", 3)
        of: dict[str, int | None] = await counter.order({"sku": "x", "count": 2, "gift": True})
        odd = await counter.odd_name_2([{"name": "t", "below": [{"name": "u"}]}], size="l")
        await counter.reset()
        sort: tuple[int, str] = await counter.class_(0.5, [1, 2], ask_timeout_s=1.0)
        return [first, second, of, odd, list(sort)]
"""


WRONG = """

async def wrong(counter: CounterClient) -> str:
    return await counter.tick("a", by="1")
"""


def test_the_client_passes_mypy_strict_and_a_call_that_the_module_would_refuse_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "right.py").write_text(client() + USER)
    (tmp_path / "wrong.py").write_text(client() + WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "right.py", "wrong.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    complaints = [line.partition("error: ")[2] for line in done.stdout.splitlines() if "error:" in line]
    assert complaints == [
        'Incompatible return value type (got "int", expected "str")  [return-value]',
        'Argument "by" to "tick" of "CounterClient" has incompatible type "str"; expected "int"  [arg-type]',
    ], f"{done.stdout}{done.stderr}\n{client()}"


def test_the_client_works_when_pasted_into_a_module() -> None:
    namespace: dict[str, Any] = {"__name__": "user"}
    exec(compile(client() + USER, "user.py", "exec"), namespace)  # noqa: S102  # what a user would paste

    async def story() -> None:
        async with testing.run(Counter, name="counter") as counter:
            answers = {
                ("counter", t): (lambda body, t=t: body)
                for t in ("tick", "order", "odd-name.2", "reset", "class")
            }
            async with testing.run(namespace["User"], answers=answers) as user:
                await user.ask("go")
                sent = [(m.name, m.type, m.body) for m in user.sent]
            replies = [await counter.ask(type_, body) for name, type_, body in sent if name == "counter"]
            assert replies == [1, 3, 6, {"x": 2}, [1, "l", 2026], None, (2, "0.5")]

    asyncio.run(story())


def test_what_the_client_calls_is_found_by_the_scan() -> None:
    found = {(e.how, e.name, e.type) for e in scan_source(client(), "user.py")}
    assert {
        ("ask", "counter", "tick"),
        ("send", "counter", "tick"),
        ("ask", "counter", "odd-name.2"),
    } <= found
    assert len(found) == 10


def test_the_client_says_what_it_is_and_how_it_is_used() -> None:
    assert client().startswith(
        "from datetime import datetime\nfrom typing import Any, Literal, TypedDict\n\nfrom livetag import Module"
    )
    assert textwrap.dedent('''
            async def tick(self, key: str, by: int = 1, *, timeout_s: float = 5.0) -> int:
                """Ask tick, and wait for the reply."""
                reply: int = await self._module.ask("counter", "tick", {"key": key, "by": by}, timeout_s=timeout_s)
                return reply
    ''').strip() in textwrap.dedent(client().replace("\n    ", "\n"))


@pytest.mark.parametrize(
    ("type_", "annotation"),
    [
        (int | None, "int | None"),
        (Any, "Any"),
        (bytes, "bytes"),
        (datetime, "datetime"),
        (list, "list[Any]"),
        (set[int], "set[int]"),
        (tuple[int, str], "tuple[int, str]"),
        (tuple[()], "tuple[()]"),
        (dict, "dict[str, Any]"),
        (dict[int, list[float]], "dict[int, list[float]]"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Order, "Order"),
        (Odd, "dict[str, Any]"),
    ],
    ids=str,
)
def test_a_type_comes_back_as_its_annotation(type_: Any, annotation: str) -> None:
    assert Annotations().of(schema_of(type_)) == annotation


def test_people_see_tables(capsys: pytest.CaptureFixture[str]) -> None:
    shown._show(view(facts(), shown._Interface))
    text = capsys.readouterr().out
    assert "counter 1.1.0, also count" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "tick key: str, by: int = 1 int 1" in rows
    assert "reset nothing None" in rows
    assert "order Order dict[str, int | None]" in rows
    assert "send logger line counter/__init__.py line 7" in rows
    assert "publish counter.total module.toml" in rows
    assert "by_key dict[str, int]" in rows


def test_a_stub_of_datetimes_needs_its_imports() -> None:
    annotations = Annotations()
    annotations.of(schema_of(dict[str, datetime]))
    assert annotations.imports == ["from datetime import datetime"]
    assert datetime(2026, 1, 1, tzinfo=timezone.utc)
