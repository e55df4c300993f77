"""Writes each alert as one JSON line, and publishes it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

from livetag import Module, handles


class State(TypedDict):
    written: int


class Alerts(Module[State]):
    """config: `output`, appended to; opened for each alert, since alerts are rare and the file may be rotated away."""

    def initial_state(self) -> State:
        return {"written": 0}

    async def prepare(self) -> None:
        await asyncio.to_thread(Path(self.config["output"]).touch)  # vote no now if it cannot be written

    @handles
    def alert(self, alert: dict[str, Any]) -> None:
        at = datetime.fromtimestamp(alert["time"], timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"at": at, **alert}) + "\n"
        with Path(self.config["output"]).open("a", encoding="utf-8") as file:
            file.write(line)
        self.state["written"] += 1
        self.publish("bgp.alert", alert)
