"""A rollback runs the same path, gates, hooks and records as a deploy, and needs no network (issue of the bad releases)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.upgrade.journal_file import read_records, reading
from tests.stories.deployment import Deployment, deployed, wait_until

NO_NETWORK = ("unshare", "--net", "--")  # a machine with no interface but a loopback that is down


def can_be_cut_off() -> bool:
    tried = subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False)
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(
    not can_be_cut_off(), reason="a network namespace cannot be made here (unshare --net)"
)


def speaker(version: str, diary: Path) -> str:
    """A module that writes down which of its hooks run, where, and whether there is a network."""
    return f"""
        import os, socket
        from pathlib import Path

        from livetag import Module, handles

        class Speaker(Module):
            def _note(self, hook: str) -> None:
                with Path({str(diary)!r}).open("a") as diary:
                    print("{version}", hook, file=diary)

            async def prepare(self) -> None:
                self._note("prepare")
                if Path({str(diary.with_name("unfit-"))!r} + "{version}").exists():
                    raise RuntimeError("out of tune")

            def hand_over(self) -> dict:
                self._note("hand_over")
                return {{"line": 1}}

            def take_over(self, resources: dict) -> None:
                self._note("take_over " + ",".join(resources))

            async def stop(self) -> None:
                self._note("stop")

            @handles
            def say(self) -> str:
                return "{version}"

            @handles
            def network(self) -> str:
                try:
                    socket.create_connection(("127.0.0.1", 1), timeout=5).close()
                except OSError as error:
                    return type(error).__name__
                return "connected"
    """


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Host and command line see no network. Each test has a module of its own."""
    with deployed(tmp_path_factory.mktemp("cut off"), start=False) as made:
        made.before = NO_NETWORK
        made.start()
        yield made


def bring_two(deployment: Deployment, name: str, diary: Path) -> list[str]:
    """Two versions, the second in service; returns what its deploy wrote down, when the first has left."""
    deployment.deploy(f"{name}/v1.0.0", **{name: speaker("one", diary)})
    wait_until(lambda: "one take_over " in noted(diary), "the first serves")
    diary.unlink()
    deployment.deploy(f"{name}/v1.1.0", **{name: speaker("two", diary)})
    assert deployment.ask(name, "network") == "OSError"  # with a network it would be ConnectionRefusedError
    wait_until(lambda: "one stop" in noted(diary), "the first version has left")
    found = noted(diary)
    diary.unlink()
    return found


def noted(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def of_transaction(deployment: Deployment, txn: int) -> list[str]:
    """The kinds of what the journal says of a transaction, in their order."""
    with reading(deployment.place.journal) as connection:
        records = read_records(connection, deployment.place.journal)
    return [type(r.fact).__name__ for r in records if getattr(r.fact, "txn", None) == txn]


def test_a_rollback_takes_each_step_of_a_deploy_and_writes_its_reason_into_git(
    deployment: Deployment, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    there = bring_two(deployment, "speaker", diary)
    assert {"two prepare", "one hand_over", "two take_over line", "one stop"} <= set(there)
    assert there.count("two prepare") == 2  # in its trial, too

    done = deployment.livetag("rollback", "speaker", "--reason", "two is out of tune")

    assert done.returncode == 0, done.stderr
    assert deployment.ask("speaker", "say") == "one"
    other = {"one": "two", "two": "one"}
    back = [f"{other[line.split()[0]]} {line.partition(' ')[2]}" for line in there]
    wait_until(lambda: len(noted(diary)) >= len(back), "the second version has left")
    assert sorted(noted(diary)) == sorted(back)
    newest, before = deployment.call("history", module="speaker")[:2]
    assert of_transaction(deployment, newest["id"]) == of_transaction(deployment, before["id"])
    assert "Prepared" in of_transaction(deployment, newest["id"])

    def entries() -> list[dict[str, list[str]]]:
        return [entry for entry in deployment.deployments() if entry["Module"] == ["speaker"]]

    wait_until(lambda: len(entries()) == 3, "Git tells it")
    _, told_before, told = entries()
    assert told.keys() == told_before.keys() | {"Reason"}
    assert told["Reason"] == ["two is out of tune"]
    old = deployment.git("rev-parse", "speaker/v1.0.0^{commit}")
    assert told["Release-Commit"] == [old]
    assert deployment.git("rev-parse", "speaker/v1.1.1^{commit}") == old
    tag = deployment.git("cat-file", "tag", "refs/tags/speaker/v1.1.1")
    assert tag.splitlines()[-1].endswith(": two is out of tune")


def test_a_rollback_to_what_is_not_fit_any_more_is_refused_and_what_serves_serves_on(
    deployment: Deployment, tmp_path: Path
) -> None:
    bring_two(deployment, "singer", tmp_path / "diary")
    (tmp_path / "unfit-one").touch()

    done = deployment.livetag("rollback", "singer", "--reason", "two is out of tune")

    assert done.returncode == 1
    assert "RuntimeError: out of tune" in done.stderr
    assert deployment.ask("singer", "say") == "two"
    assert deployment.call("history", module="singer")[0]["outcome"] == "rolled_back"
    assert "trial" in deployment.call("history", module="singer")[0]["reason"]
