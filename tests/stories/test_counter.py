"""A counter goes live, is upgraded with its state, refuses a broken version, and goes back: by `git push` alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.stories.deployment import Deployment, deployed, prepared, wait_until


def counter(step: int) -> str:
    """Write a counter that counts in steps of its own, so that every answer tells which version gave it."""
    return f"""
        from typing import TypedDict

        from livetag import Module, handles

        class State(TypedDict):
            total: int

        class Counter(Module[State]):
            def initial_state(self) -> State:
                return {{"total": 0}}

            @handles
            def tick(self) -> int:
                self.state["total"] += {step}
                return self.state["total"]
    """


ONE, TEN = counter(1), counter(10)
UNFIT = (
    counter(1000)
    + """
            async def self_test(self) -> None:
                raise RuntimeError("the tenth digit is wrong")
    """
)
V1, V2 = "counter/v1.0.0", "counter/v1.1.0"


def counted(deployment: Deployment) -> None:
    """Bring 1.0.0, which counts 1, and then 1.1.0, which counts 10 more."""
    deployment.deploy(V1, counter=ONE)
    assert deployment.ask("counter", "tick") == 1
    deployment.deploy(V2, counter=TEN)
    assert deployment.ask("counter", "tick") == 11


@pytest.fixture(scope="module")
def with_both(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """To be copied."""
    return prepared(tmp_path_factory.mktemp("both"), counted)


@pytest.fixture
def two(with_both: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """1.1.0 serves, after 1.0.0; it has counted 11."""
    with deployed(tmp_path, like=with_both) as made:
        yield made


@pytest.fixture
def two_versions(two: Deployment) -> tuple[str, str]:
    """The commit ids of 1.0.0 and of 1.1.0."""
    first, second = (two.work.git("rev-parse", f"{tag}^{{commit}}") for tag in (V1, V2))
    return first, second


def test_a_pushed_tag_goes_live_and_the_next_one_keeps_the_state(deployment: Deployment) -> None:
    deployment.write("counter", ONE)
    first = deployment.release(V1)
    pushed = deployment.push("main", V1)

    assert pushed.returncode == 0, pushed.stderr
    assert "live" in outcome_line(pushed, V1)
    assert [deployment.ask("counter", "tick") for _ in range(3)] == [1, 2, 3]

    deployment.write("counter", TEN)
    second = deployment.release(V2)
    pushed = deployment.push("main", V2)

    assert pushed.returncode == 0, pushed.stderr
    assert "pause" in outcome_line(pushed, V2)
    assert deployment.ask("counter", "tick") == 13
    row = deployment.status()["modules"]["counter"]
    assert (row["version"], row["tag"], row["commit"], row["state"]) == ("1.1.0", V2, second, "in service")
    assert [(c["from"], c["to"], c["commit"]) for txn in deployment.history() for c in txn["modules"]] == [
        ("1.0.0", "1.1.0", second),
        (None, "1.0.0", first),
    ]


def test_a_broken_version_fails_the_push_and_leaves_no_tag(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    deployment.ask("counter", "tick")

    deployment.write("counter", UNFIT)
    broken = deployment.release(V2)
    pushed = deployment.push("main", V2)

    assert pushed.returncode == 1
    assert "the tenth digit is wrong" in pushed.stderr
    assert "[remote rejected] counter/v1.1.0 -> counter/v1.1.0" in pushed.stderr
    assert deployment.tags() == [V1]
    assert deployment.ask("counter", "tick") == 2
    status = deployment.status()
    assert status["modules"]["counter"]["version"] == "1.0.0"
    [quarantined] = status["quarantine"]
    assert (quarantined["module"], quarantined["commit"], quarantined["tag"]) == ("counter", broken, V2)
    assert "the tenth digit is wrong" in quarantined["reason"]
    newest = deployment.history()[0]
    assert (newest["outcome"], newest["modules"][0]["to"]) == ("rolled_back", "1.1.0")
    assert deployment.git("rev-parse", "refs/live/counter") != broken

    again = deployment.push(V2)
    assert again.returncode == 1
    assert "quarantine" in again.stderr
    assert deployment.tags() == [V1]


def needing(file: Path) -> str:
    """Write a counter that is right, and fails where the file is missing."""
    return f"""
        from pathlib import Path

        from livetag import Module, handles

        class Counter(Module):
            async def prepare(self) -> None:
                Path({str(file)!r}).read_text()

            @handles
            def tick(self) -> str:
                return "prepared"
    """


def test_retry_gives_a_quarantined_release_another_chance(deployment: Deployment, tmp_path: Path) -> None:
    deployment.write("counter", needing(tmp_path / "needed"))
    deployment.release(V1)
    deployment.git("fetch", "--quiet", str(deployment.work.path), f"refs/tags/{V1}:refs/tags/{V1}")
    wait_until(lambda: deployment.status()["quarantine"], "the release has failed")
    assert deployment.tags() == [V1], "a tag that no push brought stays, and quarantine does the work"

    (tmp_path / "needed").write_text("here")
    retried = deployment.livetag("retry", V1)

    assert retried.returncode == 0, retried.stderr
    assert deployment.ask("counter", "tick") == "prepared"
    assert deployment.status()["quarantine"] == []


def test_retry_after_a_failed_push_makes_room_for_the_same_push(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.write("counter", needing(tmp_path / "needed"))
    deployment.release(V1)
    pushed = deployment.push("main", V1)
    assert pushed.returncode == 1
    assert f"livetag retry {V1}" in pushed.stderr
    (tmp_path / "needed").write_text("here")
    assert deployment.push(V1).returncode == 1, "nothing leaves quarantine on its own"

    retried = deployment.livetag("retry", V1)

    assert retried.returncode == 0, retried.stderr
    assert f"git push live {V1}" in retried.stdout
    assert deployment.push(V1).returncode == 0
    assert deployment.ask("counter", "tick") == "prepared"


def test_retry_of_what_a_higher_tag_keeps_from_service_says_that_it_is_out_of_quarantine(
    two: Deployment, two_versions: tuple[str, str]
) -> None:
    assert two.livetag("rollback", "--reason", "by mistake").returncode == 0
    retried = two.livetag("retry", V2)
    assert retried.returncode == 0, retried.stderr
    assert f"commit {two_versions[1][:12]} is out of quarantine; not deployed: " in retried.stdout
    assert two.status()["quarantine"] == []


def test_a_moved_tag_goes_back(two: Deployment, two_versions: tuple[str, str]) -> None:
    first, second = two_versions
    two.work.tag(V2, first, force=True)

    pushed = two.push(V2, force=True)

    assert pushed.returncode == 0, pushed.stderr
    assert two.ask("counter", "tick") == 12
    row = two.status()["modules"]["counter"]
    assert (row["version"], row["tag"], row["commit"]) == ("1.0.0", V2, first)
    assert_told(two, first, second)


def test_a_higher_tag_on_the_old_commit_goes_back(two: Deployment, two_versions: tuple[str, str]) -> None:
    first, second = two_versions
    two.work.tag("counter/v1.1.1", first, annotate="1.1.0 counts too fast")

    pushed = two.push("counter/v1.1.1")

    assert pushed.returncode == 0, pushed.stderr
    assert two.ask("counter", "tick") == 12
    row = two.status()["modules"]["counter"]
    assert (row["version"], row["tag"], row["commit"]) == ("1.0.0", "counter/v1.1.1", first)
    assert_told(two, first, second)


def test_a_deleted_bad_tag_goes_back(two: Deployment, two_versions: tuple[str, str]) -> None:
    first, second = two_versions

    pushed = two.push(f":{V2}")

    assert pushed.returncode == 0, pushed.stderr
    assert two.ask("counter", "tick") == 12
    row = two.status()["modules"]["counter"]
    assert (row["version"], row["tag"], row["commit"]) == ("1.0.0", V1, first)
    assert_told(two, first, second)


def test_the_last_tag_deleted_unloads_nothing(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)

    assert deployment.push(f":{V1}").returncode == 0

    assert deployment.ask("counter", "tick") == 1
    assert deployment.status()["modules"]["counter"]["drift"]["what"] == "untagged"


def test_a_rollback_command_writes_a_tag_and_keeps_the_state(
    two: Deployment, two_versions: tuple[str, str]
) -> None:
    first, second = two_versions

    unexplained = two.livetag("rollback", "counter")
    assert unexplained.returncode != 0
    assert "reason" in unexplained.stderr
    done = two.livetag("rollback", "counter", "--reason", "counts too fast")

    assert done.returncode == 0, done.stderr
    assert two.ask("counter", "tick") == 12
    assert two.git("rev-parse", "counter/v1.1.1^{commit}") == first
    assert "counts too fast" in two.git("cat-file", "tag", "counter/v1.1.1")
    assert [(q["commit"], "counts too fast" in q["reason"]) for q in two.status()["quarantine"]] == [
        (second, True)
    ]
    assert_told(two, first, second)


def assert_told(two: Deployment, first: str, second: str) -> None:
    """`git log` tells that 1.0.0 came, 1.1.0 replaced it, and 1.0.0 came back."""
    log = two.deployments()
    assert [(e["Module"], e["From"], e["To"], e["Release-Commit"], e["Outcome"]) for e in log] == [
        (["counter"], ["none"], ["1.0.0"], [first], ["committed"]),
        (["counter"], ["1.0.0"], ["1.1.0"], [second], ["committed"]),
        (["counter"], ["1.1.0"], ["1.0.0"], [first], ["committed"]),
    ]
    assert all(float(value) > 0 for entry in log for value in entry["Pause-Us"])
    assert all(int(value) >= 0 for entry in log for value in entry["Held-Messages"])
    seqs = [int(value) for entry in log for value in entry["Journal-Seq"]]
    assert seqs == sorted(set(seqs))
    assert two.git("log", "-1", "--format=%H", "refs/live/counter") == first
    moves = two.git("log", "--walk-reflogs", "--format=%H", "refs/live/counter").split()
    assert moves == [first, second, first]
    assert two.git("diff", "refs/live/counter", V1, "--", "modules/counter") == ""
    assert two.git("diff", "--name-only", "refs/live/counter", second) == "modules/counter/__init__.py"


def test_a_local_tag_in_the_store_is_seen_by_the_monitor(
    two: Deployment, two_versions: tuple[str, str]
) -> None:
    first, second = two_versions
    two.git("tag", "counter/v1.2.0", first)
    wait_until(lambda: two.version() == "1.0.0", "the higher tag on the old commit is live")
    two.git("tag", "-f", "counter/v1.2.0", second)
    wait_until(lambda: two.version() == "1.1.0", "the moved tag is live")
    two.git("tag", "-d", "counter/v1.2.0", V2)
    wait_until(lambda: two.version() == "1.0.0", "the deleted tags are gone")
    assert two.ask("counter", "tick") == 12


def test_packing_and_collecting_the_store_disturbs_nothing(
    two: Deployment, two_versions: tuple[str, str]
) -> None:
    first, _second = two_versions
    before = two.history()
    two.git("pack-refs", "--all", "--prune")
    two.git("reflog", "expire", "--expire=now", "--all")
    two.git("gc", "--quiet", "--prune=now")
    for tag in (V1, V2):
        assert two.call("deploy", tag=tag)["tags"][0]["verdict"] in {"live", "recorded"}
    assert two.ask("counter", "tick") == 21
    assert two.history() == before

    # and the way back is still there, though it is now only in a pack
    two.work.tag("counter/v1.1.1", first)
    assert two.push("counter/v1.1.1").returncode == 0
    assert two.ask("counter", "tick") == 22


def test_a_pre_release_is_recorded_and_goes_live_only_where_they_are_wanted(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    deployment.write("counter", TEN)
    deployment.release("counter/v1.1.0-rc.1")

    pushed = deployment.push("main", "counter/v1.1.0-rc.1")

    assert pushed.returncode == 0, pushed.stderr
    assert "recorded" in outcome_line(pushed, "counter/v1.1.0-rc.1")
    assert deployment.ask("counter", "tick") == 1

    deployment.stop()
    config = deployment.place.config_file
    config.write_text(config.read_text().replace("# prereleases = false", "prereleases = true"))
    deployment.start()
    wait_until(lambda: deployment.version() == "1.1.0-rc.1", "the pre-release is live")
    assert deployment.ask("counter", "tick") == 11


def test_a_lower_version_is_recorded_and_not_deployed(deployment: Deployment) -> None:
    deployment.deploy("counter/v2.0.0", counter=ONE)
    deployment.write("counter", TEN)
    deployment.release("counter/v1.9.0")

    pushed = deployment.push("main", "counter/v1.9.0")

    assert pushed.returncode == 0, pushed.stderr
    assert "recorded" in outcome_line(pushed, "counter/v1.9.0")
    assert "counter/v2.0.0 is higher" in outcome_line(pushed, "counter/v1.9.0")
    assert deployment.ask("counter", "tick") == 1


def test_the_same_tree_under_a_new_tag_is_unchanged(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    deployment.ask("counter", "tick")
    deployment.work.write("README", "nothing of the counter")
    commit_id = deployment.release(V2)

    pushed = deployment.push("main", V2)

    assert pushed.returncode == 0, pushed.stderr
    assert "unchanged" in outcome_line(pushed, V2)
    newest = deployment.history()[0]
    assert (newest["outcome"], newest["pause_us"]) == ("unchanged", 0.0)
    row = deployment.status()["modules"]["counter"]
    assert (row["version"], row["tag"], row["commit"]) == ("1.1.0", V2, commit_id)
    assert deployment.deployments()[-1]["Outcome"] == ["unchanged"]
    assert deployment.ask("counter", "tick") == 2


def outcome_line(pushed: subprocess.CompletedProcess[str], tag: str) -> str:
    """The last line that the push printed of this tag, before Git's own summary."""
    lines = [line for line in pushed.stderr.splitlines() if line.startswith(f"remote: {tag}: ")]
    assert lines, pushed.stderr
    return lines[-1]


