"""Units that have been under way for long: each is told once, with where it stands, and shown while it lasts (DESIGN §7).

An async handler that awaits for ever, a thread that never returns or a task that keeps its unit open holds up nobody but
its own module: nothing is interrupted, but no upgrade of that module can happen. A unit is timed by looking at it now and
then, so that it pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from loguru import logger

from orchestrator.runtime.message import TEST_MARK, Message
from orchestrator.runtime.waits import describe_waits

if TYPE_CHECKING:
    from orchestrator.runtime.application import Application
    from orchestrator.runtime.proxy import ModuleProxy


class OverdueUnit(msgspec.Struct, frozen=True):
    """A unit that is under way for longer than `stall_s`: since when, in seconds of the day, and whom it waits for or where."""

    type: str
    since: float
    where: str


class _Seen(msgspec.Struct):
    unit: Message
    at: float
    told: bool = False


class Overdue:
    """Looks at the units under way. `counts`: module → how many of its units were overdue, since the host started."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._seen: dict[str, _Seen] = {}
        self.counts: dict[str, int] = {}

    def look(self, stall_s: float) -> None:
        """Call it some times per `stall_s`."""
        clock, modules = self._app.clock, self._app.modules
        for name in [name for name in self._seen if name not in modules]:
            del self._seen[name]
        for name, proxy in modules.items():
            unit, seen = proxy.unit, self._seen.get(name)
            if unit is None or unit.type[:1] == TEST_MARK:  # a test has a time limit of its own
                self._seen.pop(name, None)
            elif seen is None or seen.unit is not unit:
                self._seen[name] = _Seen(unit, clock.now())
            elif not seen.told and clock.now() - seen.at >= stall_s:
                seen.told = True
                self._tell(proxy, clock.now() - seen.at)

    def now(self) -> Mapping[str, OverdueUnit]:
        """The modules whose unit is overdue, as it stands now."""
        clock, found = self._app.clock, dict[str, OverdueUnit]()
        for name, seen in self._seen.items():
            proxy = self._app.modules.get(name)
            if seen.told and proxy is not None and proxy.unit is seen.unit:
                since = clock.wall() - (clock.now() - seen.at)
                found[name] = OverdueUnit(seen.unit.type, since, describe_waits([proxy]))
        return found

    def _tell(self, proxy: ModuleProxy, seconds: float) -> None:
        self.counts[proxy.name] = self.counts.get(proxy.name, 0) + 1
        proxy.vitals.stalls += 1
        logger.bind(module=proxy.name).warning(
            "a unit of {} has not ended for {:.1f} s, and {} cannot be upgraded while it lasts: {}",
            proxy.name,
            seconds,
            proxy.name,
            describe_waits([proxy]),
        )
