"""A repository that is damaged under a running host: said with words that help, what serves untouched, mended by a mend.

One host is shared by the tests of a process; each mends what it broke, and sees that all goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.crash.damage import Yard, flip

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    made = Yard(tmp_path_factory.mktemp("yard"))
    try:
        yield made
    finally:
        made.deployment.close()


# -- refs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "is not what Git writes", id="empty, as a power cut leaves it"),
        pytest.param(b"\x00\xffgarbage\n", "is not what Git writes", id="garbage", marks=SLOW),
        pytest.param(b"1" * 40 + b"\n", "is missing in", id="an object that is not there"),
    ],
)
def test_a_tag_in_service_that_is_lost_counts_as_last_seen_and_the_one_below_does_not_come_back(
    yard: Yard, content: bytes, said: str
) -> None:
    tag = yard.tag("counter")
    with yard.damaged():
        (yard.store / "refs" / "tags" / tag).write_bytes(content)
        yard.problem(f"{tag} cannot be read", said, "livetag doctor")
        found = yard.doctor()
        assert f"{tag} is lost" in found["tags"]
        assert "livetag doctor --repair" in found["tags"]
        assert "repository" in found
    yard.pushed("counter")


def test_a_lost_tag_brings_nothing_back_over_a_restart_and_the_repair_writes_it_again(yard: Yard) -> None:
    served, tag = yard.versions(), yard.tag("counter")
    (yard.store / "refs" / "tags" / tag).write_bytes(b"")
    yard.restart()
    yard.problem(f"{tag} cannot be read")
    yard.serves(served)
    assert "wrote" in yard.repaired()
    yard.problem_ends()
    assert yard.deployment.git("rev-parse", tag) == yard.id(tag)
    assert yard.doctor() == {}
    yard.pushed("counter")


@pytest.mark.parametrize(
    "target", ["2" * 40, "HEAD:modules/counter/__init__.py", pytest.param("HEAD^{tree}", marks=SLOW)]
)
def test_a_new_tag_that_leads_to_nothing_is_said_and_brings_nothing(yard: Yard, target: str) -> None:
    tag, there = "counter/v9.0.0", not target.startswith("2")
    with yard.damaged():
        yard.write_tag(tag, yard.id(target) if there else target)
        if not there:
            yard.problem(f"{tag} cannot be read")
            assert f"push {tag} again" in yard.doctor()["tags"]
        yard.other_goes_live()
        said = yard.deployment.livetag("deploy", tag)
        assert said.returncode == 1
        assert ("it points at no commit" if there else "is missing in") in said.stderr
        (yard.store / "refs" / "tags" / tag).unlink()


# -- objects of what is in service -------------------------------------------------------------------------------------

Break = Callable[[Yard, str], None]


def lose(yard: Yard, name: str) -> None:
    yard.lose(name)


def flip_it(yard: Yard, name: str) -> None:
    flip(yard.object_file(name))


def empty(yard: Yard, name: str) -> None:
    yard.object_file(name).write_bytes(b"")


@pytest.mark.parametrize("part", ["^{commit}", "^{tree}", ":modules/counter", ":modules/counter/__init__.py"])
@pytest.mark.parametrize("breaks", [lose, pytest.param(flip_it, marks=SLOW), pytest.param(empty, marks=SLOW)])
def test_what_serves_needs_no_object_any_more_and_nobody_is_blamed(
    yard: Yard, breaks: Break, part: str
) -> None:
    tag = yard.tag("counter")
    with yard.damaged():
        breaks(yard, f"{tag}{part}")
        served, before = yard.versions(), yard.transactions()
        yard.restart()
        yard.serves(served)
        assert yard.transactions() == before, "nothing was tried"
        assert "git --git-dir" in yard.doctor()["repository"]
    yard.pushed("counter")


# -- objects of what is to come ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["^{commit}", ":modules/counter", ":modules/counter/__init__.py"])
@pytest.mark.parametrize("breaks", [flip_it, pytest.param(lose, marks=SLOW), pytest.param(empty, marks=SLOW)])
def test_a_release_that_cannot_be_read_waits_for_the_mend_and_then_goes_live_by_itself(
    yard: Yard, breaks: Break, part: str
) -> None:
    (tag,) = yard.commit("counter")
    yard.objects()
    before = yard.transactions()
    with yard.damaged():
        breaks(yard, f"{tag}{part}")
        yard.write_tag(tag)
        yard.problem(tag, "cannot be read", "livetag doctor")
        assert yard.transactions() == before, "it waits, and is not tried"
        served = yard.other_goes_live()
        said = yard.deployment.livetag("deploy", tag)
        assert said.returncode == 1
        assert "livetag doctor" in said.stderr + said.stdout
        assert "repository" in yard.doctor()
        yard.mend()
        yard.goes_live(tag)
        yard.expects(served | {"counter": f"{tag.partition('/v')[2]} by {tag}"})
