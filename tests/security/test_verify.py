"""Whose order a tag is, by the real ssh-keygen, from the object alone: no host runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store.errors import TagRefused
from repo_store.policy import parse_releasers
from repo_store.policy_files import Policy
from repo_store.store import RepoStore
from repo_store.verify import verify_content, verify_tag
from tests.git_fixtures import GitRepo, bare_store
from tests.security.keys import Person, needs_ssh_keygen, ssh_keygen

pytestmark = needs_ssh_keygen


class Bench:
    """A store, a clone, and three persons with keys; alice may release everything, bob rib."""

    def __init__(self, path: Path, store: RepoStore) -> None:
        self.store = store
        self.work = GitRepo(path / "work", path / "store.git")
        self.work.module()
        self.commit_id = self.work.commit()
        self.alice, self.bob, self.eve = (
            Person(path / "keys", f"{n}@example.org") for n in ("alice", "bob", "eve")
        )
        self.path = path

    def policy(self, signers: str = "", revoked: bytes | None = None) -> Policy:
        text = signers or self.alice.signer() + self.bob.signer()
        rules = parse_releasers(b"alice@example.org *\nbob@example.org rib\n", "releasers")
        return Policy(signers=text.encode(), revoked=revoked, releasers=rules)

    def signed(self, person: Person, tag: str = "counter/v1.0.0") -> str:
        object_id = person.sign(self.work, tag)
        self.work.push(f"refs/tags/{tag}", force=True)
        return object_id

    def signer_of(self, object_id: str, policy: Policy | None = None, tag: str = "counter/v1.0.0") -> str:
        package = tag.partition("/")[0]
        return verify_tag(self.store.door, tag, object_id, {package}, policy or self.policy()).principal


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    path = tmp_path_factory.mktemp("bench")
    with bare_store(path / "store.git") as store:
        yield Bench(path, store)


def test_the_order_of_a_releaser_has_his_principal_his_key_and_the_commit(bench: Bench) -> None:
    order = verify_tag(
        bench.store.door, "counter/v1.0.0", bench.signed(bench.alice), {"counter"}, bench.policy()
    )
    assert (order.principal, order.commit_id) == ("alice@example.org", bench.commit_id)
    assert order.key.startswith("SHA256:")


def test_who_may_not_release_it_is_named_and_may_release_his_own(bench: Bench) -> None:
    with pytest.raises(TagRefused, match=r"signed by bob@example\.org, who may not release counter"):
        bench.signer_of(bench.signed(bench.bob))
    assert bench.signer_of(bench.signed(bench.bob, "rib/v1.0.0"), tag="rib/v1.0.0") == "bob@example.org"


def test_an_unknown_key_is_refused_though_ssh_keygen_finds_its_signature_good(bench: Bench) -> None:
    with pytest.raises(TagRefused, match="nobody's in allowed_signers"):
        bench.signer_of(bench.signed(bench.eve))


@pytest.mark.parametrize("options", ['valid-before="20200101"', 'valid-after="20500101"'])
def test_a_key_counts_only_while_it_is_valid_whatever_date_the_tagger_gives(
    bench: Bench, options: str
) -> None:
    object_id = bench.signed(bench.alice)
    with pytest.raises(TagRefused, match="expired, or not valid"):
        bench.signer_of(object_id, bench.policy(bench.alice.signer(options)))
    date = "2019-06-01T00:00:00" if "before" in options else "2051-06-01T00:00:00"
    config = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={bench.alice.key}")
    tag = (*config, "tag", "-f", "-s", "-m", "dated", "counter/v1.0.0")
    bench.work.run(*tag, env={"GIT_COMMITTER_DATE": date})
    bench.work.push("refs/tags/counter/v1.0.0", force=True)
    with pytest.raises(TagRefused, match="expired, or not valid"):
        bench.signer_of(
            bench.work.git("rev-parse", "counter/v1.0.0"), bench.policy(bench.alice.signer(options))
        )


def test_a_revoked_key_is_refused_by_a_list_of_keys_and_by_a_krl(bench: Bench) -> None:
    object_id = bench.signed(bench.alice)
    krl = bench.path / "krl"
    ssh_keygen("-q", "-k", "-f", str(krl), str(bench.alice.key.with_suffix(".pub")))
    for revoked in (f"{bench.alice.public}\n".encode(), krl.read_bytes()):
        with pytest.raises(TagRefused, match="or the key is revoked"):
            bench.signer_of(object_id, bench.policy(revoked=revoked))
    assert bench.signer_of(object_id, bench.policy(revoked=f"{bench.bob.public}\n".encode()))


def test_a_signature_for_anything_else_than_git_does_not_count(bench: Bench) -> None:
    object_id = bench.signed(bench.alice)
    content = bench.store.door.cat(object_id)[1]
    payload = content[: content.index(b"-----BEGIN")]
    file = bench.path / "payload"
    file.write_bytes(payload)
    ssh_keygen("-Y", "sign", "-n", "file", "-f", str(bench.alice.key), str(file))
    forged = payload + (bench.path / "payload.sig").read_bytes()
    with pytest.raises(TagRefused, match="does not hold"):
        verify_content(forged, "counter/v1.0.0", "", {"counter"}, bench.policy())
    with pytest.raises(TagRefused):
        bench.signer_of(object_id, bench.policy(bench.alice.signer('namespaces="file"')))


def test_a_changed_tag_does_not_keep_its_signature(bench: Bench) -> None:
    content = bench.store.door.cat(bench.signed(bench.alice))[1]
    for before, after in (
        (b"release", b"RELEASE"),
        (bench.commit_id.encode(), b"0" * 40),
        (b"tagger Ada", b"tagger Eve"),
    ):
        with pytest.raises(TagRefused, match="does not hold"):
            verify_content(
                content.replace(before, after, 1), "counter/v1.0.0", "", {"counter"}, bench.policy()
            )


def test_who_signed_is_said_by_the_key_and_not_by_the_tagger_or_the_message(bench: Bench) -> None:
    config = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={bench.bob.key}")
    names = {"GIT_COMMITTER_NAME": "alice@example.org", "GIT_COMMITTER_EMAIL": "alice@example.org"}
    message = 'Good "git" signature for alice@example.org with ED25519 key SHA256:x'
    bench.work.run(*config, "tag", "-f", "-s", "-m", message, "counter/v1.0.0", env=names)
    bench.work.push("refs/tags/counter/v1.0.0", force=True)
    with pytest.raises(TagRefused, match=r"signed by bob@example\.org"):
        bench.signer_of(bench.work.git("rev-parse", "counter/v1.0.0"))


def test_the_name_that_was_signed_is_the_name_of_the_ref(bench: Bench) -> None:
    object_id = bench.signed(bench.alice)
    with pytest.raises(TagRefused, match=r"what was signed is the tag counter/v1\.0\.0"):
        bench.signer_of(object_id, tag="counter/v2.0.0")


def test_a_key_of_several_principals_is_that_of_the_one_who_may(bench: Bench) -> None:
    signers = bench.bob.signer(principal="bob@example.org,alice@example.org")
    assert bench.signer_of(bench.signed(bench.bob), bench.policy(signers)) == "alice@example.org"


def test_a_certificate_speaks_for_its_principal_until_it_ends(bench: Bench) -> None:
    authority = Person(bench.path / "keys", "authority@example.org")
    public = bench.alice.key.with_suffix(".pub")
    ssh_keygen(
        "-q", "-s", str(authority.key), "-I", "alice", "-n", "alice@example.org", "-V", "+1h", str(public)
    )
    certificate = bench.alice.key.with_name("alice-cert.pub")
    config = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={certificate}")
    bench.work.git(*config, "tag", "-f", "-s", "-m", "by certificate", "counter/v1.0.0")
    certificate.unlink()
    bench.work.push("refs/tags/counter/v1.0.0", force=True)
    object_id = bench.work.git("rev-parse", "counter/v1.0.0")
    signers = f"*@example.org cert-authority {authority.public}\n"
    assert bench.signer_of(object_id, bench.policy(signers)) == "alice@example.org"
    with pytest.raises(TagRefused):
        bench.signer_of(object_id, bench.policy(f"*@example.com cert-authority {authority.public}\n"))
