"""What happens beside an upgrade in the load story, each kind by its name; all of it must leave no trace in the numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from random import Random

from tests.stories.deployment import Deployment
from tests.stories.outside import West

HOG = "import time; end = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


class Nemesis:
    """Does one thing at a time, in a thread, while the caller upgrades."""

    def __init__(self, deployment: Deployment, choose: Random, west: West) -> None:
        self._deployment = deployment
        self._choose = choose
        self._west = west
        self._rest = threading.Event()  # never set: it only waits
        self.toils = 0
        self.done: Counter[str] = Counter()
        self.kinds: dict[str, Callable[[], None]] = {
            "the host stopped and continued": self._stopped,
            "a processor taken": self._hog,
            "git gc": lambda: self._git("gc", "--quiet"),
            "git pack-refs": lambda: self._git("pack-refs", "--all", "--prune"),
            "a slow consumer": lambda: self._suffer("slow"),
            "a unit that raises": lambda: self._suffer("raise"),
            "a unit that raises when it has sent": lambda: self._suffer("take back"),
            "a unit that spins": lambda: self._suffer("spin"),
            "a long unit in a thread": self._toil,
            "disabled and enabled": self._disabled,
        }

    def beside(self, kind: str, act: Callable[[], None]) -> None:
        """Do `act` with this kind of trouble beside it; what either raises comes out."""
        failure: list[BaseException] = []

        def trouble() -> None:
            try:
                self.kinds[kind]()
            except BaseException as error:  # noqa: BLE001  # raised below, in the test
                failure.append(error)

        thread = threading.Timer(self._choose.uniform(0, 0.3), trouble)
        thread.start()
        try:
            act()
        finally:
            thread.join(60.0)
        self.done[kind] += 1
        if failure:
            raise failure[0]

    def _stopped(self) -> None:
        assert self._deployment.host is not None
        pid = self._deployment.host.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self._rest.wait(self._choose.uniform(0.05, 0.5))
        finally:
            os.kill(pid, signal.SIGCONT)

    def _hog(self) -> None:
        seconds = self._choose.uniform(0.2, 0.6)
        subprocess.run([sys.executable, "-c", HOG.format(seconds)], check=True, timeout=60)

    def _git(self, *args: str) -> None:
        self._deployment.git(*args)

    def _suffer(self, how: str) -> None:
        self._west.suffering.append(how)

    def _toil(self) -> None:
        self._deployment.send("left", "toil", n=self.toils)
        self.toils += 1

    def _disabled(self) -> None:
        for command in ("disable", "enable"):
            self._deployment.call(command, name="spare", reason="in the middle of it")
