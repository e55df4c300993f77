"""A rollback under the strict policy: its tags are signed by the person who asks, and verified like any others.

The host has no key. It says which tags are wanted; the command line signs them with the person's own key, or a person does
so in a clone. The host's own ways back, after a crash or a breach, move no tag and need no signature.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from orchestrator.control.wire import Refused
from orchestrator.upgrade.rollback import Rollback
from repo_store.errors import TagRefused
from repo_store.policy_files import load_policy
from repo_store.release import Tag
from repo_store.verify import verify_content


def message_of(rollback: Rollback, reason: str) -> str:
    """What the tags of a rollback say."""
    return f"Roll back transaction {rollback.txn}: {reason}"


def unsigned(rollback: Rollback, reason: str) -> Refused:
    """Say how the tags of this rollback come to be signed."""
    message = shlex.quote(message_of(rollback, reason))
    tags = [step.tag.name for step in rollback.steps]
    lines = [
        (
            "The policy is strict, so the tags of a rollback are signed by a person. Nothing was changed. With the key of your "
            f"Git (user.signingKey): livetag rollback --txn {rollback.txn} --sign --reason TEXT"
        ),
        "Or in a clone:",
        *(
            f"    git -c gpg.format=ssh tag -s -m {message} {step.tag.name} {step.commit_id}"
            for step in rollback.steps
        ),
        f"    git push {'--atomic ' if len(tags) > 1 else ''}live {' '.join(tags)}",
    ]
    return Refused("\n".join(lines))


def verified(rollback: Rollback, signed: Mapping[str, str], directory: Path) -> tuple[dict[Tag, bytes], str]:
    """The tag objects to write, each verified for the package and commit it goes back to, and who signed.

    Raises Refused; StoreError if the policy cannot be read.
    """
    policy = load_policy(directory)
    found: dict[Tag, bytes] = {}
    signers: list[str] = []
    for step in rollback.steps:
        name = step.tag.name
        content = signed.get(name, "").encode()
        try:
            order = verify_content(content, name, "", {step.package}, policy)
        except TagRefused as error:
            raise Refused(f"{name}: {error}. Nothing was changed.") from error
        if order.commit_id != step.commit_id:
            raise Refused(
                f"{name}: what was signed goes back to {order.commit_id[:12]}, not to {step.commit_id[:12]}. Nothing was "
                "changed; ask for the rollback again."
            )
        found[step.tag] = content
        signers.append(order.principal)
    return found, " ".join(dict.fromkeys(signers))
