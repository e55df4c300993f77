"""post-receive: wakes the host for what proc-receive did not handle. Silent: a push cannot fail any more."""

import contextlib
from collections.abc import Mapping
from typing import BinaryIO

from hooks.push import NO_WAIT, Place, pusher, read_commands
from orchestrator.control.client import ControlError, call

WAKE_S = 2.0


def main(stream: BinaryIO, environ: Mapping[str, str]) -> int:
    """Tell the host which refs were pushed, and wait for nothing; a host that is not there sees them at its start."""
    commands = read_commands(stream)
    if not commands:
        return 0
    with contextlib.suppress(ControlError):
        call(
            Place.of(environ).socket,
            "push",
            timeout_s=WAKE_S,
            changes=[{"ref": each.ref, "old": each.old, "new": each.new} for each in commands],
            options=[NO_WAIT],
            who=pusher(environ),
        )
    return 0
