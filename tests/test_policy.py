import base64
import os
from pathlib import Path

import pytest

from hooks.push import says_policy
from orchestrator.upgrade.orders import Order, in_force, superseded
from repo_store.errors import ManifestInvalid, PolicyUnreadable, TagRefused
from repo_store.identity import Identity, believed
from repo_store.manifest import PolicySection, parse_host
from repo_store.policy import Releasers, parse_releasers, push_problem
from repo_store.policy_files import load_policy
from repo_store.signed_tag import take_apart
from repo_store.trusted import read_trusted


def section(toml: str) -> PolicySection:
    return parse_host(f"[policy]\n{toml}".encode(), "livetag.toml").policy


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (
            'mode = "lenient"',
            r"livetag.toml: policy.mode = 'lenient' is not allowed; allowed: \"default\" or \"strict\"",
        ),
        ('allow = "os:alice"', "policy.allow = 'os:alice' is not allowed; allowed: a list"),
        ('allow = ["alice"]', r"policy.allow\[0\] = 'alice' is not allowed; allowed: \"os:NAME\""),
        ('allow = ["os:*"]', r"policy.allow\[0\]"),
        ('allow = ["ssh:a b"]', r"policy.allow\[0\]"),
        ('allow = ["os:al\\u001bice"]', r"policy.allow\[0\] = 'os:al\\x1bice'"),
        (
            'allowed = ["os:alice"]',
            "unknown key policy.allowed .*; allowed here: mode, allow, modules, relays",
        ),
        (
            'modules = { Rib = ["os:alice"] }',
            "policy.modules = 'Rib' is not allowed; allowed: the name of a package, or app",
        ),
        ('modules = { rib = ["alice"] }', r"policy.modules.rib\[0\] = 'alice'"),
        (
            'relays = ["os:git", "a b"]',
            r"policy.relays\[1\] = 'a b' is not allowed; allowed: the name of an OS user",
        ),
    ],
)
def test_a_policy_that_is_wrong_is_refused_with_file_key_value_and_what_is_allowed(
    toml: str, words: str
) -> None:
    with pytest.raises(ManifestInvalid, match=words):
        section(toml)


def test_without_a_list_whoever_can_write_the_repository_may_release() -> None:
    assert push_problem(section(""), Identity("os", "eve"), "rib") is None


def test_a_list_narrows_and_that_of_a_package_stands_in_its_place() -> None:
    policy = section('allow = ["os:alice"]\nmodules = { rib = ["ssh:bob@example.org"] }')
    alice, bob, eve = (
        Identity("os", "alice"),
        Identity("ssh", "bob@example.org"),
        Identity("os", "bob@example.org"),
    )
    assert push_problem(policy, alice, "counter") is None
    assert push_problem(policy, bob, "rib") is None
    assert push_problem(policy, bob, None) is None, "a branch releases nothing"
    said = push_problem(policy, alice, "rib") or ""
    assert said.startswith(
        "os:alice may not release rib here. livetag.toml, policy.modules.rib, allows: ssh:bob@"
    )
    assert "may not release counter" in (push_problem(policy, bob, "counter") or "")
    assert push_problem(policy, eve, "rib"), "an OS user is no ssh principal of that name"
    assert "nobody" in (push_problem(section("allow = []"), alice, None) or "")


def test_a_list_of_one_package_leaves_the_others_to_whoever_can_write() -> None:
    policy = section('modules = { rib = ["os:alice"] }')
    eve = Identity("os", "eve")
    assert push_problem(policy, eve, "rib")
    assert push_problem(policy, eve, "counter") is None
    assert push_problem(policy, eve, None) is None


def test_only_those_who_speak_for_others_are_believed_what_they_say_of_others() -> None:
    assert believed("ssh:bob@example.org", "git", {"git"}) == Identity("ssh", "bob@example.org")
    assert believed("ssh:bob@example.org", "eve", {"git"}) == Identity("os", "eve")
    assert believed("os:alice", "git", {"git"}) == Identity("os", "git"), (
        "whom the kernel knows it says itself"
    )
    assert believed("ssh:\nOutcome: x", "git", {"git"}) == Identity("os", "git")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"", False),
        (b'[host]\n[policy]\n# mode = "strict"\n\n[control]\n', False),
        (b'[policy]\nmode = "strict"\n', True),
        (b'policy.mode = "strict"\n', True),
        (b'[ policy ]\nmode = "strict"\n', True),
        (b'[policy] # ours\nmode = "strict"\n', True),
        (b"[policy.modules]\nrib = []\n", True),
        (b'policy = { mode = "strict" }', True),
    ],
)
def test_a_push_reads_a_policy_wherever_it_is_more_than_the_empty_table(config: bytes, says: bool) -> None:
    assert says_policy(config) is says


