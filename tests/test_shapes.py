"""One schema against another: every body that the old one took is taken by the new one, or it is said which is not."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, inspect

from orchestrator.runtime.handlers import Handler
from orchestrator.runtime.schema import UNKNOWN, Schema, schema_of
from orchestrator.upgrade.shapes import narrower

Type = Any  # Any: a type expression has no type


class Tree(msgspec.Struct):
    children: list[Tree]
    weight: int = 0


class Heavier(msgspec.Struct):
    children: list[Heavier]
    weight: float = 0


class Loose(TypedDict, total=False):
    a: int


class Order(TypedDict):
    sku: str


class Bigger(Order, total=False):
    count: int


class Counted(Order):
    count: int


class Priced(TypedDict):
    sku: bytes


class Basket(TypedDict):
    rows: list[Order]


class PricedBasket(TypedDict):
    rows: list[Priced]


class Pair(NamedTuple):
    a: int
    b: str = ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


def body(function: Callable[..., Any]) -> Schema:
    """The schema of the body that a handler takes."""
    return Handler("x", function).schema


def check(before: Type, after: Type) -> list[str]:
    return narrower(schema_of(before), schema_of(after))


# -- types -----------------------------------------------------------------------------------------------------------

TAKEN = [
    (int, int),
    (int, float),
    (int, Any),
    (None, int | None),
    (int, int | str),
    (int | None, str | int | None),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", "b"], str),
    (Literal["a", 1], str | int),
    (Colour, Literal["red", "blue", "green"]),
    (list[int], list[float]),
    (tuple[int, int], list[int]),
    (tuple[int, str], list[int | str]),
    (list[int], set[int]),
    (dict[str, int], dict[str, float]),
    (dict[str, int], dict),
    (dict[Literal["a"], int], dict[str, int]),
    (Order, dict),
    (Order, Bigger),
    (Bigger, Order),
    (Order, Loose),
    (Basket, dict[str, Any]),
    (Tree, Heavier),
    (Cat, Cat | Dog),
    (Pair, list),
    (tuple[int, str], Pair),
    (Annotated[int, Meta(ge=1)], Annotated[int, Meta(gt=0)]),
    (Annotated[int, Meta(gt=0)], Annotated[int, Meta(ge=1)]),
    (Annotated[int, Meta(lt=6)], Annotated[int, Meta(le=5)]),
    (Annotated[int, Meta(ge=1, le=5)], Annotated[int, Meta(ge=0, lt=7)]),
    (Annotated[int, Meta(multiple_of=4)], Annotated[int, Meta(multiple_of=2)]),
    (Annotated[str, Meta(max_length=3, pattern="a")], Annotated[str, Meta(max_length=4, pattern="a")]),
    (Annotated[str, Meta(max_length=3)], str),
    (Annotated[datetime, Meta(tz=True)], datetime),
    (Annotated[list[int], Meta(max_length=3)], Annotated[list[int], Meta(max_length=3)]),
    (Literal[2, 4], Annotated[int, Meta(ge=2, multiple_of=2)]),
]


@pytest.mark.parametrize(("before", "after"), TAKEN, ids=str)
def test_what_takes_all_that_the_other_took_is_compatible(before: Type, after: Type) -> None:
    assert check(before, after) == []


REFUSED = [
    (float, int, "the body: a number before, now an integer"),
    (bool, int, "the body: true or false before, now an integer"),
    (str, bytes, "the body: a text before, now bytes"),
    (str, datetime, "the body: a text before, now a datetime"),
    (datetime, str, "the body: a datetime before, now a text"),
    (datetime, date, "the body: a datetime before, now a date"),
    (Any, int, "the body: anything before, now an integer"),
    (int | None, int, "the body: None before, now an integer"),
    (int | str, int | bytes, "the body: a text before, now an integer or bytes"),
    (Literal["a", "b"], Literal["a"], "the body: does not take b any more"),
    (Literal["a", "-"], Literal["a"], 'the body: does not take "-" any more'),
    (Literal["a", 1], str, "the body: does not take 1 any more"),
    (Literal["a"], int, "the body: a before, now an integer"),
    (Colour, Literal["red"], "the body: does not take blue any more"),
    (str, Literal["a", "b"], "the body: a text before, now a or b"),
    (list[int], list[str], "the body[]: an integer before, now a text"),
    (list[int], tuple[int, int], "the body: at least 0 items before, now at least 2"),
    (tuple[int, int], tuple[int, str], "the body[1]: an integer before, now a text"),
    (dict[str, int], dict[str, str], "*: an integer before, now a text"),
    (dict[str, int], dict[int, int], "(keys): a text before, now an integer"),
    (dict[int, int], dict[str, int], "(keys): an integer before, now a text"),
    (dict, Order, "sku: new, and required"),
    (dict[str, int], Loose, None),
    (dict, Loose, "a: anything before, now an integer"),
    (Order, Counted, "count: new, and required"),
    (Bigger, Counted, "count: was optional, is required now"),
    (Order, dict[str, str], "the body: fields that it does not know were ignored, now each must be a text"),
    (Order, Priced, "sku: a text before, now bytes"),
    (Basket, PricedBasket, "rows[].sku: a text before, now bytes"),
    (Heavier, Tree, "weight: a number before, now an integer"),
    (Cat | Dog, Cat, "type: does not take Dog any more"),
    (list, Pair, "the body: at least 0 items before, now at least 1"),
    (Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)], "the body: at least 0, now at least 1"),
    (int, Annotated[int, Meta(lt=7)], "the body: without a limit, now at most 6"),
    (float, Annotated[float, Meta(gt=0)], "the body: without a limit, now above 0"),
    (int, Annotated[int, Meta(multiple_of=2)], "the body: now only multiples of 2"),
    (str, Annotated[str, Meta(max_length=3)], "the body: now at most 3 characters"),
    (str, Annotated[str, Meta(pattern="a+")], "the body: now only texts of the pattern a+"),
    (
        list[int],
        Annotated[list[int], Meta(max_length=3)],
        "the body: any number of items before, now at most 3",
    ),
    (dict[str, int], Annotated[dict[str, int], Meta(max_length=3)], "the body: now at most 3 entries"),
    (datetime, Annotated[datetime, Meta(tz=True)], "the body: now only with a time zone"),
    (Literal[1, 2], Annotated[int, Meta(ge=2)], "the body: does not take 1 any more"),
]


@pytest.mark.parametrize(("before", "after", "said"), REFUSED, ids=str)
def test_what_takes_less_is_said_with_the_field(before: Type, after: Type, said: str | None) -> None:
    found = check(before, after)
    assert found == [] if said is None else said in found


def test_a_type_that_is_narrower_is_said_at_each_place_where_it_stands() -> None:
    class Both(TypedDict):
        here: Order
        there: Order

    class BothPriced(TypedDict):
        here: Priced
        there: Priced

    for each in (Both, BothPriced):
        each.__annotations__ = dict.fromkeys(("here", "there"), Order if each is Both else Priced)
    assert check(Both, BothPriced) == [
        "here.sku: a text before, now bytes",
        "there.sku: a text before, now bytes",
    ]


def test_a_constant_is_compared_with_its_type_as_the_decoder_does() -> None:
    assert narrower({"enum": [True]}, schema_of(Literal[1])) != []
    assert narrower({"enum": [1.0]}, schema_of(Literal[1])) != []
    assert narrower({"enum": [1]}, schema_of(Literal[1])) == []


# -- bodies of handlers ----------------------------------------------------------------------------------------------


def one(self: Any, sku: str) -> None: ...
def one_more(self: Any, sku: str, count: int = 1) -> None: ...
def two(self: Any, sku: str, count: int) -> None: ...
def renamed(self: Any, name: str) -> None: ...
def nothing(self: Any) -> None: ...
def whole(self: Any, order: Order) -> None: ...
def anything(self: Any, body: dict) -> None: ...  # type: ignore[type-arg]  # as authors write it


HANDLERS: list[tuple[Callable[..., Any], Callable[..., Any], list[str]]] = [
    (one, one_more, []),
    (one_more, one, ["count: no longer a field, and unknown fields are refused"]),
    (one, two, ["count: new, and required"]),
    (one_more, two, ["count: was optional, is required now"]),
    (two, one_more, []),
    (one, renamed, ["sku: no longer a field, and unknown fields are refused", "name: new, and required"]),
    (one, whole, []),
    (whole, one, ["the body: fields that it does not know were ignored, now they are refused"]),
    (one, anything, []),
    (anything, one, ["sku: new, and required", "the body: any fields before, now only sku"]),
    (nothing, one, ["sku: new, and required"]),
    (nothing, anything, ["the body: None before, now an object"]),
]


@pytest.mark.parametrize(("before", "after", "said"), HANDLERS)
def test_the_fields_of_a_handler_are_compared(
    before: Callable[..., Any], after: Callable[..., Any], said: list[str]
) -> None:
    assert narrower(body(before), body(after)) == said


def test_an_upcast_takes_what_the_handler_does_not() -> None:
    assert narrower(body(one), body(renamed), [body(one)]) == []
    assert narrower(schema_of(int | str), schema_of(bytes), [schema_of(int), schema_of(str)]) == []
    assert narrower(body(two), body(renamed), [body(one)]) != []


def test_a_keyword_that_is_not_known_is_never_passed_over() -> None:
    new = {"type": "integer", "odd": True}
    assert narrower({"type": "integer"}, new) == ["the body: cannot be compared, its schema says odd"]
    assert narrower(new, {**new, "title": "n"}) == []
    assert narrower(new, {"type": "integer"}) == []


def test_what_a_literal_does_not_say_fits_everything() -> None:
    literal = {"type": "object", "properties": {"sku": UNKNOWN}, "required": ["sku"]}
    closed = {**literal, "additionalProperties": False}
    spread = {**literal, "additionalProperties": UNKNOWN}
    assert narrower(closed, body(one)) == []
    assert narrower(closed, body(two)) == ["count: new, and required"]
    assert narrower(spread, body(two)) == []
    assert narrower(spread, body(renamed)) == ["sku: no longer a field, and unknown fields are refused"]
    assert narrower(UNKNOWN, body(two)) == []


# -- against the decoder itself --------------------------------------------------------------------------------------

SCALARS: tuple[Type, ...] = (
    int,
    float,
    str,
    bool,
    None,
    bytes,
    datetime,
    Literal["a", "b"],
    Literal["a"],
    Literal[1, 2],
)
LIMITED: tuple[Type, ...] = (
    Annotated[int, Meta(ge=1)],
    Annotated[int, Meta(gt=1, le=2)],
    Annotated[float, Meta(gt=0)],
    Annotated[str, Meta(min_length=1)],
    Annotated[str, Meta(max_length=1)],
)


def fields(types: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    """A struct of up to two fields, required or not, which refuses unknown fields or ignores them."""
    rows = st.lists(st.tuples(types, st.booleans()), max_size=2)

    def make(rows: list[tuple[Type, bool]], *, closed: bool, names: str) -> Type:
        made = [
            (name, hint) if needed else (name, hint, msgspec.UNSET)
            for name, (hint, needed) in zip(names, sorted(rows, key=lambda row: not row[1]), strict=False)
        ]
        return msgspec.defstruct("Fields", made, forbid_unknown_fields=closed)

    return st.builds(make, rows, closed=st.booleans(), names=st.sampled_from(["ab", "bc"]))


def union(options: list[Type]) -> Type:
    found = options[0]
    for option in options[1:]:
        found = found | option
    return found


def containers(types: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    return st.one_of(
        types.map(list.__class_getitem__),
        types.map(lambda t: dict.__class_getitem__((str, t))),
        st.tuples(types, types).map(tuple.__class_getitem__),
        fields(types),
    )


UNIONS = st.lists(st.sampled_from([int, str, bool, float]), min_size=2, max_size=3, unique=True).map(union)
TYPES = st.recursive(st.one_of(st.sampled_from((*SCALARS, *LIMITED)), UNIONS), containers, max_leaves=4)
EXTRAS = (1, {"z": b""}, [b""])  # what an unknown field may hold
VALUES: dict[type, Sequence[object]] = {
    inspect.IntType: (-1, 0, 1, 2, 3),
    inspect.FloatType: (-1, 0.0, 0.5, 2),
    inspect.StrType: ("", "a", "c", "abc"),
    inspect.BoolType: (True, False),
    inspect.NoneType: (None,),
    inspect.BytesType: (b"", b"a"),
    inspect.DateTimeType: (datetime(2026, 1, 1, tzinfo=timezone.utc),),
    inspect.AnyType: (None, 1, "a", {}),
}


def samples(info: Type) -> list[Any]:
    """Values of a type that show its edges; those that the decoder refuses are left out later."""
    if isinstance(info, inspect.Metadata):
        return samples(info.type)
    if isinstance(info, inspect.UnionType):
        return [value for each in info.types for value in samples(each)]
    if isinstance(info, inspect.LiteralType):
        return list(info.values)
    if isinstance(info, inspect.ListType):
        return [[], *([value] for value in samples(info.item_type))]
    if isinstance(info, inspect.TupleType):
        return varied([samples(each) for each in info.item_types])
    if isinstance(info, inspect.DictType):
        return [{}, *({key: value} for key in "abcz" for value in samples(info.value_type))]
    if isinstance(info, inspect.StructType):
        columns = [
            [
                *([] if field.required else [None]),
                *((field.encode_name, value) for value in samples(field.type)),
            ]
            for field in info.fields
        ]
        rows = [dict(filter(None, row)) for row in varied(columns)]
        return (
            rows
            if info.forbid_unknown_fields
            else [*rows, *({**row, "z": extra} for row in rows for extra in EXTRAS)]
        )
    return [value for value in VALUES[type(info)] if _inside(value, info)]


def varied(columns: list[list[Any]]) -> list[list[Any]]:
    """Rows that go through each column while the others stay as they are."""
    first = [column[0] for column in columns]
    return [[*first[:n], value, *first[n + 1 :]] for n, column in enumerate(columns) for value in column] or [
        []
    ]


def _inside(value: Any, info: Type) -> bool:
    size = len(value) if isinstance(value, str) else value
    bounds = (
        ("ge", "__ge__"),
        ("gt", "__gt__"),
        ("le", "__le__"),
        ("min_length", "__ge__"),
        ("max_length", "__le__"),
    )
    found = [(getattr(operator, check), getattr(info, name, None)) for name, check in bounds]
    return all(bound is None or check(size, bound) for check, bound in found)


def fits(value: object, type_: Type) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(TYPES, TYPES)
def test_compatible_means_that_the_decoder_takes_every_old_value(before: Type, after: Type) -> None:
    problems = check(before, after)
    values = [value for value in samples(inspect.type_info(before)) if fits(value, before)]
    refused = [value for value in values if not fits(value, after)]
    if problems:
        assert refused, f"no counterexample among {values}: {problems}"
    else:
        assert not refused


@settings(max_examples=200, deadline=None)
@given(TYPES)
def test_every_type_takes_what_it_took(type_: Type) -> None:
    assert check(type_, type_) == []
    assert check(type_, type_ | None) == [] or (type_ is None)
