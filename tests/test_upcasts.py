"""A new version takes the old shapes of a message, by one step from each to the next (DESIGN §7.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FunctionType, new_class
from typing import Any

import pytest

from livetag import Message, Module, handles, testing, upcasts
from orchestrator.runtime.blueprint import Blueprint, describe
from orchestrator.runtime.errors import BodyRefused, DefinitionInvalid, HandlerFailed
from orchestrator.upgrade.shapes import narrower
from tests.runtime_kit import Plain, idle, implement, running, state_of

Orders = Module[dict[str, Any]]  # Any: a test's own values


class First(Orders):
    def initial_state(self) -> dict[str, Any]:
        return {"seen": []}

    @handles
    def order(self, sku: str) -> None:
        self.state["seen"].append([sku])


class Third(Orders):
    """The third shape: `name` for `sku`, and how many in what."""

    def initial_state(self) -> dict[str, Any]:
        return {"seen": []}

    @handles
    def order(self, name: str, parts: list[int]) -> list[Any]:
        self.state["seen"].append([name, *parts])
        return [name, *parts]

    @upcasts("order", 1, 2)
    def _one_piece(self, sku: str) -> dict[str, Any]:
        if sku == "bad":
            raise ValueError(sku)
        return {"sku": sku, "count": 1 if sku != "odd" else "one"}

    @upcasts("order", 2, 3)
    def _by_name(self, sku: str, count: int) -> dict[str, Any]:
        return {"name": sku.upper(), "parts": [count]}


def test_each_old_shape_is_walked_up_to_the_newest() -> None:
    async def story() -> None:
        async with testing.run(Third) as orders:
            assert await orders.ask("order", {"name": "a", "parts": [2, 3]}) == ["a", 2, 3]
            assert await orders.ask("order", {"sku": "a", "count": 4}) == ["A", 4]
            assert await orders.ask("order", {"sku": "a"}) == ["A", 1]

    asyncio.run(story())


def test_a_body_of_no_known_shape_is_refused_in_the_words_of_the_handler() -> None:
    async def story() -> None:
        async with testing.run(Third) as orders:
            with pytest.raises(
                BodyRefused, match=r"refuses the body of 'order': Object contains unknown field `count`$"
            ):
                await orders.ask("order", {"count": 4})
            assert len(orders.dead_letters) == 1

    asyncio.run(story())


def test_a_step_that_returns_what_does_not_fit_is_named() -> None:
    async def story() -> None:
        async with testing.run(Third) as orders:
            with pytest.raises(BodyRefused, match=r"in what the upcast _one_piece\(\) made"):
                await orders.ask("order", {"sku": "odd"})

    asyncio.run(story())


def test_a_step_that_raises_fails_the_unit_and_keeps_the_body_as_it_came() -> None:
    async def story() -> None:
        async with testing.run(Third) as orders:
            with pytest.raises(HandlerFailed, match="ValueError: bad"):
                await orders.ask("order", {"sku": "bad"})
            (letter,) = orders.dead_letters
            assert letter.message.body == {"sku": "bad"}

    asyncio.run(story())


def test_messages_that_wait_over_a_swap_are_taken_by_the_new_version_in_order() -> None:
    async def story() -> None:
        async with running({"orders": First}) as app:
            proxy = app.modules["orders"]
            await app.send("orders", "order", {"sku": "before"})
            await idle(app)
            for body in ({"sku": "a"}, {"sku": "b", "count": 2}, {"name": "c", "parts": []}):
                proxy.accept(app.message("order", body, ""))
            seen = state_of(app, "orders")
            proxy.serve(implement(Third, "orders", "3.0.0"), seen)
            await idle(app)
            assert state_of(app, "orders")["seen"] == [["before"], ["A", 1], ["B", 2], ["c"]]
            assert not list(app.letters)

    asyncio.run(story())


def test_the_door_takes_an_old_shape_and_handles_nothing() -> None:
    async def story() -> None:
        async with running({"orders": Third}) as app:
            proxy = app.modules["orders"]
            proxy.check(app.message("order", {"sku": "a"}, ""))
            with pytest.raises(BodyRefused, match="missing required field `name`"):
                proxy.check(app.message("order", {}, ""))
            assert state_of(app, "orders") == {"seen": []}

    asyncio.run(story())


def test_a_message_parameter_shows_the_body_in_the_shape_of_its_handler() -> None:
    class Late(Plain):
        @handles
        def order(self, name: str, message: Message) -> list[object]:
            return [name, message.body, message.type]

        @upcasts("order", 1, 2)
        def _old(self, sku: str, message: Message) -> dict[str, str]:
            assert message.body == {"sku": sku}
            return {"name": sku}

    async def story() -> None:
        async with testing.run(Late) as orders:
            assert await orders.ask("order", {"sku": "a"}) == ["a", {"name": "a"}, "order"]

    asyncio.run(story())


def test_the_description_says_which_old_shapes_are_taken() -> None:
    old, new = describe(Blueprint(First), "x:First"), describe(Blueprint(Third), "x:Third")
    assert len(new.upcasts["order"]) == 2
    assert narrower(old.handles["order"], new.handles["order"]) != []
    assert narrower(old.handles["order"], new.handles["order"], new.upcasts["order"]) == []


def test_a_handler_without_upcasts_decodes_as_it_did() -> None:
    implementation = implement(First, "orders")
    assert implementation.handlers["order"].arguments is implementation.blueprint.handlers["order"].arguments


def _class(*marks: Any, type_: str = "order") -> Callable[[], Blueprint]:
    """A class with a handler of `type_` and one method for each mark."""

    def make() -> Blueprint:
        def handle(self: Any, name: str) -> None:
            del self, name

        def step(self: Any, sku: str) -> dict[str, str]:
            del self
            return {"name": sku}

        async def later(self: Any, sku: str) -> dict[str, str]:
            del self
            return {"name": sku}

        body: dict[str, Any] = {"handle": handles(type_)(handle)}
        for number, mark in enumerate(marks):
            source = later if mark == "async" else step
            copy = FunctionType(source.__code__, source.__globals__, f"step{number}")
            copy.__annotations__ = source.__annotations__
            body[f"step{number}"] = (upcasts("order", 1, 2) if mark == "async" else mark)(copy)
        return Blueprint(new_class("Odd", (Plain,), exec_body=lambda names: names.update(body)))

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_class(upcasts("order", 2, 1)), "the numbers count the shapes"),
        (_class(upcasts("order", 1, 3)), "the numbers count the shapes"),
        (_class(upcasts("order", 0, 1)), "the numbers count the shapes"),
        (_class(upcasts("order", True, 2)), "the numbers count the shapes"),
        (_class(upcasts("order", 1, 2), upcasts("order", 1, 2)), "two upcasts of 'order' from shape 1"),
        (_class(upcasts("order", 1, 2), upcasts("order", 3, 4)), 'none from 2. Add @upcasts("order", 2, 3)'),
        (
            _class(upcasts("order", 1, 2), type_="ordre"),
            "upcasts 'order', which no method handles. It handles: ordre",
        ),
        (_class("async"), "Write a plain `def`"),
        (_class(upcasts("@clock", 1, 2)), "only messages that a handler takes by their type"),
    ],
)
def test_a_chain_that_leads_nowhere_is_refused_when_it_is_loaded(
    make: Callable[[], Blueprint], says: str
) -> None:
    with pytest.raises(
        DefinitionInvalid, match=says.replace("(", r"\(").replace(")", r"\)").replace(".", r"\.")
    ):
        make()


def test_a_chain_may_begin_later_than_at_one() -> None:
    assert len(_class(upcasts("order", 4, 5), upcasts("order", 3, 4))().handlers["order"].upcasts) == 2


def test_a_check_of_a_body_whose_upcast_raises_is_refused_whatever_it_raises() -> None:
    class Exits(Plain):
        @handles
        def order(self, sku: str, count: int) -> None: ...

        @upcasts("order", 1, 2)
        def one(self, sku: str) -> dict[str, Any]:
            raise SystemExit(3)

    async def story() -> None:
        async with running({"m": Exits}) as app:
            with pytest.raises(HandlerFailed, match=r"m 1\.0\.0 failed on 'order': SystemExit: 3"):
                app.modules["m"].check(app.message("order", {"sku": "a"}, ""))

    asyncio.run(story())
