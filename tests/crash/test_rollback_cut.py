"""A rollback that a death of the host cuts off is gone on with: it is still a way back, of the person who asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.scenarios import prepare_release
from tests.crash.victim import Victim, kinds
from tests.stories.deployment import wait_until

MODULES = ("egg", "hen")
OLD = dict.fromkeys(MODULES, "1.0.0 -")
LEFT = {"egg/v1.1.0", "hen/v1.1.0"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """Two releases of two modules, one transaction each."""
    made = Victim(tmp_path_factory.mktemp("cut") / "base")
    made.calm()
    made.start()
    for version in ("1.0.0", "1.1.0"):
        assert made.push("main", *prepare_release(made, version, MODULES)).returncode == 0
    assert made.stop() == 0
    return made


@pytest.fixture
def victim(base: Victim, tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path / "victim", base)
    yield made
    made.close()


def die_in_the_rollback(victim: Victim, plan: str) -> None:
    victim.start()
    # Else what is recorded of the start would be counted, too, and the death came before the rollback.
    wait_until(lambda: "Settled" in kinds(victim)[kinds(victim).index("HostStopped") :], "the start lasts")
    victim.aim(plan)
    asking = victim.begin_command("rollback", "--reason", "by mistake")
    wait_until(lambda: victim.dead, "it dies in the rollback", 30.0)
    victim.buried()
    asking.communicate(timeout=30.0)
    victim.calm()


@pytest.mark.parametrize(
    ("plan", "died"),
    [
        ("refs.rollback:after 1 kill", []),  # the tags are there, the quarantine is not
        ("journal.sync:before 2 kill", []),  # asked; then the quarantine or the tags as they were seen
        ("journal.sync:after 2 kill", []),
        ("switch.record:before 1 kill", ["rolled_back"]),  # all is prepared: the try that died has its row
    ],
)
def test_a_rollback_that_was_cut_off_is_the_same_after_a_start(
    victim: Victim, plan: str, died: list[str]
) -> None:
    die_in_the_rollback(victim, plan)
    victim.start()
    wait_until(lambda: victim.serves() == OLD, "the old releases serve", 30.0)
    decided = [
        "committed",
        *died,
        "reverted",
        "committed",
    ]  # the old ones answer a moment before it is on disk
    wait_until(lambda: [row["outcome"] for row in victim.history()] == decided, "it is decided", 30.0)
    way_back = victim.history()[0]
    assert way_back["who"] == "livetag rollback"
    assert {change["to"] for change in reverted(victim)["modules"]} == {"1.1.0"}
    assert {change["module"] for change in way_back["modules"]} == set(MODULES)  # in one transaction
    quarantine = {row["tag"]: row["reason"] for row in victim.status()["quarantine"]}
    assert quarantine == dict.fromkeys(LEFT, "rolled back by hand: by mistake")
    # The next one goes further back, of which there is nothing; never forward to what was taken back.
    again = victim.livetag("rollback", "--reason", "once more")
    assert again.returncode != 0
    assert "there is no version before it" in again.stderr
    assert victim.serves() == OLD


def test_one_that_was_cut_off_waits_for_a_repository_that_cannot_be_read(victim: Victim) -> None:
    """What serves must come back all the same, and the rollback is gone on with once the tags can be read."""
    die_in_the_rollback(victim, "refs.rollback:after 1 kill")
    packed = victim.place.store / "packed-refs"
    assert not packed.exists()
    packed.write_text("garbage\n")
    victim.start()
    assert victim.serves() == dict.fromkeys(MODULES, "1.1.0 -")
    packed.unlink()
    wait_until(lambda: victim.serves() == OLD, "the old releases serve", 30.0)
    assert {row["reason"] for row in victim.status()["quarantine"]} == {"rolled back by hand: by mistake"}
    wait_until(lambda: victim.history()[0]["outcome"] == "committed", "it is decided")
    assert {change["module"] for change in victim.history()[0]["modules"]} == set(MODULES)


def test_one_that_died_before_its_tags_has_not_happened(victim: Victim) -> None:
    die_in_the_rollback(victim, "refs.rollback:before 1 kill")
    victim.start()
    assert victim.serves() == dict.fromkeys(MODULES, "1.1.0 -")
    assert victim.status()["quarantine"] == []
    assert victim.livetag("rollback", "--reason", "again").returncode == 0
    assert victim.serves() == OLD
    assert {row["reason"] for row in victim.status()["quarantine"]} == {"rolled back by hand: again"}


def reverted(victim: Victim) -> dict[str, Any]:
    [row] = [row for row in victim.history() if row["outcome"] == "reverted"]
    return row
