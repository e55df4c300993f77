"""From a method's parameters to the body it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Optional, TypedDict, Union

import msgspec
import pytest

from livetag import Message
from orchestrator.runtime.errors import BodyRefused, DefinitionInvalid
from orchestrator.runtime.handlers import Handler


class Point(TypedDict):
    x: int
    y: int


class Route(msgspec.Struct):
    hops: list[int]
    cost: float = 1.0


def take(function: Callable[..., Any], body: object) -> Any:
    return Handler("type", function).arguments(Message("type", body))


def test_parameters_are_the_fields_of_the_body() -> None:
    def tick(self: object, key: str, by: int = 1) -> None: ...

    assert take(tick, {"key": "a"}) == ("a", 1)
    assert take(tick, {"by": 3, "key": "b"}) == ("b", 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, r"missing required field `key`"),
        (None, r"missing required field `key`"),
        ({"key": 1}, r"Expected `str`, got `int` - at `\$\.key`"),
        ({"key": "a", "by": "1"}, r"Expected `int`, got `str` - at `\$\.by`"),
        ({"key": "a", "bye": 1}, r"unknown field `bye`"),
        ([1], r"Expected `object`, got `array`"),
        ("a", r"Expected `object`, got `str`"),
        (object(), r"Expected `object`, got `object`"),
    ],
)
def test_a_body_that_does_not_fit_names_the_field(body: object, says: str) -> None:
    def tick(self: object, key: str, by: int = 1) -> None: ...

    with pytest.raises(BodyRefused, match=says):
        take(tick, body)


def test_optional_unions_and_forward_names_work_on_every_python() -> None:
    def one(self: object, a: Optional[int], b: Union[int, str] = 1, c: "int | None" = None) -> None: ...  # noqa: UP007, UP037, UP045

    assert take(one, {"a": None}) == (None, 1, None)
    assert take(one, {"a": 2, "b": "x", "c": 3}) == (2, "x", 3)
    with pytest.raises(BodyRefused, match=r"\$\.c"):
        take(one, {"a": 2, "c": "x"})


def test_limits_in_an_annotation_hold() -> None:
    def port(self: object, number: Annotated[int, msgspec.Meta(ge=1, le=65535)]) -> None: ...

    assert take(port, {"number": 80}) == (80,)
    with pytest.raises(BodyRefused, match="65535"):
        take(port, {"number": 70000})


def test_a_default_that_can_change_is_new_for_each_message() -> None:
    def add(self: object, items: list[int] = [], table: dict[str, int] = {}) -> None: ...  # noqa: B006

    first = take(add, {})
    first[0].append(1)
    first[1]["a"] = 1
    assert take(add, {}) == ([], {})


def test_a_default_that_is_not_plain_is_refused() -> None:
    def add(self: object, items: list[int] = [1]) -> None: ...  # noqa: B006

    with pytest.raises(DefinitionInvalid, match=r"add\(\) takes what is not plain data"):
        Handler("type", add)


def test_a_message_parameter_gets_the_message_wherever_it_stands() -> None:
    def tick(self: object, key: str, message: Message, by: int = 1) -> None: ...
    def bare(self: object, message: Message) -> None: ...
    def whole(self: object, message: Message, body: dict) -> None: ...  # type: ignore[type-arg]

    message = Message("tick", {"key": "a"}, "source", 7)
    assert Handler("tick", tick).arguments(message) == ("a", message, 1)
    assert Handler("tick", bare).arguments(Message("tick", None))[0].type == "tick"
    assert Handler("tick", whole).arguments(message) == (message, {"key": "a"})


def test_a_single_dict_typed_dict_or_struct_takes_the_whole_body() -> None:
    def plain(self: object, event: dict) -> None: ...  # type: ignore[type-arg]
    def typed(self: object, event: dict[str, int]) -> None: ...
    def point(self: object, at: Point) -> None: ...
    def route(self: object, way: Route) -> None: ...

    assert take(plain, {"anything": [1]}) == ({"anything": [1]},)
    assert take(typed, {"a": 1}) == ({"a": 1},)
    assert take(point, {"x": 1, "y": 2}) == ({"x": 1, "y": 2},)
    assert take(route, {"hops": [1]}) == (Route([1]),)
    for function, body in ((plain, [1]), (plain, None), (typed, {"a": "x"}), (point, {"x": 1}), (route, {})):
        with pytest.raises(BodyRefused):
            take(function, body)


def test_two_structured_parameters_are_two_fields() -> None:
    def move(self: object, start: Point, route: Route) -> None: ...

    assert take(move, {"start": {"x": 1, "y": 2}, "route": {"hops": []}}) == ({"x": 1, "y": 2}, Route([]))


def test_without_parameters_only_an_empty_body_fits() -> None:
    def reset(self: object) -> None: ...

    assert take(reset, None) == take(reset, {}) == ()
    with pytest.raises(BodyRefused, match="unknown field `x`"):
        take(reset, {"x": 1})


def test_a_typed_field_shares_nothing_with_the_senders_body() -> None:
    def keep(self: object, items: list[int], table: dict[str, list[int]]) -> None: ...

    body: dict[str, Any] = {"items": [1], "table": {"a": [1]}}
    items, table = take(keep, body)
    items.append(2)
    table["a"].append(2)
    assert body == {"items": [1], "table": {"a": [1]}}


class Custom:
    """Not plain data."""


def test_what_cannot_be_a_body_is_refused_with_what_to_do() -> None:
    def custom(self: object, what: Custom) -> None: ...
    def star(self: object, *items: int) -> None: ...
    def stars(self: object, **items: int) -> None: ...
    def only(self: object, what: int, /) -> None: ...
    def keyword(self: object, *, what: int) -> None: ...
    def unknown(self: object, what: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function, says in (
        (custom, "not plain data.*Annotate its parameters"),
        (star, r"\*items.*Name them, or take one dict"),
        (stars, r"\*\*items"),
        (only, "positional-only"),
        (keyword, r"keyword-only parameters; write them without the \*"),
        (unknown, "cannot be resolved: name 'Nowhere' is not defined"),
    ):
        with pytest.raises(DefinitionInvalid, match=says):
            Handler("type", function)


def test_generators_are_refused_since_nobody_would_run_them() -> None:
    def items(self: object) -> Any:
        yield 1

    async def more(self: object) -> Any:
        yield 1

    for function in (items, more):
        with pytest.raises(DefinitionInvalid, match="is a generator"):
            Handler("type", function)


def test_the_schema_tells_what_the_body_must_be() -> None:
    def tick(self: object, key: str, by: int = 1) -> None: ...

    schema = Handler("tick", tick).schema
    (definition,) = schema["$defs"].values()
    assert definition["required"] == ["key"]
    assert definition["properties"]["by"] == {"type": "integer", "default": 1}
