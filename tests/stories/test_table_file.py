"""A module's Tables in its state file: exported with the state, imported through the steps, started from by a check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stories.deployment import Deployment

FIRST = """
    from typing import TypedDict
    from livetag import Module, Table, handles

    class Record(TypedDict):
        hops: int

    class Routes(Module):
        routes: Table[tuple[str, int], Record] = Table(version=1)
        marks: Table[str, int] = Table(version=1)

        def initial_state(self) -> dict:
            return {"puts": 0}

        @handles
        def put(self, first: int, count: int = 1) -> None:
            self.state["puts"] += 1
            for port in range(first, first + count):
                self.routes["eth", port] = {"hops": port}
            self.marks["last"] = first

        @handles
        def look(self) -> list:
            return [self.state["puts"], sorted(self.routes.items()), dict(self.marks.items())]

        @handles
        def size(self) -> int:
            return len(self.routes)
"""
SECOND = (
    FIRST.replace(
        "Table[tuple[str, int], Record] = Table(version=1)", "Table[tuple[str, int], int] = Table(version=2)"
    )
    .replace('{"hops": port}', "port")
    .replace("class Routes(Module):", "class Routes(Module):", 1)
    + """
    @Routes.migrates("routes", 1, 2)
    def up(key: tuple[str, int], old: Record) -> int:
        return old["hops"] * 10

    @Routes.migrates("routes", 2, 1)
    def down(key: tuple[str, int], new: int) -> Record:
        return {"hops": new // 10}
"""
)


@pytest.fixture
def file(deployment: Deployment) -> Path:
    return deployment.path.parent / "routes.json"


def exported(deployment: Deployment, file: Path) -> dict[str, Any]:
    done = deployment.livetag("state", "routes", "--export", str(file))
    assert done.returncode == 0, done.stderr
    assert "with the records of marks, routes." in done.stderr
    held: dict[str, Any] = json.loads(file.read_text())
    return held


def imported(deployment: Deployment, file: Path) -> str:
    """What it said, if it went well, else why not."""
    done = deployment.livetag("state", "routes", "--import", str(file), "--reason", "as it was")
    return done.stdout + done.stderr


def rows(held: Mapping[str, Any], name: str) -> list[Any]:
    (table,) = (each for each in held["tables"] if each["name"] == name)
    found: list[Any] = table["records"]
    return found


def test_records_go_out_with_the_state_and_come_back_through_the_steps(
    deployment: Deployment, file: Path
) -> None:
    deployment.deploy("routes/v1.0.0", routes=FIRST)
    deployment.ask("routes", "put", first=1, count=2)
    held = exported(deployment, file)
    assert sorted(rows(held, "routes")) == [[["eth", 1], {"hops": 1}], [["eth", 2], {"hops": 2}]]

    deployment.deploy("routes/v1.1.0", routes=SECOND)
    deployment.ask("routes", "put", first=7)
    assert "with the records of marks, routes" in imported(deployment, file)
    assert deployment.ask("routes", "look") == [1, [[["eth", 1], 10], [["eth", 2], 20]], {"last": 1}]
    text = deployment.history()[0]["modules"][0]["text"]
    assert text == "routes: state version 1, Tables marks, routes"

    # What the file does not name stays; what is put in can be written, migrated on, and lives through a stop.
    held["tables"] = [each for each in held["tables"] if each["name"] == "routes"]
    file.write_text(json.dumps(held))
    deployment.ask("routes", "put", first=9)
    assert "left as they are: the records of marks" in imported(deployment, file)
    deployment.ask("routes", "put", first=3)
    deployment.stop()
    deployment.start()
    now = [[["eth", 1], 10], [["eth", 2], 20], [["eth", 3], 3]]
    assert deployment.ask("routes", "look") == [2, now, {"last": 3}]
    assert deployment.livetag("rollback", "--reason", "back").returncode == 0
    down = [[["eth", 1], {"hops": 1}], [["eth", 2], {"hops": 2}], [["eth", 3], {"hops": 0}]]
    assert deployment.ask("routes", "look") == [2, down, {"last": 3}]


def test_one_record_that_does_not_fit_is_named_and_nothing_is_changed(
    deployment: Deployment, file: Path
) -> None:
    deployment.deploy("routes/v1.0.0", routes=SECOND)
    deployment.ask("routes", "put", first=1, count=2)
    held, before = exported(deployment, file), deployment.ask("routes", "look")

    def changed(records: list[Any], version: int) -> str:
        table = {"name": "routes", "version": version, "records": records}
        file.write_text(json.dumps({**held, "state": {"puts": 99}, "tables": [table]}))
        return imported(deployment, file)

    good = [["eth", 1], 1]
    assert "Table routes, key ('eth', 2): the record does not fit version 2" in changed(
        [good, [["eth", 2], "far"]], 2
    )
    assert "the key 'eth' is not of type tuple[str, int]" in changed([good, ["eth", 1]], 2)
    assert "key ('eth', 2): the step 1→2 raised KeyError: 'hops' (routes/__init__.py line" in changed(
        [[["eth", 1], {"hops": 1}], [["eth", 2], {}]], 1
    )
    assert "No step leads from version 9 to 2 of the Table routes" in changed([good], 9)
    assert "the records of the Table routes cannot be read" in changed([[{"eth": 1}, 1]], 2)
    assert deployment.ask("routes", "look") == before
    assert not [row for row in deployment.history() if row["outcome"] == "state imported"]


def test_a_table_that_is_longer_than_a_request_comes_back_whole(deployment: Deployment, file: Path) -> None:
    deployment.deploy("routes/v1.0.0", routes=FIRST)
    deployment.ask("routes", "put", first=0, count=12_000)
    exported(deployment, file)
    assert file.stat().st_size > 500_000
    deployment.ask("routes", "put", first=20_000, count=5)
    imported(deployment, file)
    assert deployment.ask("routes", "size") == 12_000


def test_a_check_starts_a_release_from_an_exported_state(deployment: Deployment, file: Path) -> None:
    deployment.deploy("routes/v1.0.0", routes=FIRST)
    deployment.ask("routes", "put", first=0, count=3)
    held = exported(deployment, file)
    work = str(deployment.work.path)

    def check(code: str) -> tuple[int, str]:
        deployment.write("routes", code)
        done = deployment.livetag("check", work, "--state", str(file))
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    code, said = check(SECOND)
    assert (
        code,
        "routes 1.0.0 in routes.json: its records are migrated; the way back loses nothing" in said,
    ) == (0, True), said
    code, said = check(SECOND.replace('old["hops"] * 10', '10 // old["hops"]'))
    assert code == 1
    assert "Table routes, key ('eth', 0): the step 1→2 raised ZeroDivisionError" in said

    file.write_text(json.dumps({**held, "state_version": 4}))
    code, said = check(SECOND)
    assert (code, "No migration leads from state version 4 to 1" in said) == (1, True), said
    tables = [{**each, "version": 5} for each in held["tables"]]
    file.write_text(json.dumps({**held, "tables": tables}))
    code, said = check(SECOND)
    assert (code, "no step leads from version 5 to 1 of the Table marks" in said) == (1, True), said
    file.write_text(json.dumps({**held, "module": "other"}))
    code, said = check(SECOND)
    assert (code, "has no module or package other, which the state is of" in said) == (1, True), said
    file.write_text("{}")
    code, said = check(SECOND)
    assert (code, "The file is no state" in said) == (1, True), said
