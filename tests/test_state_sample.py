"""A state is copied whole or cut, in a time that does not grow with it; what is cut is still of its type, and is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest

from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.state import PLAIN_STATE, StateCodec
from orchestrator.runtime.state_sample import CUT_MAX, Cut, state_sample


class Route(TypedDict):
    path: str
    weight: float
    seen: int


class State(TypedDict):
    total: int
    by_key: dict[str, int]
    routes: dict[str, Route]
    log: list[str]
    peers: dict[int, dict[str, Route]]


def state_of(**parts: Any) -> State:
    empty: State = {"total": 7, "by_key": {}, "routes": {}, "log": [], "peers": {}}
    return {**empty, **parts}  # type: ignore[typeddict-item]


def routes(count: int) -> dict[str, Route]:
    return {f"route {n}": {"path": f"1 {n}", "weight": 1.5, "seen": n} for n in range(count)}


CODEC = StateCodec(State)


def test_ten_thousand_records_are_copied_whole() -> None:
    state = state_of(routes=routes(10_000))
    sample = state_sample(state, CODEC)
    assert sample.data == PLAIN_STATE.encode(state)
    assert (sample.cuts, sample.times) == ((), 1.0)


CUT: dict[str, tuple[State, tuple[Cut, ...], float]] = {
    "a flat dict": (
        state_of(by_key={str(n): n for n in range(200_000)}), (Cut("by_key", 1000, 200_000),), 200,
    ),
    "records": (state_of(routes=routes(60_000)), (Cut("routes", 1000, 60_000),), 60),
    "a list": (state_of(log=[str(n) for n in range(100_000)]), (Cut("log", 1000, 100_000),), 100),
    "parts of parts": (
        state_of(peers={n: routes(400) for n in range(50)}),
        (Cut("peers.*", 100, 4_000), Cut("peers", 10, 50)),
        200,
    ),
    "one long text": (state_of(log=["x" * 9_000_000]), (Cut("log.*", 100_000, 9_000_000),), 89),
}  # fmt: skip


@pytest.mark.parametrize("what", CUT)
def test_a_large_part_is_cut_and_the_rest_is_whole(what: str) -> None:
    state, cuts, times = CUT[what]
    sample = state_sample(state, CODEC)
    assert sample.cuts == cuts
    assert sample.times == pytest.approx(times, rel=0.1)
    copy = CODEC.decode(sample.data)  # of its type, and so is every item
    small = [name for name in state if not any(cut.where.startswith(name) for cut in cuts)]
    assert all(copy[name] == state[name] for name in small)  # type: ignore[literal-required]


def test_the_oldest_and_the_newest_items_are_in_a_sample() -> None:
    copy = CODEC.decode(state_sample(state_of(by_key={str(n): n for n in range(200_000)}), CODEC).data)
    assert {"0", "199999"} <= copy["by_key"].keys()
    rows = CODEC.decode(state_sample(state_of(log=[str(n) for n in range(100_000)]), CODEC).data)["log"]
    assert rows[0] == "0"
    assert int(rows[-1]) > 99_000
    assert sorted(map(int, rows)) == list(map(int, rows)), "in their order"


def test_an_object_never_loses_a_field_whether_its_type_is_known_or_not() -> None:
    wide: Any = TypedDict("wide", {f"field_{n}": int for n in range(70)})  # type: ignore[misc]
    typed = StateCodec(TypedDict("typed", {"rows": list[wide]}))  # type: ignore[operator]
    row = {f"field_{n}": n for n in range(70)}
    sample = state_sample({"rows": [row] * 3_000}, typed)
    assert typed.decode(sample.data)["rows"][0] == row
    assert [cut.where for cut in sample.cuts] == ["rows"]

    narrow = {f"field_{n}": n for n in range(50)}
    untyped = state_sample(
        {"rows": [narrow] * 3_000, "peers": {str(n): narrow for n in range(2_000)}}, StateCodec(dict)
    )
    copy = PLAIN_STATE.decode(untyped.data)
    assert all(each == narrow for each in (*copy["rows"], *copy["peers"].values()))
    assert {cut.where for cut in untyped.cuts} == {"rows", "peers"}


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


def test_every_kind_of_plain_value_can_be_in_a_sample() -> None:
    class All(TypedDict):
        many: dict[str, tuple[int, str]]
        maybe: dict[str, int] | None
        kinds: set[int]
        rows: tuple[int, ...]
        colour: Colour
        raw: bytes
        at_most: Annotated[list[int], msgspec.Meta(max_length=10**9)]

    state: All = {
        "many": {str(n): (n, "x") for n in range(70_000)},
        "maybe": {str(n): n for n in range(70_000)},
        "kinds": set(range(70_000)),
        "rows": tuple(range(70_000)),
        "colour": Colour.RED,
        "raw": b"x" * 70_000,
        "at_most": list(range(70_000)),
    }
    codec = StateCodec(All)
    sample = state_sample(state, codec)
    copy = codec.decode(sample.data)
    assert {cut.where: cut.taken for cut in sample.cuts} == dict.fromkeys(
        ("many", "maybe", "kinds", "rows", "at_most"), 100
    )
    assert (copy["colour"], copy["raw"]) == (Colour.RED, state["raw"])
    assert copy["many"].items() <= state["many"].items()
    assert copy["kinds"] <= state["kinds"]


def test_what_cannot_be_cut_is_copied_as_it_is() -> None:
    state: Any = {}
    for _ in range(4):
        state = {f"field {n}": state for n in range(20)}  # no part of it is larger than an object may be
    sample = state_sample(state, StateCodec(dict))
    assert sample.data == PLAIN_STATE.encode(state)
    assert sample.cuts == ()


def test_what_is_no_plain_data_is_refused_small_or_large_and_so_is_a_circle() -> None:
    large = {"rows": dict.fromkeys(range(100_000), object())}
    circle: dict[str, Any] = {}
    circle["me"] = circle
    for state in ({"x": object()}, large, circle):
        with pytest.raises(StateInvalid, match="not plain data"):
            state_sample(state, StateCodec(dict))


def best_s(work: Callable[[], object]) -> float:
    found = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def test_a_million_entries_take_no_longer_to_copy_than_ten_thousand_records() -> None:
    million = state_of(by_key={str(n): n for n in range(1_000_000)})
    records = state_of(routes=routes(10_000))
    assert best_s(lambda: state_sample(million, CODEC)) < 2 * best_s(lambda: state_sample(records, CODEC))
    assert len(state_sample(million, CODEC).data) < 64 * CUT_MAX
