"""The strict policy, with the real git, the real ssh-keygen and a real host: one test for each way round it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.keys import Person, make_strict, needs_ssh_keygen, write_policy
from tests.stories.deployment import Deployment, deployed, wait_until

pytestmark = needs_ssh_keygen

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


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Person]) -> Iterator[Deployment]:
    """A deployment whose host runs: alice may release everything, bob only `rib`; mallory is nobody.

    One for all tests: each has a package of its own.
    """
    with deployed(tmp_path_factory.mktemp("strict"), start=False) as deployment:
        signers = people["alice"].signer() + people["bob"].signer()
        make_strict(deployment, signers, "alice@example.org *\nbob@example.org rib  # and nothing else\n")
        deployment.start()
        yield deployment


def first(deployment: Deployment, alice: Person, package: str) -> str:
    """1.0.0 of a package, signed by alice and in service; the commit."""
    deployment.write(package, code(1))
    commit_id = deployment.work.commit()
    alice.sign(deployment.work, f"{package}/v1.0.0")
    done = deployment.push("main", f"{package}/v1.0.0")
    assert done.returncode == 0, done.stderr
    return commit_id


def second(deployment: Deployment, package: str) -> str:
    deployment.write(package, code(10))
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
    first(strict, people["alice"], "signed")
    assert strict.ask("signed", "tick") == 1
    assert "signed/v1.0.0 is an order of alice@example.org, key SHA256:" in strict.said()


def test_an_unsigned_a_lightweight_and_a_foreign_tag_are_refused_at_the_push(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"], "unsigned")
    second(strict, "unsigned")
    strict.work.tag("unsigned/v1.1.0")
    strict.work.tag("unsigned/v1.1.1", annotate="unsigned")
    people["mallory"].sign(strict.work, "unsigned/v1.1.2")
    people["bob"].sign(strict.work, "unsigned/v1.1.3")
    said = strict.push("unsigned/v1.1.0", "unsigned/v1.1.1", "unsigned/v1.1.2", "unsigned/v1.1.3")
    assert said.returncode == 1
    for words in (
        "unsigned/v1.1.0: it is a lightweight tag, which nobody has signed",
        "unsigned/v1.1.1: it is not signed",
        "is nobody's in allowed_signers",
        "unsigned/v1.1.3: it was signed by bob@example.org, who may not release unsigned",
        "git tag -f -s -m MESSAGE unsigned/v1.1.0 COMMIT",
    ):
        assert words in said.stderr, said.stderr
    assert [tag for tag in strict.tags() if tag.startswith("unsigned/")] == ["unsigned/v1.0.0"]
    assert strict.ask("unsigned", "tick") == 1


@pytest.mark.parametrize("signer", ["nobody", "mallory", "bob"])
def test_a_tag_made_beside_the_hooks_is_refused_by_the_host_before_its_code_is_run(
    strict: Deployment, people: dict[str, Person], tmp_path: Path, signer: str
) -> None:
    package = f"beside_{signer}"
    first(strict, people["alice"], package)
    ran = tmp_path / "ran"
    strict.write(package, f"open({str(ran)!r}, 'w').close()\n" + "from livetag import Module\n")
    commit_id = strict.work.commit()
    tag = f"{package}/v1.1.0"
    object_id = commit_id if signer == "nobody" else people[signer].sign(strict.work, tag)
    locally(strict, tag, object_id)
    assert not_permitted(strict, tag)
    assert strict.version(package) == "1.0.0"
    assert not ran.exists(), "nothing of it may run, not even to describe it"
    assert not [q for q in strict.status()["quarantine"] if q["module"] == package], (
        "the commit itself is not at fault"
    )
    assert strict.history()[0]["outcome"] == "not permitted"
    plan = strict.call("plan", tag=tag)
    assert (plan["tag"]["verdict"], plan["ok"]) == ("refused", False)
    assert "The policy is strict" in plan["tag"]["text"]


def test_a_proper_tag_on_a_commit_whose_tag_was_refused_goes_live(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"], "properly")
    locally(strict, "properly/v1.1.0", second(strict, "properly"))
    not_permitted(strict, "properly/v1.1.0")
    people["alice"].sign(strict.work, "properly/v1.1.0")
    done = strict.push("properly/v1.1.0", force=True)
    assert done.returncode == 0, done.stderr
    assert strict.ask("properly", "tick") == 10
    assert not [each for each in strict.status()["not_permitted"] if each["tag"].startswith("properly/")]


def test_a_signed_tag_object_under_another_name_is_refused_by_the_hook_and_by_the_host(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"], "renamed")
    old = strict.work.git("rev-parse", "refs/tags/renamed/v1.0.0")
    strict.work.git("update-ref", "refs/tags/renamed/v2.0.0", old)
    said = strict.push("renamed/v2.0.0")
    assert said.returncode == 1
    assert "what was signed is the tag renamed/v1.0.0" in said.stderr
    locally(strict, "renamed/v2.0.0", old)
    assert "another release under this name" in not_permitted(strict, "renamed/v2.0.0")


def test_a_replayed_old_order_is_refused_and_an_authorised_way_back_passes(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    before = first(strict, alice, "replayed")
    old = strict.work.git("rev-parse", "refs/tags/replayed/v1.0.0")
    second(strict, "replayed")
    alice.sign(strict.work, "replayed/v1.0.0", message="again")
    done = strict.push("replayed/v1.0.0", force=True)
    assert done.returncode == 0, done.stderr
    assert strict.ask("replayed", "tick") == 10
    strict.work.git("update-ref", "refs/tags/replayed/v1.0.0", old)
    said = strict.push("replayed/v1.0.0", force=True)
    assert said.returncode == 1
    assert "superseded" in said.stderr
    locally(strict, "replayed/v1.0.0", old)
    assert "superseded" in not_permitted(strict, "replayed/v1.0.0")
    assert strict.ask("replayed", "tick") == 20, "the replayed order changed nothing"
    strict.stop()
    strict.start()
    assert "superseded" in not_permitted(strict, "replayed/v1.0.0"), "after a restart, too"
    alice.sign(strict.work, "replayed/v1.0.1", before)
    done = strict.push("replayed/v1.0.1")
    assert done.returncode == 0, done.stderr
    assert strict.ask("replayed", "tick") == 3


def test_a_deletion_is_refused_by_the_hook_and_changes_nothing_if_it_goes_round_it(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    first(strict, alice, "deleted")
    second(strict, "deleted")
    alice.sign(strict.work, "deleted/v1.1.0")
    assert strict.push("deleted/v1.1.0").returncode == 0
    said = strict.push(":refs/tags/deleted/v1.1.0")
    assert said.returncode == 1
    assert "a release tag is not deleted" in said.stderr
    locally(strict, "deleted/v1.1.0", None)
    assert "a deletion is nobody's order" in not_permitted(strict, "deleted/v1.1.0")
    lower = strict.call("deploy", tag="deleted/v1.0.0")["tags"][0]
    assert (lower["verdict"], lower["text"]) == ("recorded", "not deployed: deleted/v1.1.0 is higher")
    assert strict.ask("deleted", "tick") == 10


def test_a_moved_tag_whose_release_fails_is_put_back_and_the_order_before_it_holds(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    first(strict, alice, "failing")
    old = strict.work.git("rev-parse", "refs/tags/failing/v1.0.0")
    strict.write("failing", "import a_library_that_nobody_has\n" + "from livetag import Module\n")
    strict.work.commit()
    alice.sign(strict.work, "failing/v1.0.0")
    said = strict.push("failing/v1.0.0", force=True)
    assert said.returncode == 1
    assert "ModuleNotFoundError" in said.stderr
    assert strict.git("rev-parse", "refs/tags/failing/v1.0.0") == old
    assert not [each for each in strict.status()["not_permitted"] if each["tag"].startswith("failing/")]
    assert strict.ask("failing", "tick") == 1


def test_a_rollback_is_signed_by_the_person_who_asks_or_says_how(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    before = first(strict, alice, "rolled")
    second(strict, "rolled")
    alice.sign(strict.work, "rolled/v1.1.0")
    assert strict.push("rolled/v1.1.0").returncode == 0
    said = strict.livetag("rollback", "rolled", "--reason", "too much")
    assert said.returncode == 1
    txn = strict.call("history", module="rolled")[0]["id"]
    how = f"git -c gpg.format=ssh tag -s -m 'Roll back transaction {txn}: too much' rolled/v1.1.1 {before}"
    assert how in said.stderr, said.stderr
    assert strict.ask("rolled", "tick") == 10
    for signer, code_ in (("bob", 1), ("alice", 0)):
        strict.work.git("config", "user.signingKey", str(people[signer].key))
        done = strict.livetag_in_clone("rollback", "rolled", "--sign", "--reason", "too much")
        assert done.returncode == code_, done.stderr
    assert strict.ask("rolled", "tick") == 2
    assert strict.history()[0]["who"] == "alice@example.org"


def test_an_order_that_waits_is_verified_anew_when_it_would_go_and_what_serves_stays(
    strict: Deployment, people: dict[str, Person]
) -> None:
    alice = people["alice"]
    first(strict, alice, "waiting")
    strict.call("hold", name="waiting", who="ada", reason="release freeze")
    second(strict, "waiting")
    alice.sign(strict.work, "waiting/v1.1.0")
    assert strict.push("waiting/v1.1.0").returncode == 0
    revoked = strict.path / "revoked_signers"
    write_policy(strict.path, {"revoked_signers": alice.public + "\n"})
    try:
        strict.call("unhold", name="waiting", who="ada", reason="over")
        strict.call("wake")
        assert "the key is revoked" in not_permitted(strict, "waiting/v1.1.0")
        assert strict.ask("waiting", "tick") == 1, "what was ordered when the key was good serves on"
    finally:
        revoked.unlink()
    strict.call("deploy", tag="waiting/v1.1.0")
    assert strict.ask("waiting", "tick") == 20


@pytest.mark.slow
def test_a_composition_brings_no_package_that_its_signer_may_not_release(
    tmp_path: Path, people: dict[str, Person]
) -> None:
    with deployed(tmp_path, start=False) as deployment:
        make_strict(deployment, people["bob"].signer(), "bob@example.org app\n")
        deployment.start()
        ran = tmp_path / "ran"
        deployment.write("rib", f"open({str(ran)!r}, 'w').close()\n" + "from livetag import Module\n")
        deployment.work.write("app.toml", "[modules.rib]\n")
        deployment.work.commit()
        people["bob"].sign(deployment.work, "app/v1.0.0")
        said = deployment.push("app/v1.0.0")
        assert said.returncode == 1
        assert "signed by bob@example.org, who may not release rib" in said.stderr
        locally(deployment, "app/v1.0.0", deployment.work.git("rev-parse", "refs/tags/app/v1.0.0"))
        assert "who may not release rib" in not_permitted(deployment, "app/v1.0.0")
        assert not ran.exists()


@pytest.mark.slow
def test_a_host_that_was_started_strict_is_not_opened_by_a_file_that_was_changed(
    strict: Deployment, people: dict[str, Person]
) -> None:
    first(strict, people["alice"], "opened")
    config = strict.path / "livetag.toml"
    before = config.read_text()
    try:
        config.write_text("# nothing is said of a policy here any more\n")
        second(strict, "opened")
        strict.work.tag("opened/v1.1.0")
        strict.push("-o", "no-wait", "opened/v1.1.0")  # the hook reads the file as it is now
        assert "opened/v1.1.0" in strict.tags()
        assert 'does not say mode = "strict" any more' in not_permitted(strict, "opened/v1.1.0")
        assert strict.version("opened") == "1.0.0"
    finally:
        config.write_text(before)
        strict.git("update-ref", "-d", "refs/tags/opened/v1.1.0")
        strict.call("wake")


def test_what_the_pushed_tree_says_of_the_policy_changes_nothing(
    tmp_path: Path, people: dict[str, Person]
) -> None:
    with deployed(tmp_path, start=False) as deployment:
        make_strict(deployment, people["alice"].signer(), "alice@example.org *\n")
        deployment.start()
        for folder in ("", "modules/counter/"):
            deployment.work.write(f"{folder}livetag.toml", '[policy]\nmode = "default"\n')
            deployment.work.write(f"{folder}allowed_signers", people["mallory"].signer())
            deployment.work.write(f"{folder}releasers", "mallory@example.org *\n")
        deployment.write("counter", code(1))
        deployment.work.commit()
        people["mallory"].sign(deployment.work, "counter/v1.0.0")
        assert deployment.push("main").returncode == 0, "a branch releases nothing"
        assert deployment.push("counter/v1.0.0").returncode == 1
        object_id = deployment.work.git("rev-parse", "refs/tags/counter/v1.0.0")
        locally(deployment, "counter/v1.0.0", object_id)
        assert "nobody's in allowed_signers" in not_permitted(deployment, "counter/v1.0.0")
        assert deployment.version() is None


def test_what_a_forged_tag_says_moves_no_cursor_and_writes_no_line_wherever_it_is_shown(
    strict: Deployment, people: dict[str, Person]
) -> None:
    commit_id = first(strict, people["alice"], "hostile")
    evil = "evil\x1b[2J\x1b]0;owned\x07\u202e\r/v1.0.0"
    content = (
        f"object {commit_id}\ntype commit\ntag {evil}\ntagger {evil} <{evil}> 1 +0000\n\n{evil}\n"
        "-----BEGIN SSH SIGNATURE-----\neA==\n-----END SSH SIGNATURE-----\n"
    )
    write = ("hash-object", "-t", "tag", "-w", "--literally", "--stdin")
    object_id = strict.work.git(f"--git-dir={strict.place.store}", *write, stdin=content)
    locally(strict, "hostile/v9.0.0", object_id)
    assert "what was signed is the tag evil" in not_permitted(strict, "hostile/v9.0.0")
    strict.work.git("fetch", "-q", "live", "+refs/tags/hostile/v9.0.0:refs/tags/hostile/v9.0.1")
    shown = {
        "push": strict.push("hostile/v9.0.1").stderr,
        "log": strict.said(),
        "file": (strict.place.logs / "host.jsonl").read_text(),
        **{
            name: told(strict, name)
            for name in ("status", "history", "plan hostile/v9.0.0", "history --json")
        },
    }
    for where, text in shown.items():
        assert "evil" in text, where
        assert not [char for char in text if char in "\x1b\x07\u202e\r"], (where, text)
        assert not [line for line in text.splitlines() if line.startswith("/v1.0.0")], (where, text)


def told(deployment: Deployment, command: str) -> str:
    done = deployment.livetag(*command.split())
    return done.stdout + done.stderr
