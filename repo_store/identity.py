"""Who pushes: a user of the operating system, or somebody for whom one speaks. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Kind = Literal["os", "ssh", "http"]
KINDS: tuple[Kind, ...] = ("os", "ssh", "http")
PRINCIPAL_VARIABLE = "LIVETAG_PRINCIPAL"
"""How `livetag shell` tells the hooks whose ssh key it was. Not a name that sshd takes from a client by default."""
ALLOWED = '"os:NAME", "ssh:PRINCIPAL" or "http:NAME", e.g. "os:alice" or "ssh:bob@example.org"'

_NAME = re.compile(r"[^\s\x00-\x1f\x7f\"'\\,*?!]{1,200}")


@dataclass(frozen=True, slots=True)
class Identity:
    """`os:alice`: the kernel says so; `ssh:bob@example.org`: `livetag shell` does; `http:carol`: the web server does."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def shown(self) -> str:
        """As the records name it: a user of the system by the bare name."""
        return self.name if self.kind == "os" else str(self)

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """Read `kind:name`; None if it is none."""
        kind, colon, name = text.partition(":")
        if not colon or kind not in KINDS or not is_principal(name):
            return None
        return cls(kind, name)


def is_principal(name: str) -> bool:
    """Whether a person may be named so: no spaces, quotes, commas, patterns or control characters."""
    return _NAME.fullmatch(name) is not None and name.isprintable()


def believed(claim: str, user: str, relays: Collection[str]) -> Identity:
    """Who it is, when a process of the OS user `user` says that it acts for `claim`.

    Only the users in `relays` (those that `livetag shell` or a web server runs as) are believed what they say of others.
    """
    said = Identity.parse(claim)
    if said is not None and said.kind != "os" and user in relays:
        return said
    return Identity("os", user)
