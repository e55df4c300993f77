"""Plain data: what a state may hold comes back equal, and what it may not is refused."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livetag import Module, handles
from livetag import testing as livetag_testing
from orchestrator.runtime.errors import MigrationMissing, StateInvalid
from orchestrator.runtime.state import PLAIN_STATE, StateCodec, find_chain, migrate
from orchestrator.runtime.wayback import lost_going_down


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Everything(TypedDict):
    nothing: None
    flag: bool
    whole: int
    real: float
    text: str
    raw: bytes
    items: list[Any]
    table: dict[str, Any]
    by_number: dict[int, str]
    at: datetime
    price: Decimal
    ident: UUID
    day: date
    hour: time
    span: timedelta
    pair: tuple[int, str]
    tags: set[str]
    colour: Colour


EVERYTHING: Everything = {
    "nothing": None,
    "flag": True,
    "whole": -(2**63),
    "real": 0.1,
    "text": "µ\u0000\N{SNOWMAN}",
    "raw": b"\x00\xff",
    "items": [1, [2, {"a": None}]],
    "table": {"a": {"b": [1.5]}},
    "by_number": {1: "a", -7: "b"},
    "at": datetime(2008, 2, 24, 18, 47, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
    "price": Decimal("1.50"),
    "ident": UUID(int=7),
    "day": date(2008, 2, 24),
    "hour": time(18, 47),
    "span": timedelta(days=3, microseconds=1),
    "pair": (1, "x"),
    "tags": {"a", "b"},
    "colour": Colour.RED,
}


def test_every_allowed_type_comes_back_equal_and_shares_nothing() -> None:
    codec = StateCodec(Everything)
    copy = codec.copy(EVERYTHING)
    assert copy == EVERYTHING
    assert {key: type(value) for key, value in copy.items()} == {k: type(v) for k, v in EVERYTHING.items()}
    copy["items"][1].append(3)
    assert EVERYTHING["items"] == [1, [2, {"a": None}]]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-9, 9), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_untyped_plain_data_comes_back_equal(value: Any) -> None:
    assert PLAIN_STATE.copy(value) == value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 1,
        {1, object()},
        2**64,
        -(2**63) - 1,
        float,
        {"a": iter([])},
        "\ud800",
        {object(): 1},
    ],
)
def test_what_is_not_plain_data_is_refused(value: object) -> None:
    with pytest.raises(StateInvalid, match="The state is not plain data"):
        PLAIN_STATE.copy({"value": value})


def test_a_state_that_refers_to_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(StateInvalid, match="not plain data"):
        PLAIN_STATE.copy(circle)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("whole", "1", r"Expected `int`, got `str` - at `\$\.whole`"),
        ("whole", 1.5, r"\$\.whole"),
        ("colour", "green", r"Invalid enum value 'green' - at `\$\.colour`"),
        ("pair", (1,), r"Expected `array` of length 2, got 1 - at `\$\.pair`"),
        ("by_number", {"a": "b"}, r"\$\.by_number"),
    ],
)
def test_a_state_that_does_not_fit_its_type_names_the_field(key: str, value: object, says: str) -> None:
    with pytest.raises(StateInvalid, match=f"does not fit its type: .*{says}"):
        StateCodec(Everything).copy({**EVERYTHING, key: value})


def test_damaged_bytes_are_refused() -> None:
    for data in (b"", b"\xc1", b"\x81", b"\x91" * 5000):
        with pytest.raises(StateInvalid):
            StateCodec(dict[str, Any]).decode(data)


class Row(msgspec.Struct):
    n: int


@dataclass
class Record:
    n: int


class Nested(TypedDict):
    more: list[dict[str, Colour | None]]


class Recursive(TypedDict, total=False):
    n: int
    child: Recursive


@pytest.mark.parametrize(
    ("type_", "by_reference"),
    [
        (dict[str, Any], True),
        (dict[str, list[Decimal]], True),
        (Everything, False),
        (Nested, False),
        (Recursive, True),
        (dict[str, Row], False),
        (list[Record], False),
    ],
)
def test_only_a_state_without_instances_of_somebodys_class_goes_over_as_it_is(
    type_: Any, by_reference: bool
) -> None:
    assert StateCodec(type_).by_reference is by_reference


def test_a_member_of_an_enum_is_one_of_the_new_versions_after_a_swap() -> None:
    def version() -> tuple[type[Module[Any]], type[enum.Enum]]:
        class Mood(enum.Enum):
            GOOD = "good"

        class State(TypedDict):
            mood: Mood

        class Person(Module[State]):
            def initial_state(self) -> State:
                return {"mood": Mood.GOOD}

            @handles
            def is_good(self) -> bool:
                return self.state["mood"] is Mood.GOOD

        State.__annotations__["mood"] = Mood
        return Person, Mood

    async def story() -> None:
        (first, _), (second, _) = version(), version()
        async with livetag_testing.run(first) as person:
            assert await person.ask("is_good")
            await person.upgrade(second)
            assert await person.ask("is_good")

    asyncio.run(story())


def step(name: str) -> Any:
    return lambda old: {**old, "steps": [*old.get("steps", []), name]}


STEPS = {
    (a, b): step(f"{a}-{b}") for a, b in ((1, 2), (2, 3), (3, 4), (4, 3), (3, 2), (2, 1), (1, 3), (7, 8))
}


@pytest.mark.parametrize(
    ("start", "end", "taken"),
    [
        (1, 1, []),
        (1, 2, ["1-2"]),
        (1, 4, ["1-3", "3-4"]),
        (4, 1, ["4-3", "3-2", "2-1"]),
        (2, 4, ["2-3", "3-4"]),
    ],
)
def test_the_fewest_steps_are_taken_up_and_down(start: int, end: int, taken: list[str]) -> None:
    state = migrate({}, find_chain(STEPS, start, end), StateCodec(dict[str, Any]))
    assert state.get("steps", []) == taken


def test_a_missing_step_is_named_with_those_there_are() -> None:
    with pytest.raises(
        MigrationMissing, match=r"from state version 1 to 8 .*7→8.*@YourModule\.migrates\(1, 8\)"
    ):
        find_chain(STEPS, 1, 8)
    with pytest.raises(MigrationMissing, match="steps there are: none"):
        find_chain({}, 1, 2)


def test_a_step_works_on_a_copy_and_its_result_is_checked() -> None:
    old = {"items": [1]}

    def grow(state: dict[str, Any]) -> dict[str, Any]:
        state["items"].append(2)
        return state

    assert migrate(old, [grow], StateCodec(dict[str, list[int]])) == {"items": [1, 2]}
    assert old == {"items": [1]}
    with pytest.raises(StateInvalid, match="does not fit its type"):
        migrate(old, [lambda _state: {"items": ["x"]}], StateCodec(dict[str, list[int]]))
    with pytest.raises(StateInvalid):
        migrate(old, [lambda _state: None], StateCodec(dict[str, Any]))


class Wide(TypedDict):
    total: int
    by_key: dict[str, int]
    label: str


def test_what_a_way_back_loses_is_found_even_where_the_state_happens_to_fit() -> None:
    def down(new: dict[str, Any]) -> dict[str, Any]:
        return {"total": new["total"]}

    def up(old: dict[str, Any]) -> dict[str, Any]:
        return {"total": old["total"], "by_key": {}, "label": ""}

    codec = StateCodec(Wide)
    for state in (
        {"total": 3, "by_key": {}, "label": ""},  # as the way up would make it: another value shows the loss
        {"total": 3, "by_key": {"a": 1}, "label": "x"},
    ):
        assert lost_going_down(state, codec, [down], [up]) == ["by_key", "label"]
    assert lost_going_down({"total": 3}, codec, [], []) == []
