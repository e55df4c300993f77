"""The same feed through the same code in a straight line: no runtime, no upgrades. What the demo compares with."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from orchestrator.control.demo.facts import Seen
from orchestrator.runtime.table import Table
from sample_app.modules.decoder import Decoder
from sample_app.modules.detector import Detector
from sample_app.modules.rib import Rib
from sample_app.modules.source.framing import next_record, open_feed

COUNTS = ("announced", "withdrawn", "states", "corrupt", "unsupported")


def read_straight(feed: Path) -> Seen:
    """Return what the feed says. Raises OSError if it cannot be read."""
    line = _Line()
    records = 0
    with open_feed(str(feed)) as file:
        while record := next_record(file):
            line.pass_on("decoder", "record", {"at": 0, "record": record})
            records += 1
    counts = line.modules["decoder"].state
    return Seen(records, {name: counts[name] for name in COUNTS}, line.alerts)


class _Line:
    """First versions of the modules, each called by hand: handlers are plain methods."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {"decoder": Decoder(), "rib": Rib(), "detector": Detector()}
        self.alerts: list[Any] = []
        self._waiting: deque[tuple[str, str, Any]] = deque()
        for module in self.modules.values():
            module.state = module.initial_state()
            vars(module).update(
                {name: {} for name, each in vars(type(module)).items() if isinstance(each, Table)}
            )
            module.send = lambda *message: self._waiting.append(message)
            module.publish = lambda *_event: None

    def pass_on(self, name: str, type_: str, body: Any) -> None:
        """Handle a message and all that follows from it."""
        self._waiting.append((name, type_, body))
        while self._waiting:
            name, type_, body = self._waiting.popleft()
            if name == "alerts":
                self.alerts.append(body)
            elif (name, type_) == ("rib", "update"):  # takes its body whole
                self.modules[name].update(body)
            else:
                getattr(self.modules[name], type_)(**body)
