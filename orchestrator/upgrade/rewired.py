"""A module whose version stays: only its names change, or whether it is in service. Nothing is loaded for that."""

from __future__ import annotations

from orchestrator.runtime.application import Application
from orchestrator.runtime.durability import Write
from orchestrator.runtime.implementation import Implementation
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change


class Rewired(Participant):
    """Takes part in a switch with the version it has: no trial, no hand-over, no state to move."""

    def __init__(self, app: Application, change: Change, reason: str = "") -> None:
        super().__init__(app, change, None, None, reason)

    @property
    def serves(self) -> Implementation | None:
        return self.old

    def hand_over(self) -> None:
        """Nothing leaves the version in service."""

    def writes(self) -> list[Write]:
        """Nothing of it changes."""
        return []

    def attach(self) -> None:
        """The names move with the wiring; here only its service changes. Cannot raise."""
        self.put_in_or_out()

    async def start(self) -> None:
        """It runs already."""
        self.proxy.start()

    async def retire(self, *, committed: bool) -> None:  # noqa: ARG002  # one shape for all
        """Nothing retires."""
        self.old = None


def only_rewired(app: Application, change: Change) -> bool:
    """Whether a change touches neither code nor config of a version that is loaded."""
    proxy = app.modules.get(change.name)
    if change.before is None or change.after is None or proxy is None or proxy.implementation is None:
        return False
    return not change.brings_code
