"""What other modules are told of a change (DESIGN §4). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.upgrade.announcements import announcements
from orchestrator.upgrade.records import Change, Entry

OLD = Entry("counter", "counter", "1.0.0", "counter/v1.0.0", "c1", "t1", "o1", also=("total",))
NEW = msgspec.structs.replace(OLD, version="1.1.0", commit_id="c2", tree_id="t2")


def told(before: Entry | None, after: Entry | None) -> list[dict[str, Any]]:
    return [dict(body) for body in announcements(Change("counter", before, after))]


def but(entry: Entry, **more: Any) -> Entry:
    return msgspec.structs.replace(entry, **more)


def test_each_kind_of_change_has_its_word_and_its_versions() -> None:
    assert told(None, but(NEW, also=())) == [
        {"module": "counter", "change": "loaded", "from": None, "to": "1.1.0"}
    ]
    assert told(OLD, NEW) == [{"module": "counter", "change": "swapped", "from": "1.0.0", "to": "1.1.0"}]
    assert told(OLD, None) == [{"module": "counter", "change": "removed", "from": "1.0.0", "to": None}]
    assert [body["change"] for body in told(OLD, but(OLD, config={"n": 1}))] == ["swapped"]


def test_out_of_service_and_back_is_told_and_that_no_version_came() -> None:
    assert [body["change"] for body in told(OLD, but(OLD, enabled=False))] == ["disabled"]
    assert [body["change"] for body in told(but(OLD, enabled=False), OLD)] == ["enabled"]
    assert [body["change"] for body in told(None, but(OLD, enabled=False, also=()))] == ["loaded", "disabled"]


def test_names_that_come_and_go_are_told_by_name() -> None:
    moved = told(OLD, but(NEW, also=("sum",)))
    assert [(body["change"], body.get("names")) for body in moved] == [
        ("swapped", None),
        ("bound", ["sum"]),
        ("unbound", ["total"]),
    ]
