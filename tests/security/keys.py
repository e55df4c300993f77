"""Real keys, made by the real ssh-keygen, and tags that are signed with them by the real git."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.git_fixtures import GitRepo
from tests.stories.deployment import Deployment

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)


class Person:
    """Somebody with an ssh key of his own."""

    def __init__(self, folder: Path, principal: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.principal = principal
        self.key = folder / principal.partition("@")[0]
        ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", principal, "-f", str(self.key))

    @property
    def public(self) -> str:
        return " ".join(self.key.with_suffix(".pub").read_text().split()[:2])

    def signer(self, options: str = "", principal: str = "") -> str:
        """His line of allowed_signers."""
        return " ".join(filter(None, (principal or self.principal, options, self.public))) + "\n"

    def sign(self, work: GitRepo, tag: str, target: str = "HEAD", *, message: str = "release") -> str:
        """Sign a tag in a clone, moving it if it is there; give the id of its object."""
        config = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={self.key}")
        work.git(*config, "tag", "-f", "-s", "-m", message, tag, target)
        return work.git("rev-parse", f"refs/tags/{tag}")


def ssh_keygen(*args: str) -> None:
    """Run the real ssh-keygen; a failure fails the test."""
    done = subprocess.run(
        ["ssh-keygen", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr


def write_policy(directory: Path, files: Mapping[str, str]) -> None:
    """Write policy files of a deployment as its owner would."""
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)


def make_strict(deployment: Deployment, signers: str, releasers: str) -> None:
    """Make the policy of a deployment whose host does not run a strict one."""
    write_policy(
        deployment.path,
        {"livetag.toml": '[policy]\nmode = "strict"\n', "allowed_signers": signers, "releasers": releasers},
    )
