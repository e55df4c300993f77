"""A repository that is damaged under a running host: said with words that help, what serves untouched, mended by a mend.

One host is shared by the tests of a process; each mends what it broke, and sees that all goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.damage import Yard, flip
from tests.stories.deployment import wait_until

SLOW = pytest.mark.slow
GATED = """
    import asyncio, os

    class Gated:
        async def prepare(self):
            open({here!r}, "w").close()
            while not os.path.exists({gate!r}):
                await asyncio.sleep(0.01)
"""


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


@pytest.mark.parametrize(
    "part",
    [
        "^{commit}",
        "^{tree}",
        *(pytest.param(part, marks=SLOW) for part in (":modules/counter", ":modules/counter/__init__.py")),
    ],
)
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
        answer = yard.deployment.call("deploy", tag=tag)  # once it has looked
        assert [row["verdict"] for row in answer["tags"]] == ["live"], "and nothing has to be read"
        assert "git --git-dir" in yard.doctor()["repository"]
        yard.other_goes_live()
    yard.pushed("counter")


# -- objects of what is to come ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "part"),
    [
        (empty, "^{commit}"),
        (flip_it, ":modules/counter/__init__.py"),
        *(pytest.param(each, "^{commit}", marks=SLOW) for each in (lose, flip_it)),
        *(pytest.param(each, ":modules/counter", marks=SLOW) for each in (lose, flip_it, empty)),
        *(pytest.param(each, ":modules/counter/__init__.py", marks=SLOW) for each in (lose, empty)),
    ],
)
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


# -- the repository as a whole -----------------------------------------------------------------------------------------


def test_packed_refs_that_were_cut_off_are_said_and_the_mend_is_enough(yard: Yard) -> None:
    yard.deployment.git("pack-refs", "--all")
    with yard.damaged():
        packed = yard.store / "packed-refs"
        packed.write_bytes(packed.read_bytes()[:-20])
        yard.problem("the repository could not be read", "packed-refs", "livetag doctor")
        assert "packed-refs" in yard.doctor()["tags"]


@pytest.mark.slow
def test_a_flipped_byte_in_a_pack_is_said_and_what_serves_is_not_touched(yard: Yard) -> None:
    yard.deployment.git("repack", "-adq")
    with yard.damaged():
        for pack in (yard.store / "objects" / "pack").glob("*.pack"):
            flip(pack)
        yard.wake()
        yard.serves(yard.versions())
        assert "repository" in yard.doctor()
    yard.pushed("counter")


@pytest.mark.parametrize("name", ["config", pytest.param("HEAD", marks=SLOW)])
def test_a_file_of_the_repository_that_is_garbage_is_said(yard: Yard, name: str) -> None:
    with yard.damaged():
        (yard.store / name).write_text("[[[garbage")
        yard.problem("the repository could not be read", "livetag doctor")
        assert "repository" in yard.doctor()
    yard.pushed("counter")


def test_a_repository_that_is_taken_away_is_said_once_and_comes_back_without_a_restart(yard: Yard) -> None:
    aside = yard.store.with_name("aside.git")
    served = yard.versions()
    yard.store.rename(aside)
    try:
        yard.problem("the repository could not be read", "there is no repository at")
        yard.wake()
        yard.serves(served)
        assert "there is no bare Git repository" in yard.doctor()["repository"]
        assert yard.deployment.said().count("there is no repository at") == 1, "not at every look"
    finally:
        aside.rename(yard.store)
    yard.wake()
    yard.problem_ends()
    yard.pushed("counter")


def test_another_repository_put_in_its_place_is_watched_as_the_first_was(yard: Yard) -> None:
    aside = yard.store.with_name("aside.git")
    yard.store.rename(aside)
    shutil.copytree(aside, yard.store, symlinks=True)
    shutil.rmtree(aside)
    yard.wake()
    yard.pushed("counter")
    (tag,) = yard.commit("other")
    yard.objects()
    yard.write_tag(tag)  # nobody is told of it
    yard.goes_live(tag)
    assert yard.doctor() == {}


def test_hooks_that_were_removed_refuse_the_tags_of_a_push_and_are_written_again(yard: Yard) -> None:
    served = yard.versions()
    shutil.rmtree(yard.store / "hooks")
    (tag,) = yard.commit("counter")
    done = yard.deployment.push("main", tag)
    assert done.returncode == 1, done.stderr
    yard.serves(served)
    assert "is missing" in yard.doctor()["hooks"]
    assert "hooks" in yard.repaired()
    assert yard.deployment.push("main", tag).returncode == 0
    assert yard.tag("counter") == tag


# -- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["a person", "the host"])
def test_a_lock_that_a_killed_git_left_is_named_and_the_history_catches_up_once_it_is_gone(
    yard: Yard, by: str
) -> None:
    """A young one may be held, and is left alone. One that is older than any Git holds it, the host removes."""
    lock = yard.store / "refs" / "heads" / "deployments.lock"
    lock.write_text("")
    os.utime(lock, (time.time() + 600,) * 2)  # young for as long as the test takes
    before = len(yard.deployment.deployments())
    yard.pushed("counter")  # goes live all the same
    yard.problem("the history in Git is behind the journal", "livetag doctor")
    found = yard.doctor()["locks"]
    assert str(lock) in found
    assert "livetag doctor --repair" in found
    assert lock.exists()
    if by == "a person":
        lock.unlink()
    else:
        os.utime(lock, (time.time() - 7200,) * 2)
    wait_until(
        lambda: len(yard.deployment.deployments()) == before + 1, "the history catches up by itself", 30.0
    )
    yard.problem_ends()
    assert not lock.exists()


@pytest.mark.slow
def test_a_forgotten_lock_is_removed_by_the_repair_where_no_host_runs(yard: Yard) -> None:
    lock = yard.store / "packed-refs.lock"
    yard.deployment.stop()
    try:
        lock.write_text("")
        os.utime(lock, (time.time() - 7200,) * 2)
        assert f"removed {lock}" in yard.repaired()
        assert not lock.exists()
    finally:
        lock.unlink(missing_ok=True)
        yard.deployment.start()


@pytest.mark.slow
def test_a_locked_tag_refuses_its_push_with_the_lock_and_no_other(yard: Yard) -> None:
    (tag,) = yard.commit("counter")
    lock = yard.store / "refs" / "tags" / f"{tag}.lock"
    lock.write_text("")
    try:
        done = yard.deployment.push("main", tag)
        assert done.returncode == 1
        assert lock.name in done.stderr
        assert "remove the file" in done.stderr
        yard.pushed("other")
    finally:
        lock.unlink()
    done = yard.deployment.push(tag)
    assert done.returncode == 0, done.stderr


# -- in the middle of an upgrade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [
        pytest.param((("gc", "-q", "--prune=now"), ("repack", "-adq"), ("pack-refs", "--all")), id="gc"),
        pytest.param((("update-ref", "-d", "refs/tags/{tag}"),), id="the tag deleted"),
    ],
)
def test_what_git_does_in_the_middle_of_an_upgrade_does_not_tear_it(
    yard: Yard, tmp_path: Path, work: Sequence[Sequence[str]]
) -> None:
    """The pinned commit finishes; the plan is made anew after it."""
    before, gate, here = yard.tag("counter"), tmp_path / "gate", tmp_path / "here"
    (tag,) = yard.commit("counter", head=GATED.format(gate=str(gate), here=str(here)))
    with yard.pushing("main", tag) as pushing:
        wait_until(here.exists, "the upgrade is under way")
        for command in work:
            yard.deployment.git(*(part.format(tag=tag) for part in command))
        gate.write_text("")
        out, _ = pushing.communicate(timeout=60)
    gone = "-d" in work[0]
    assert (pushing.returncode == 0) or gone, out
    yard.goes_live(before if gone else tag)
    outcome = [row["outcome"] for row in yard.deployment.history()][: 2 if gone else 1]
    assert outcome == ["committed"] * len(outcome), outcome
    yard.serves(yard.versions())
    yard.pushed("counter")
