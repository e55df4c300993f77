"""The strict policy, with the real git, the real ssh-keygen and a real host: one test for each way round it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.keys import Person, make_strict, needs_ssh_keygen
from tests.stories.deployment import Deployment, deployed, wait_until

pytestmark = [needs_ssh_keygen, pytest.mark.slow]

CODE = """
    from livetag import Module, handles

    class Counter(Module[dict]):
        def initial_state(self):
            return {{"total": 0}}

        @handles
        def tick(self, by: int = 1) -> int:
            self.state["total"] += by
            return self.state["total"] * {factor}
"""


def code(factor: int) -> str:
    return CODE.format(factor=factor)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: Person(folder, f"{name}@example.org") for name in ("alice", "bob", "mallory")}


@pytest.fixture
def strict(tmp_path: Path, people: dict[str, Person]) -> Iterator[Deployment]:
    """A deployment whose host runs: alice may release everything, bob only `rib`; mallory is nobody."""
    with deployed(tmp_path, start=False) as deployment:
        signers = people["alice"].signer() + people["bob"].signer()
        make_strict(deployment, signers, "alice@example.org *\nbob@example.org rib  # and nothing else\n")
        deployment.start()
        yield deployment


def first(deployment: Deployment, alice: Person) -> str:
    """1.0.0 of counter, signed by alice and in service; the commit."""
    deployment.write("counter", code(1))
    commit_id = deployment.work.commit()
    alice.sign(deployment.work, "counter/v1.0.0")
    done = deployment.push("main", "counter/v1.0.0")
    assert done.returncode == 0, done.stderr
    return commit_id


def second(deployment: Deployment) -> str:
    deployment.write("counter", code(10))
    return deployment.work.commit()


def locally(deployment: Deployment, tag: str, object_id: str | None) -> None:
    """Write a ref in the store itself, past every hook, as one who may write its files can."""
    deployment.git(
        "fetch", "-q", str(deployment.work.path), "+refs/tags/*:refs/theirs/*", "+HEAD:refs/theirs/head"
    )
    if object_id is None:
        deployment.git("update-ref", "-d", f"refs/tags/{tag}")
    else:
        deployment.git("update-ref", f"refs/tags/{tag}", object_id)
    deployment.call("wake")


def not_permitted(deployment: Deployment, tag: str) -> str:
    """Why the host does not act on a tag, once it says so."""

    def found() -> list[str]:
        return [str(each["reason"]) for each in deployment.status()["not_permitted"] if each["tag"] == tag]

    wait_until(found, f"{tag} is not permitted: {deployment.said()}")
    return found()[0]


def test_a_tag_that_a_releaser_signed_goes_live_and_the_record_says_who_signed(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"])
    assert strict.ask("counter", "tick") == 1
    assert "counter/v1.0.0 is an order of alice@example.org, key SHA256:" in strict.said()


def test_an_unsigned_a_lightweight_and_a_foreign_tag_are_refused_at_the_push(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"])
    second(strict)
    strict.work.tag("counter/v1.1.0")
    strict.work.tag("counter/v1.1.1", annotate="unsigned")
    people["mallory"].sign(strict.work, "counter/v1.1.2")
    people["bob"].sign(strict.work, "counter/v1.1.3")
    said = strict.push("counter/v1.1.0", "counter/v1.1.1", "counter/v1.1.2", "counter/v1.1.3")
    assert said.returncode == 1
    for words in (
        "counter/v1.1.0: it is a lightweight tag, which nobody has signed",
        "counter/v1.1.1: it is not signed",
        "is nobody's in allowed_signers",
        "counter/v1.1.3: it was signed by bob@example.org, who may not release counter",
        "git tag -f -s -m MESSAGE counter/v1.1.0 COMMIT",
    ):
        assert words in said.stderr, said.stderr
    assert strict.tags() == ["counter/v1.0.0"]
    assert strict.ask("counter", "tick") == 1


@pytest.mark.parametrize("signer", ["nobody", "mallory", "bob"])
def test_a_tag_made_beside_the_hooks_is_refused_by_the_host_before_its_code_is_run(
    strict: Deployment, people: dict[str, Person], tmp_path: Path, signer: str
) -> None:
    first(strict, people["alice"])
    ran = tmp_path / "ran"
    strict.write("counter", f"open({str(ran)!r}, 'w').close()\n" + "from livetag import Module\n")
    commit_id = strict.work.commit()
    tag = "counter/v1.1.0"
    object_id = commit_id if signer == "nobody" else people[signer].sign(strict.work, tag)
    locally(strict, tag, object_id)
    assert not_permitted(strict, tag)
    assert strict.version() == "1.0.0"
    assert not ran.exists(), "nothing of it may run, not even to describe it"
    assert strict.status()["quarantine"] == [], "the commit itself is not at fault"
    assert strict.history()[0]["outcome"] == "not permitted"
    plan = strict.call("plan", tag=tag)
    assert (plan["tag"]["verdict"], plan["ok"]) == ("refused", False)
    assert "The policy is strict" in plan["tag"]["text"]


def test_a_proper_tag_on_a_commit_whose_tag_was_refused_goes_live(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"])
    locally(strict, "counter/v1.1.0", second(strict))
    not_permitted(strict, "counter/v1.1.0")
    people["alice"].sign(strict.work, "counter/v1.1.0")
    done = strict.push("counter/v1.1.0", force=True)
    assert done.returncode == 0, done.stderr
    assert strict.ask("counter", "tick") == 10
    assert strict.status()["not_permitted"] == []


def test_a_signed_tag_object_under_another_name_is_refused_by_the_hook_and_by_the_host(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"])
    old = strict.work.git("rev-parse", "refs/tags/counter/v1.0.0")
    strict.work.git("update-ref", "refs/tags/counter/v2.0.0", old)
    said = strict.push("counter/v2.0.0")
    assert said.returncode == 1
    assert "what was signed is the tag counter/v1.0.0" in said.stderr
    locally(strict, "counter/v2.0.0", old)
    assert "another release under this name" in not_permitted(strict, "counter/v2.0.0")


def test_a_replayed_old_order_is_refused_and_an_authorised_way_back_passes(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    before = first(strict, alice)
    old = strict.work.git("rev-parse", "refs/tags/counter/v1.0.0")
    second(strict)
    alice.sign(strict.work, "counter/v1.0.0", message="again")
    done = strict.push("counter/v1.0.0", force=True)
    assert done.returncode == 0, done.stderr
    assert strict.ask("counter", "tick") == 10
    strict.work.git("update-ref", "refs/tags/counter/v1.0.0", old)
    said = strict.push("counter/v1.0.0", force=True)
    assert said.returncode == 1
    assert "superseded" in said.stderr
    locally(strict, "counter/v1.0.0", old)
    assert "superseded" in not_permitted(strict, "counter/v1.0.0")
    assert strict.ask("counter", "tick") == 20, "the replayed order changed nothing"
    strict.stop()
    strict.start()
    assert "superseded" in not_permitted(strict, "counter/v1.0.0"), "after a restart, too"
    alice.sign(strict.work, "counter/v1.0.1", before)
    done = strict.push("counter/v1.0.1")
    assert done.returncode == 0, done.stderr
    assert strict.ask("counter", "tick") == 3


def test_a_deletion_is_refused_by_the_hook_and_changes_nothing_if_it_goes_round_it(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    first(strict, alice)
    second(strict)
    alice.sign(strict.work, "counter/v1.1.0")
    assert strict.push("counter/v1.1.0").returncode == 0
    said = strict.push(":refs/tags/counter/v1.1.0")
    assert said.returncode == 1
    assert "a release tag is not deleted" in said.stderr
    locally(strict, "counter/v1.1.0", None)
    assert "a deletion is nobody's order" in not_permitted(strict, "counter/v1.1.0")
    assert strict.ask("counter", "tick") == 10


def test_a_moved_tag_whose_release_fails_is_put_back_and_the_order_before_it_holds(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    first(strict, alice)
    old = strict.work.git("rev-parse", "refs/tags/counter/v1.0.0")
    strict.write("counter", "import a_library_that_nobody_has\n" + "from livetag import Module\n")
    strict.work.commit()
    alice.sign(strict.work, "counter/v1.0.0")
    said = strict.push("counter/v1.0.0", force=True)
    assert said.returncode == 1
    assert "ModuleNotFoundError" in said.stderr
    assert strict.git("rev-parse", "refs/tags/counter/v1.0.0") == old
    assert strict.status()["not_permitted"] == []
    assert strict.ask("counter", "tick") == 1


def test_a_rollback_is_signed_by_the_person_who_asks_or_says_how(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    before = first(strict, alice)
    second(strict)
    alice.sign(strict.work, "counter/v1.1.0")
    assert strict.push("counter/v1.1.0").returncode == 0
    said = strict.livetag("rollback", "--reason", "too much")
    assert said.returncode == 1
    how = f"git -c gpg.format=ssh tag -s -m 'Roll back transaction 2: too much' counter/v1.1.1 {before}"
    assert how in said.stderr, said.stderr
    assert strict.ask("counter", "tick") == 10
    for signer, code_ in (("bob", 1), ("alice", 0)):
        strict.work.git("config", "user.signingKey", str(people[signer].key))
        done = strict.livetag_in_clone("rollback", "--sign", "--reason", "too much")
        assert done.returncode == code_, done.stderr
    assert strict.ask("counter", "tick") == 2
    assert strict.history()[0]["who"] == "alice@example.org"
