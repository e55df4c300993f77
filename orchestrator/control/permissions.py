"""Who asks the host for a deployment, and whether he may: the kernel's word, then the allow list (DESIGN §4, §6 P7)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable

from orchestrator.control.server import peer_uid
from orchestrator.control.wire import Refused
from repo_store.identity import Identity, believed
from repo_store.manifest import PolicySection
from repo_store.policy import push_problem
from repo_store.release import parse_tag


class Permissions:
    """The policy of one host, asked for what comes over its control socket."""

    def __init__(self, section: PolicySection) -> None:
        self._section = section

    @property
    def strict(self) -> bool:
        return self._section.mode == "strict"

    def identity(self, request: dict[str, object], claim: str = "") -> Identity:
        """Who asks. What a client says of himself counts only if his OS user may speak for others."""
        user = user_name(peer_uid(request))
        return believed(claim, user, {user_name(os.geteuid()), "root", *self._section.relays})

    def check(self, request: dict[str, object], tags: Iterable[str]) -> None:
        """Raise Refused unless the one who asks may release these tags. Root and the host's own user are its owners."""
        if peer_uid(request) in {0, os.geteuid()}:
            return
        who = self.identity(request)
        for tag in tags:
            parsed = parse_tag(tag)
            problem = push_problem(self._section, who, parsed.package if parsed is not None else None)
            if problem is not None:
                raise Refused(f"{tag}: {problem}")


def user_name(uid: int) -> str:
    """The name of an OS user, or a word with the number for one without an entry."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
