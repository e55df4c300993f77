"""The policy of a deployment, read from its directory and never from anything that was pushed (DESIGN §4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repo_store.errors import PolicyUnreadable
from repo_store.manifest import PolicySection, parse_host
from repo_store.policy import ALLOWED_SIGNERS, RELEASERS, REVOKED_SIGNERS, Releasers, parse_releasers
from repo_store.trusted import read_trusted

CONFIG_NAME = "livetag.toml"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may deploy, as the files say it now. `signers` and `revoked` are for ssh-keygen."""

    section: PolicySection = PolicySection()  # noqa: RUF009  # a frozen value
    signers: bytes = b""
    revoked: bytes | None = None
    releasers: Releasers = Releasers()  # noqa: RUF009  # a frozen value

    @property
    def strict(self) -> bool:
        return self.section.mode == "strict"


def load_policy(directory: Path) -> Policy:
    """Read the policy of the deployment in `directory`; the default one where there is no livetag.toml.

    Raises PolicyUnreadable and ManifestInvalid: then nothing is permitted.
    """
    data = read_trusted(directory / CONFIG_NAME)
    section = parse_host(data, str(directory / CONFIG_NAME)).policy if data else PolicySection()
    if section.mode != "strict":
        return Policy(section)
    signers = read_trusted(directory / ALLOWED_SIGNERS)
    releasers = read_trusted(directory / RELEASERS)
    for name, found in ((ALLOWED_SIGNERS, signers), (RELEASERS, releasers)):
        if found is None:
            raise PolicyUnreadable(
                f"The policy is strict, and there is no {directory / name}: nobody may release anything. "
                'README, "Who may deploy", says what it holds.'
            )
    revoked = read_trusted(directory / REVOKED_SIGNERS)
    where = str(directory / RELEASERS)
    return Policy(section, signers or b"", revoked, parse_releasers(releasers or b"", where))
