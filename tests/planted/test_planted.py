"""The suite tests itself: each bug of bugs.toml, planted in a copy of the product, must make its named test fail.

The test must fail by an assertion of its own that says what went wrong, not because the copy cannot be imported. The
quickest are planted in `make test`, all of them in `make soak`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.planted.harness import ROOT, Bug, Ground, NotPlantable, Run, bugs, planted, survived

BUGS = bugs()
TESTS = sorted({bug.test for bug in BUGS})
QUICK_TESTS = sorted({bug.test for bug in BUGS if bug.quick})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("planted"))


def _each() -> list[object]:
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(bug, id=bug.name, marks=marks[bug.quick]) for bug in BUGS]


@pytest.mark.parametrize("bug", _each())
@pytest.mark.timeout(600)
def test_a_planted_bug_is_caught_by_its_named_test(ground: Ground, bug: Bug) -> None:
    with ground.with_bug(bug):
        run = ground.run(bug.test)
    assert not survived(bug, run), survived(bug, run)


def _check_unplanted(ground: Ground, tests: list[str]) -> None:
    run = ground.run(*tests)
    assert not run.foreign
    assert run.exit_code == 0, run.output
    assert sorted(end["test"] for end in run.ends if end["outcome"] == "passed") == tests


@pytest.mark.timeout(600)
def test_without_a_bug_the_named_tests_pass(ground: Ground) -> None:
    _check_unplanted(ground, QUICK_TESTS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_without_a_bug_all_named_tests_pass(ground: Ground) -> None:
    _check_unplanted(ground, TESTS)


def test_every_bug_can_be_planted() -> None:
    """Where the code has moved it says so: a bug that is planted nowhere is caught by nobody."""
    for bug in BUGS:
        planted((ROOT / bug.file).read_text(), bug)


def test_a_text_that_is_not_there_once_is_no_place_to_plant_in() -> None:
    for text in ("", "one two", "two one two"):
        bug = replace(BUGS[0], old="two")
        if text.count("two") == 1:
            assert planted(text, replace(bug, new="three")) == "one three"
            continue
        with pytest.raises(NotPlantable, match=r"write this bug of tests/planted/bugs\.toml anew"):
            planted(text, bug)


@pytest.mark.timeout(600)
def test_only_a_test_that_fails_for_the_right_reason_has_caught_a_bug(ground: Ground, tmp_path: Path) -> None:
    """What is wrong with a plant is said, and is not taken for a catch."""
    file, test = (
        "orchestrator/runtime/mailbox.py",
        "tests/test_mailbox.py::test_messages_come_out_in_the_order_they_came_in",
    )
    old = "        message = self.queue.popleft()\n"

    def verdict(new: str, *, says: str = "") -> str:
        bug = Bug("a bug", "it is felt", file, old, new, test, says)
        with ground.with_bug(bug):
            return survived(bug, ground.run(test))

    before = (ground.tree / file).read_text()
    assert verdict("        message = self.queue.pop()\n") == ""
    assert "does not say 'the moon'" in verdict("        message = self.queue.pop()\n", says="the moon")
    assert "nobody notices that it is felt" in verdict(f"{old}        # harmless\n")
    assert "did not run to a failure (pytest ended with 4)" in verdict("        message = = 1\n")
    assert "fails by ZeroDivisionError" in verdict("        message = 1 / 0\n")
    assert (ground.tree / file).read_text() == before


def test_an_installation_that_wins_over_the_planted_tree_is_no_catch() -> None:
    """The bug is not there, whatever else has failed."""
    bug = BUGS[0]
    ends = [
        {"test": bug.test, "when": "call", "outcome": "failed", "error": "AssertionError", "text": bug.says}
    ]
    foreign = [f"orchestrator from {ROOT}/orchestrator/__init__.py"]
    assert survived(bug, Run(1, [], ends, "")) == ""
    assert "other code than the planted was imported" in survived(bug, Run(1, foreign, ends, ""))
