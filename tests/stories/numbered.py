"""Numbered messages that never stop, so that a lost, doubled or reordered one is seen."""

from __future__ import annotations

import threading

from orchestrator.control.client import ControlError
from tests.stories.deployment import Deployment, wait_until

EVERY_S = 0.004


class Numbered:
    """Sends `note {n: 1}`, `note {n: 2}`, ... to the counter from a thread, until it is closed."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._stop = threading.Event()
        self.accepted = 0
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._run, name="numbered", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._deployment.send("counter", "note", n=self.accepted + 1)
            except ControlError as error:
                self.refused.append(str(error))
                return
            self.accepted += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def check(self) -> None:
        """See that all accepted so far were handled once and in order, and that more are accepted."""
        accepted = self.accepted
        wait_until(lambda: self.accepted > accepted or self.refused, "one more message is accepted")
        assert not self.refused, self.refused
        wait_until(lambda: self._state()["last"] >= accepted, "what was accepted is handled")
        state = self._state()
        assert state["odd"] == 0, state
        assert state["notes"] == state["last"], state

    def _state(self) -> dict[str, int]:
        return dict(self._deployment.call("state", name="counter"))