def test_releasers_are_principals_and_packages_by_names_or_patterns() -> None:
    releasers = parse_releasers(
        b"# who            may release\nalice@example.org *\n*@ops.example.org rib,decoder app # on call\n\n",
        "releasers",
    )
    assert releasers.permits("alice@example.org", "app")
    assert releasers.permits("eve@ops.example.org", "decoder")
    assert releasers.permits("eve@ops.example.org", "app")
    assert not releasers.permits("eve@ops.example.org", "counter")
    assert not releasers.permits("eve@example.org", "rib")
    assert not Releasers().permits("alice@example.org", "rib")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alice@example.org", "line 1: 'alice@example.org' is not allowed; allowed: WHO and the packages"),
        ("alice Rib", "line 1: 'Rib' is not allowed; allowed: the name of a package, app, or a pattern"),
        ("ali'ce rib", "allowed: a principal or a pattern"),
    ],
)
def test_a_line_of_releasers_that_is_wrong_is_refused_whole(line: str, words: str) -> None:
    with pytest.raises(ManifestInvalid, match=words):
        parse_releasers(line.encode(), "releasers")


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_policy_file_that_others_can_write_permits_nothing(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "livetag.toml"
    file.write_text("")
    file.chmod(mode)
    with pytest.raises(PolicyUnreadable, match=r"others than its owner can write it \(mode 06.*chmod go-w"):
        load_policy(tmp_path)
    file.chmod(0o644)
    load_policy(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(PolicyUnreadable, match="mode 0777"):
        load_policy(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_policy_file_of_another_user_permits_nothing(tmp_path: Path) -> None:
    file = tmp_path / "livetag.toml"
    file.write_text("")
    os.chown(file, 65534, -1)
    with pytest.raises(PolicyUnreadable, match="belongs to the user 65534"):
        read_trusted(file)


def test_a_strict_policy_without_its_files_permits_nothing(tmp_path: Path) -> None:
    (tmp_path / "livetag.toml").write_text('policy.mode = "strict"')
    (tmp_path / "livetag.toml").chmod(0o600)
    with pytest.raises(PolicyUnreadable, match=r"there is no .*allowed_signers: nobody may release"):
        load_policy(tmp_path)


HEAD = b"object " + b"a" * 40 + b"\ntype commit\ntag rib/v1.0.0\ntagger Eve <eve@x> 1 +0000\n\nmessage\n"
SSH = (
    b"-----BEGIN SSH SIGNATURE-----\n"
    + base64.b64encode(b"SSHSIG" + bytes(8))
    + b"\n-----END SSH SIGNATURE-----\n"
)


def test_a_tag_is_taken_apart_as_git_does_at_the_last_signature() -> None:
    quoting = HEAD + SSH + b"more\n"
    assert take_apart(quoting + SSH).payload == quoting
    assert (take_apart(HEAD + SSH).name, take_apart(HEAD + SSH).commit_id) == ("rib/v1.0.0", "a" * 40)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (HEAD, "it is not signed"),
        (HEAD + SSH + b"-----BEGIN PGP SIGNATURE-----\n", "not with an SSH key"),
        (HEAD.replace(b"type commit", b"type tree") + SSH, "does not tag a commit"),
        (HEAD.replace(b"type commit", b"type commit\ntag rib/v9.0.0") + SSH, "not as git writes one"),
        (HEAD.replace(b"object ", b"object  ") + SSH, "not as git writes one"),
        (SSH, "not as git writes one"),
    ],
)
def test_a_tag_object_with_another_header_than_git_writes_is_nobody_s_order(data: bytes, words: str) -> None:
    with pytest.raises(TagRefused, match=words):
        take_apart(data)


def test_an_order_is_superseded_by_a_later_one_that_went_live_or_may() -> None:
    first, second = Order("1" * 40, "a" * 40, "alice", "k"), Order("2" * 40, "b" * 40, "alice", "k")
    orders = {"rib/v1.0.0": (first, second)}
    failed = {("rib", "b" * 40)}
    assert superseded("rib/v1.0.0", first.object_id, orders, ())
    assert not superseded("rib/v1.0.0", second.object_id, orders, ())
    assert not superseded("rib/v1.0.0", first.object_id, orders, failed), "its push took it back"
    assert in_force("rib/v1.0.0", orders, failed) == first
    went = {"rib/v1.0.0": (first, Order("2" * 40, "b" * 40, "alice", "k", carried=True))}
    assert superseded("rib/v1.0.0", first.object_id, went, failed), "what served was taken back by a person"
    assert in_force("app/v1.0.0", orders, ()) is None