def test_a_push_that_only_plans_says_what_it_would_do_and_does_nothing(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    deployment.write("counter", TEN)
    deployment.release(V2)

    planned = deployment.push("-o", "plan", V2)

    assert planned.returncode == 1  # Git must not believe that the tag was taken
    assert "would do: counter 1.0.0 → 1.1.0" in planned.stderr
    assert deployment.tags() == [V1]
    assert deployment.version() == "1.0.0"
    assert len(deployment.history()) == 1


def test_a_push_waits_for_the_next_look_when_a_stale_lock_spoiled_the_first(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    deployment.write("counter", TEN)
    lock = deployment.place.store / "refs" / "keep" / f"{deployment.release(V2)}.lock"
    lock.touch()
    with ThreadPoolExecutor(1) as pool:
        push = pool.submit(deployment.push, V2)
        wait_until(lambda: "could not be read" in deployment.said(), "a look has failed")
        lock.unlink()
        pushed = push.result(40)

    assert "live: counter 1.0.0 → 1.1.0" in outcome_line(pushed, V2)


def test_what_is_asked_for_wrongly_is_said_by_its_name(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    for words, code, said in (
        (["plan", "counter/v9.9.9"], 1, "The repository has no tag counter/v9.9.9."),
        (["plan", "nope"], 1, "'nope' is not a release tag"),
        (["publish", ""], 2, "'' is no topic to publish to"),
        (["publish", "clock.*"], 2, "'clock.*' is no topic to publish to"),
        (["dead-letters", "drop", "x"], 2, "x is no number of a dead letter"),
        (["dead-letters", "drop", "99"], 1, "There is no dead letter 99"),
    ):
        done = deployment.livetag(*words)
        assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)
    assert "Nothing is to be done: counter/v1.0.0 live:" in deployment.livetag("plan", V1).stdout


def test_status_offers_an_undo_only_where_there_is_one(deployment: Deployment) -> None:
    deployment.deploy(V1, counter=ONE)
    assert "undo" not in deployment.livetag("status").stdout
    deployment.deploy(V2, counter=TEN)
    assert "undo: livetag rollback --txn 2" in deployment.livetag("status").stdout


def test_what_no_wire_and_no_disk_can_hold_is_refused_or_shown_without_it(deployment: Deployment) -> None:
    odd = """
        from livetag import Module, handles

        class Odd(Module):
            def initial_state(self):
                return {}

            @handles
            def text(self) -> str:
                self.state["text"] = "half a character: \\ud83d"
                return self.state["text"]

            @handles
            def take(self, number: int) -> int:
                return number
    """
    deployment.deploy("odd/v1.0.0", odd=odd)
    assert deployment.ask("odd", "text") == "half a character: ?"
    assert deployment.livetag("state", "odd", "text").returncode == 0
    assert deployment.ask("odd", "take", number=2**63) == 2**63
    for words in (["ask", "odd", "take", f"number:={2**70}"], ["publish", "odd.number", f"n:={2**70}"]):
        refused = deployment.livetag(*words)
        assert refused.returncode == 1
        assert "The body is not plain data" in refused.stderr
    for never in ("inf", "1e300", "0"):
        assert deployment.livetag("ask", "odd", "take", "number:=1", "--timeout", never).returncode == 2
