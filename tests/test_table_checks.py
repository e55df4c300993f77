"""What a plan says of Tables before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.runtime.description import Description, TableDescription
from orchestrator.upgrade.checks import Live
from orchestrator.upgrade.table_checks import TableChecks, TableInService
from tests.test_plan import candidate, description, entry, plan

KEY = {"type": "string"}
OLD = {"type": "integer"}
NEW = {"type": "number"}
UP, DOWN = (1, 2), (2, 1)


def releasing(version: int, *steps: tuple[int, int], key: Any = KEY, record: Any = NEW) -> Description:
    table = TableDescription(version, key, record, steps)
    return Description("rib:Rib", {}, (), {}, (), 1, {}, (), tables={"routes": table})


def serving(version: int, *steps: tuple[int, int], also: tuple[int, ...] = ()) -> dict[str, TableInService]:
    return {"routes": TableInService(version, frozenset(also), frozenset(steps), KEY, OLD, 7)}


def bad(described: Description, live: dict[str, TableInService], *, one_way: bool = False) -> list[str]:
    return [found.why for found in TableChecks("rib", described, live, one_way).found() if found.bad]


@pytest.mark.parametrize(
    ("described", "live"),
    [
        (releasing(2, UP, DOWN), serving(1)),
        (releasing(2, UP), serving(1, DOWN)),
        (releasing(1, record=OLD), serving(2, UP, DOWN)),
        (releasing(1, record=OLD), serving(1)),
        (releasing(3, (1, 2), (2, 3), (3, 2)), serving(2, also=(1,))),
        (releasing(1), {}),
    ],
)
def test_a_release_with_a_way_for_every_record_passes(
    described: Description, live: dict[str, TableInService]
) -> None:
    assert bad(described, live) == []


def test_a_missing_step_up_is_refused_with_the_line_to_write() -> None:
    (why,) = bad(releasing(2, DOWN), serving(1))
    assert "no step leads from version 1 to 2 of the Table routes (steps there are: 2→1)" in why
    assert why.endswith('Add a step: @Rib.migrates("routes", 1, 2)')


def test_a_missing_step_down_is_refused_unless_the_release_is_one_way() -> None:
    (why,) = bad(releasing(2, UP), serving(1))
    assert "so a rollback would lose its records" in why
    assert '@Rib.migrates("routes", 2, 1); or say one_way = true' in why
    assert bad(releasing(2, UP), serving(1), one_way=True) == []


def test_records_that_are_still_of_an_older_version_need_a_way_too() -> None:
    (why,) = bad(releasing(3, (2, 3), (3, 2)), serving(2, also=(1,)))
    assert '@Rib.migrates("routes", 1, 3)' in why


def test_other_keys_and_other_records_of_the_same_version_are_refused() -> None:
    assert "Steps change records, never keys" in bad(releasing(1, key=OLD, record=OLD), serving(1))[0]
    (why,) = bad(releasing(1), serving(1))
    assert (
        'Write Table(version=2), and steps: @Rib.migrates("routes", 1, 2) and @Rib.migrates("routes", 2, 1)'
        in why
    )


def test_a_table_that_is_no_longer_declared_is_said_to_be_kept_aside() -> None:
    (found,) = TableChecks("rib", description(), serving(1)).found()
    assert (found.bad, "its 7 records are kept aside, unread" in found.why) == (False, True)


def test_a_plan_refuses_a_release_whose_records_have_no_way() -> None:
    new = candidate("rib/v1.1.0", "c2", said=releasing(2, UP))
    table = [entry("rib", "1.0.0", "c1")]
    refused = plan([new], table, live={"rib": Live(tables=serving(1))}).refused
    assert refused[0].refused is not None
    assert "Add a step down" in refused[0].refused.reason
    one_way = candidate("rib/v1.1.0", "c2", said=releasing(2, UP), one_way=True)
    ready = plan([one_way], table, live={"rib": Live(tables=serving(1))}).ready
    assert "rib: steps up 1→2 of the Table routes" in [check.why for check in ready[0].checks]
