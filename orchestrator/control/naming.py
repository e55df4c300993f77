"""Who has which name, and who hears which topic, over the control socket (DESIGN §9, `names` and `topics`)."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.topics import topic_matches

Facts = dict[str, Any]  # Any: JSON


class _Asked(msgspec.Struct):
    name: str | None = None


class _Topic(msgspec.Struct):
    topic: str | None = None


class Naming:
    """Reads the name service and the event manager; changes nothing."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def names(self, request: dict[str, object], _emit: Emit) -> object:
        """Every name with the module that has it, or why none has; of one name, if one is asked for."""
        asked = read(request, _Asked)
        service = self._app.names
        rows: dict[str, Facts] = {
            name: {"name": name, "module": module, "kind": "own" if name == module else "also"}
            for name, module in service.names().items()
        }
        for name, reason in service.absent.items():
            rows.setdefault(name, {"name": name, "module": None, "kind": "absent", "why": reason})
        if asked.name is not None:
            if asked.name not in rows:
                service.resolve(asked.name)  # raises, with the names there are
            return [rows[asked.name]]
        return [rows[name] for name in sorted(rows)]

    async def topics(self, request: dict[str, object], _emit: Emit) -> object:
        """Subscriptions with what became of their events; topics with who has published on them since the host began."""
        asked = read(request, _Topic)
        events = self._app.events
        taken = [s for s in events.table if asked.topic is None or topic_matches(s.pattern, asked.topic)]
        published = {
            topic: by for topic, by in events.published.items() if asked.topic is None or topic == asked.topic
        }
        if asked.topic is not None and not taken and not published:
            raise Refused(
                f"Nobody subscribes to {asked.topic!r}, and nobody has published on it since the host began. "
                "`livetag topics` shows those there are."
            )
        return {
            "subscriptions": [
                {
                    "pattern": s.pattern,
                    "module": s.proxy.name,
                    "delivered": s.counts.delivered,
                    "dropped": s.counts.dropped,
                    "drop_oldest": s.drops_oldest,
                }
                for s in sorted(taken, key=lambda s: (s.pattern, s.proxy.name))
            ],
            "published": [
                {
                    "topic": topic,
                    "by": [{"module": name or None, "events": count} for name, count in sorted(by.items())],
                    "to": [s.proxy.name for s in events.table if topic_matches(s.pattern, topic)],
                }
                for topic, by in sorted(published.items())
            ],
        }
