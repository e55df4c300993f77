"""A module out of service: loaded, with its state and what waits for it, and no unit of it begins (DESIGN §9, `disable`)."""

from __future__ import annotations

from collections.abc import Sequence


class Resting:
    """Holds a module as a switch does, for as long as it is disabled. `reason` is a sentence for senders and askers."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def admits(self, path: Sequence[str]) -> bool:  # noqa: ARG002  # the shape of Quiesce.admits
        """No unit of it runs, whoever waits."""
        return False
