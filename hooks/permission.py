"""Whether who pushes may, and whether what is pushed was ordered by somebody who may: the policy, at the push.

The policy lies beside the repository, in the deployment directory; nothing that is pushed has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hooks.push import Command
from repo_store.errors import GitFailed, StoreError, TagRefused
from repo_store.identity import Identity, believed
from repo_store.policy import push_problem
from repo_store.policy_files import Policy, load_policy
from repo_store.refs import Peeler
from repo_store.release import APP, Tag, parse_tag
from repo_store.store import RepoStore
from repo_store.verify import verify_tag

SIGN = "Sign it, and push it again: git tag -f -s -m MESSAGE {tag} COMMIT"


def permission_problems(
    commands: Sequence[Command], store: Path, environ: Mapping[str, str], claim: str
) -> Iterator[str]:
    """Yield one text for each ref that this push may not change; one for all if the policy cannot be read.

    `claim` is for whom the hook was told that it acts; `environ` leads to the objects in quarantine.
    """
    try:
        policy = load_policy(store.parent)
    except StoreError as error:
        yield f"refused: {error}"
        return
    who = pusher_of(policy, store.parent, claim)
    with RepoStore.open(store, environ) as opened:
        for command in commands:
            tag = parse_tag(command.tag_name) if command.is_tag else None
            released = _released(opened, tag, command, commands) if tag is not None else frozenset()
            said = [push_problem(policy.section, who, package) for package in sorted(released)] or [
                push_problem(policy.section, who, None)
            ]
            for problem in dict.fromkeys(filter(None, said)):
                yield f"refused: {command.tag_name if tag else command.ref}: {problem}"
            if policy.strict and tag is not None:
                yield from _strict_problem(opened, tag, command, released, policy)


def pusher_of(policy: Policy, directory: Path, claim: str) -> Identity:
    """Who this process acts for, as far as its OS user is to be believed."""
    import os

    owner = user_name(directory.stat().st_uid)
    return believed(claim, user_name(os.geteuid()), {owner, *policy.section.relays})


def user_name(uid: int) -> str:
    """The name of an OS user, or a word with the number for one without an entry."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def _strict_problem(
    store: RepoStore, tag: Tag, command: Command, released: frozenset[str], policy: Policy
) -> Iterator[str]:
    if command.new is None:
        yield (
            f"refused: {tag.name}: the policy is strict, and a release tag is not deleted. To go back, sign a higher tag on "
            "the commit before."
        )
        return
    try:
        verify_tag(store.door, tag.name, command.new, released, policy)
    except TagRefused as error:
        yield f"refused: {tag.name}: {error}. The policy is strict. {SIGN.format(tag=tag.name)}"


def _released(store: RepoStore, tag: Tag, command: Command, commands: Sequence[Command]) -> frozenset[str]:
    """The packages whose code this tag brings: its own; of a composition, also those that have no tag (DESIGN §4)."""
    if tag.package != APP or command.new is None:
        return frozenset({tag.package})
    commit_id = Peeler(store.door).commits([command.new])[command.new]
    if commit_id is None:
        return frozenset({APP})
    try:
        manifest = store.app_manifest(commit_id)
    except GitFailed:
        raise
    except StoreError:  # it is refused for that
        return frozenset({APP})
    tagged = {ref.tag.package for ref in store.refs().values()} | {
        parsed.package for each in commands if each.new and (parsed := parse_tag(each.tag_name))
    }
    return frozenset(
        {APP, *(spec.package or name for name, spec in manifest.modules.items())} - (tagged - {APP})
    )
