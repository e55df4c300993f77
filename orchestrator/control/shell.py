"""What an ssh key may do that is bound to `livetag shell PRINCIPAL`: push and fetch one repository, and look (DESIGN §6 P7).

sshd starts it as the key's forced command, with what the client asked for in SSH_ORIGINAL_COMMAND. That text is split as
a shell would split it and compared; no shell ever reads it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.config import Deployment
from repo_store.identity import PRINCIPAL_VARIABLE, is_principal

COMMAND_VARIABLE = "SSH_ORIGINAL_COMMAND"
LOOKS = {"status": 0, "history": 1, "plan": 1}
"""The commands of livetag that it may run, with the most arguments of each beside --json."""
ALLOWED = "git push, git fetch and git clone of this repository, and livetag status, history, plan"

_GIT = ("receive-pack", "upload-pack")
_ARGUMENT = re.compile(r"[a-z][A-Za-z0-9_./-]*")
_PROTOCOL = re.compile(r"version=[0-9]")
# The repository's own configuration must not start a program of its choice for a fetch either.
_OVERRIDES = (
    "core.fsmonitor=false",
    "core.alternateRefsCommand=true",
    "core.pager=cat",
    "protocol.allow=never",
)


class ShellRefused(Exception):
    """What was asked for is not allowed to this key; the message says what is. Nothing was run."""


@dataclass(frozen=True, slots=True)
class Git:
    """Become this git process, with this environment and nothing of the client's."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """Run this command of livetag, which changes nothing."""

    arguments: tuple[str, ...]


def decide(principal: str, deployment: Deployment, environ: Mapping[str, str]) -> Git | Look:
    """Say what the client's command amounts to. Raises ShellRefused."""
    if not is_principal(principal):
        raise ShellRefused(
            f"{principal!r:.80} is no principal; authorized_keys names one, e.g. alice@example.org."
        )
    asked = environ.get(COMMAND_VARIABLE, "")
    if not asked.strip():
        raise ShellRefused(f"Hello {principal}. There is no shell here; this key is for {ALLOWED}.")
    try:
        words = shlex.split(asked)
    except ValueError as error:
        raise ShellRefused(
            f"{asked!r:.80} cannot be read as a command ({error}); this key is for {ALLOWED}."
        ) from error
    if words[:1] == ["git"]:  # `git receive-pack PATH` is what a client of old may say
        words = [f"git-{words[1]}", *words[2:]] if len(words) > 1 else words
    if len(words) == 2 and words[0] in {f"git-{name}" for name in _GIT}:
        _check_path(words[1], deployment)
        return Git(_argv(words[0].removeprefix("git-"), deployment.store), _environment(principal, environ))
    if words[:1] == ["livetag"]:
        return Look((*_look(words[1:]), "--dir", str(deployment.path)))
    raise ShellRefused(f"{asked!r:.80} is not allowed with this key; it is for {ALLOWED}.")


def _check_path(path: str, deployment: Deployment) -> None:
    """The client names a repository; there is one."""
    named = Path(os.path.normpath(deployment.path / path))  # a leading / stays: then it is the whole path
    if named != deployment.store and path.strip("/") != deployment.store.name:
        raise ShellRefused(
            f"{path!r:.80} is not the repository of this key. Its URL is ssh://USER@HOST{deployment.store}."
        )


def _argv(command: str, store: Path) -> tuple[str, ...]:
    overrides = [part for pair in (*_OVERRIDES, f"safe.directory={store}") for part in ("-c", pair)]
    return ("git", *overrides, command, str(store))


def _environment(principal: str, environ: Mapping[str, str]) -> dict[str, str]:
    env = {
        "PATH": environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        PRINCIPAL_VARIABLE: principal,
    }
    protocol = environ.get("GIT_PROTOCOL", "")
    return {**env, "GIT_PROTOCOL": protocol} if _PROTOCOL.fullmatch(protocol) else env


def _look(words: list[str]) -> list[str]:
    rest = [word for word in words if word != "--json"]
    name = rest[0] if rest else ""
    if name not in LOOKS or len(rest) - 1 > LOOKS[name] or not all(map(_ARGUMENT.fullmatch, rest[1:])):
        raise ShellRefused(
            f"livetag {shlex.join(words)!s:.80} is not allowed with this key; it is for {ALLOWED}."
        )
    return [*rest, *(["--json"] if "--json" in words else [])]
