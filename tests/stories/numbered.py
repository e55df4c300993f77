"""Numbered messages with checksums that never stop, so that a lost, doubled, reordered or damaged one is seen."""

from __future__ import annotations

import threading
from zlib import crc32

from orchestrator.control.client import ControlError
from tests.stories.deployment import Deployment, Facts, wait_until


class Numbered:
    """Sends `note {sender, n: 1}`, `note {sender, n: 2}`, ... to a module from a thread, until it is closed.

    The module's state says by `expected` which number of this sender comes next, and by `odd` how many were not that.
    """

    def __init__(self, deployment: Deployment, module: str, sender: str, every_s: float) -> None:
        self._deployment = deployment
        self._every_s = every_s
        self.module, self.sender = module, sender
        self._stop = threading.Event()
        self.accepted = 0
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._run, name=f"numbered {sender}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            n = self.accepted + 1
            checksum = crc32(f"{self.sender} {n}".encode())
            try:
                self._deployment.send(self.module, "note", sender=self.sender, n=n, checksum=checksum)
            except ControlError as error:
                self.refused.append(str(error))
                return
            self.accepted = n

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def check(self) -> None:
        """See that all accepted so far were handled once and in order, and that more are accepted."""
        accepted = self.accepted
        wait_until(lambda: self.accepted > accepted or self.refused, "one more message is accepted")
        assert not self.refused, self.refused
        handled_in_order(self._deployment, self.module, self.sender, accepted)


def handled_in_order(deployment: Deployment, module: str, sender: str, count: int) -> Facts:
    """See that the module has handled the first `count` of this sender once and in order; returns its state."""

    def state() -> Facts:
        return dict(deployment.call("state", name=module))

    wait_until(lambda: state()["expected"].get(sender, 1) > count, f"what {sender} gave is handled")
    found = state()
    assert found["odd"] == 0, found
    return found
