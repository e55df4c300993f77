"""Producers of the load story outside the host: a feed that a module reads, and callers at the control socket.

Each numbers what it gives, knows what was accepted, and, where an answer was lost, what may have been.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from orchestrator.control.client import ControlError, HostAbsent, HostLost, HostRefused
from tests.stories.deployment import Deployment

EVERY_S = 0.003
AGAIN_S = 0.02
Body = dict[str, object]


class Feed:
    """Serves numbered lines, from 0 for each connection, as fast as they are read."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="feed", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        session = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            session += 1
            number = 0
            with connection, suppress(OSError):
                while True:
                    lines = "".join(f"s{session} {n}\n" for n in range(number, number + 32))
                    connection.sendall(lines.encode())
                    number += 32

    def close(self) -> None:
        """End once the host has ended: its end closes the connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10.0)


class Caller:
    """One caller at the control socket, in a thread: the next number once the last was accepted."""

    lanes: tuple[str, ...] = ()

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._stop = threading.Event()
        self.next = 0
        self.refused: list[str] = []  # and given again: they were not accepted
        self.doubtful: list[int] = []  # the host ended before it answered
        self.broken = ""  # what nobody may answer
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(70.0)

    def give(self, n: int) -> None:
        """Give this number; returns once it is accepted. Raises ControlError."""
        raise NotImplementedError

    def in_doubt(self, n: int) -> int:
        """What is next after a number whose answer was lost."""
        self.doubtful.append(n)
        return n + 1

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.give(self.next)
            except (HostRefused, HostAbsent) as error:
                self.refused.append(str(error))
                self._stop.wait(AGAIN_S)
            except HostLost:
                self.next = self._resolved()
            except (ControlError, AssertionError) as error:
                self.broken = f"{type(error).__name__}: {error}"
                return
            else:
                self.next += 1

    def _resolved(self) -> int:
        while not self._stop.wait(AGAIN_S):
            with suppress(ControlError):
                return self.in_doubt(self.next)
        self.doubtful.append(self.next)
        return self.next + 1


class West(Caller):
    """Sends to a relay; now and then it tells the sink to suffer from a message."""

    lanes = ("west",)

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self.suffering: deque[str] = deque()
        self.fatal: dict[int, str] = {}  # number → how its unit fails

    def give(self, n: int) -> None:
        do = self.suffering[0] if self.suffering else ""
        body: Body = {"lane": "west", "n": n, "sum": crc32(f"west {n}".encode()), "mark": [0, 0], "do": do}
        self._deployment.call("send", name="left", type="note", body=body, timeout_s=30.0)
        if do:
            self.suffering.popleft()
        if do in {"raise", "spin", "take back"}:
            self.fatal[n] = do


class Pulse(Caller):
    """Publishes; both relays subscribe, so every number goes two ways."""

    lanes = ("pulse.left", "pulse.right")

    def give(self, n: int) -> None:
        self._deployment.call("publish", topic="pulse", body={"n": n})


class Asker(Caller):
    """Asks a module that is disabled and enabled now and then; the answer shows that each is handled once."""

    def give(self, n: int) -> None:
        answer = self._deployment.call("ask", name="spare", type="note", body={"n": n}, timeout_s=30.0)
        assert answer == n + 1, f"number {n} was answered by {answer}"

    def in_doubt(self, n: int) -> int:
        return int(self._deployment.ask("spare", "seen")[0])
