"""Signs tags with the ssh key of the person at the command line, as `git tag -s` does."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.control.clone import Clone, CloneFailed
from repo_store.ssh_keygen import NAMESPACE

TIMEOUT_S = 120.0  # a person may have to type a passphrase or touch a token


class NotSigned(Exception):
    """No signature could be made; the message says why. Nothing was changed."""


def sign_tags(tags: Mapping[str, str], message: str, place: Clone) -> dict[str, str]:
    """Give tag name → the content of a signed tag object, for tag name → commit id.

    The key and the tagger are what Git's configuration says at `place`; a key that is only named by its public part is
    asked for at the ssh-agent. Raises NotSigned.
    """
    try:
        tagger = place.run("var", "GIT_COMMITTER_IDENT")
    except CloneFailed as error:
        raise NotSigned(f"Git does not know who you are: {error}") from error
    with tempfile.TemporaryDirectory(prefix="livetag-sign-") as folder:
        key = _key(place, Path(folder))
        return {
            name: _signed(
                f"object {commit_id}\ntype commit\ntag {name}\ntagger {tagger}\n\n{message}\n",
                key,
                Path(folder),
            )
            for name, commit_id in tags.items()
        }


def _key(place: Clone, folder: Path) -> list[str]:
    try:
        named = place.run("config", "--get", "user.signingKey")
    except CloneFailed:
        named = ""
    if not named:
        raise NotSigned(
            "Git's configuration names no key to sign with. Nothing was changed. Name yours: git config --global "
            "gpg.format ssh; git config --global user.signingKey ~/.ssh/id_ed25519.pub"
        )
    literal = named.removeprefix("key::")
    if literal != named or named.startswith(("ssh-", "ecdsa-", "sk-")):
        public = folder / "key.pub"
        public.write_text(literal + "\n", encoding="utf-8")
        return ["-f", str(public), "-U"]
    return ["-f", str(Path(named).expanduser())]


def _signed(payload: str, key: list[str], folder: Path) -> str:
    file = folder / "tag"
    file.write_text(payload, encoding="utf-8")
    file.with_name("tag.sig").unlink(missing_ok=True)
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, *key, str(file)],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotSigned(f"ssh-keygen could not sign: {error}. Nothing was changed.") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise NotSigned(f"ssh-keygen could not sign: {said}. Nothing was changed.")
    return payload + file.with_name("tag.sig").read_text(encoding="ascii")
