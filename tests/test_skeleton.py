"""A migration step begun from its two types: it compiles, runs, and gives a state of the new version."""

from __future__ import annotations

import textwrap
from typing import Any, TypedDict, get_type_hints

import msgspec
import pytest

from orchestrator.runtime.schema import Schema
from orchestrator.upgrade.skeleton import LINES_MAX, Missing, skeleton


class Old(TypedDict):
    total: int
    label: str
    gone: list[int]


class Inner(TypedDict):
    n: int


class New(TypedDict):
    total: int
    label: int
    by_key: dict[str, int]
    note: str | None
    inner: Inner


class Some(TypedDict, total=False):
    total: int
    label: str


def schema(type_: Any) -> Schema:
    return msgspec.json.schema(type_)


def run(source: str, *arguments: object) -> Any:
    """Run the step that the source is."""
    steps: list[Any] = []

    class Counter:
        @staticmethod
        def migrates(*_pair: object) -> Any:
            return steps.append

    exec(source, {"Counter": Counter})  # noqa: S102  # it is what an author would paste
    return steps[0](*arguments)


def test_what_both_have_is_taken_over_the_rest_is_said() -> None:
    source = skeleton(Missing("Counter", 1, 2), schema(Old), schema(New))
    assert f"{source}\n" == textwrap.dedent("""\
        @Counter.migrates(1, 2)
        def from_1_to_2(state):
            return {
                "label": state["label"],  # a text before, now an integer
                "total": state["total"],
                "by_key": {},  # new: an object
                "inner": ...,  # new: Inner
                "note": None,  # new: a text or None
                # lost, unless you keep it elsewhere: gone
            }
        """)
    made = run(source, {"total": 3, "label": "x", "gone": []})
    assert made == {"label": "x", "total": 3, "by_key": {}, "inner": ..., "note": None}


def test_a_field_that_may_be_absent_is_taken_over_if_it_is_there() -> None:
    source = skeleton(Missing("Counter", 2, 1), schema(Some), schema(Old))
    assert run(source, {"label": "x"}) == {"label": "x", "gone": []}
    assert run(source, {}) == {"gone": []}


def test_of_many_fields_those_that_stay_are_taken_over_in_one_line() -> None:
    many = {f"f{number}": int for number in range(LINES_MAX + 1)}
    had = TypedDict("had", {**many, "gone": int})  # type: ignore[misc]
    has = TypedDict("has", {**many, "new": str})  # type: ignore[misc]
    source = skeleton(Missing("Counter", 1, 2), schema(had), schema(has))
    assert source.count("\n") < LINES_MAX
    made = run(source, dict.fromkeys(get_type_hints(had), 7))
    assert made == {**dict.fromkeys(many, 7), "new": ""}


def test_a_step_of_a_table_takes_key_and_record() -> None:
    source = skeleton(Missing("Counter", 1, 2, "routes"), schema(Inner), schema(Inner))
    assert source.startswith('@Counter.migrates("routes", 1, 2)\ndef routes_from_1_to_2(key, record):')
    assert run(source, "key", {"n": 4}) == {"n": 4}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (dict, Old, "an object before, now Old"),
        (tuple[int, str], int, "a list before, now an integer"),
        (None, Old, "to be written"),
    ],
)
def test_types_without_named_fields_leave_the_step_to_its_author(old: Any, new: Any, says: str) -> None:
    source = skeleton(Missing("Counter", 1, 2), schema(old) if old else None, schema(new))
    assert source.splitlines()[-1] == f"    return ...  # {says}"
    assert run(source, {}) is ...
