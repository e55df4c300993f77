"""One command's way to its deployment and to the host that runs there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.control.cli.screen import note
from orchestrator.control.client import HostAbsent, HostForbidden, request
from orchestrator.control.config import Deployment, find_deployment

FACTS_S = 10.0
"""How long a command that only asks for facts waits for its answer."""
UPGRADE_S = 900.0
"""How long a command waits for an upgrade; the host's own deadlines are far below."""
CONFIRMED_S = 31 * 86_400.0
"""How long a command waits for the end of a probation, which may last 30 days; it can be interrupted at any time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """The deployment a command is about."""

    deployment: Deployment

    @classmethod
    def find(cls, named: Path | None) -> "Session":
        """Return the session of the deployment that this command means. Raises DeploymentNotFound."""
        return cls(find_deployment(named, os.environ, Path.cwd()))

    def ask(self, op: str, arguments: Mapping[str, object], *, timeout_s: float = FACTS_S) -> object:
        """Ask the host for `op`; arguments that are None are left out; its progress is noted on stderr.

        Raises what `client.request` raises; HostAbsent says how to start a host.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return request(self.deployment.socket, op, given, on_event=_show_progress, timeout_s=timeout_s)
        except HostForbidden:
            raise
        except HostAbsent as error:
            raise HostAbsent(f"{error}. Start it with `livetag run {self.deployment.path}`.") from error


def _show_progress(event: Mapping[str, object]) -> None:
    tag, phase, text = (event.get(key) for key in ("tag", "phase", "text"))
    about = ": ".join(str(part) for part in (tag, phase) if part)
    note(f"{about}: {text}" if about and text else about or text or "")


def view(value: object, shape: type[T]) -> T:
    """Read the host's answer as `shape`, whatever else it holds; a wrong shape is a bug (of ours)."""
    return msgspec.convert(value, shape, strict=False)
