"""Whether a tag is the order of somebody who may give it: the strict policy, by object id (DESIGN §6 P7, §8 "Signatures").

Asked in pre-receive, where the object is still in quarantine, and again by the host before anything of the tree is run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from repo_store.errors import TagRefused
from repo_store.git import GitDoor
from repo_store.policy_files import Policy
from repo_store.signed_tag import SignedTag, take_apart
from repo_store.ssh_keygen import principals, verifies

TAG_OBJECT_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Order:
    """A tag that was verified: by whom, with which key, for which commit."""

    object_id: str
    commit_id: str
    principal: str
    key: str


def verify_tag(door: GitDoor, name: str, object_id: str, packages: Collection[str], policy: Policy) -> Order:
    """Give the order that tag `name` is with this object, if its signer may release all of `packages`.

    Raises TagRefused with the reason as a phrase; StoreError if Git or ssh-keygen could not be asked.
    """
    info = door.infos([object_id])[0]
    if info is None:
        raise TagRefused("its object is missing")
    if info[0] != "tag":
        raise TagRefused("it is a lightweight tag, which nobody has signed")
    if info[1] > TAG_OBJECT_BYTES_MAX:
        raise TagRefused(f"its tag object has {info[1]} bytes; at most {TAG_OBJECT_BYTES_MAX} are read")
    return verify_content(door.cat(object_id)[1], name, object_id, packages, policy)


def verify_content(
    data: bytes, name: str, object_id: str, packages: Collection[str], policy: Policy
) -> Order:
    """As `verify_tag`, for the content of a tag object, written or not."""
    tag = take_apart(data)
    if tag.name != name:
        raise TagRefused(f"what was signed is the tag {tag.name}: it is another release under this name")
    return Order(object_id, tag.commit_id, _signer(tag, packages, policy), tag.fingerprint)


def _signer(tag: SignedTag, packages: Collection[str], policy: Policy) -> str:
    """The principal whose key signed it and who may release the packages. Raises TagRefused."""
    known = principals(tag.signature, policy.signers)
    if not known:
        raise TagRefused(
            f"the key of its signature, {tag.fingerprint}, is nobody's in allowed_signers (unknown, expired, or not valid "
            "yet)"
        )
    true = [
        name for name in known if verifies(tag.payload, tag.signature, name, policy.signers, policy.revoked)
    ]
    if not true:
        raise TagRefused(
            f"its signature with the key {tag.fingerprint} of {known[0]} does not hold: it is of something else, or the key "
            "is revoked"
        )
    lacking: list[str] = []
    for name in true:
        lacking = [package for package in packages if not policy.releasers.permits(name, package)]
        if not lacking:
            return name
    raise TagRefused(
        f"it was signed by {true[0]}, who may not release {' and '.join(sorted(lacking))} (releasers)"
    )
