"""The vital signs of a module: what its units fail, how long they take, whether they hold it up (DESIGN §7.7).

They outlast a swap, so that a release can be compared with the one before it. What is watched in probation is timed unit by
unit; else one unit in sixteen is, so that a message pays nothing for it.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

from orchestrator.runtime.figures import Figures, Terms

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy

TIMES_KEPT: Final = 1024  # of the last units
UNTIMED: Final = (
    15  # bits of the count of units that must be clear: one in sixteen is timed while nothing is in probation
)


class Times:
    """How long the last units took, in seconds. Plain numbers: what a switch replaces, it need not free one by one."""

    __slots__ = ("_oldest", "_seconds")

    def __init__(self) -> None:
        self._seconds = array("d")  # that of an idle module stays empty
        self._oldest = 0

    def add(self, seconds: float) -> None:
        if len(self._seconds) < TIMES_KEPT:
            self._seconds.append(seconds)
        else:
            self._seconds[self._oldest] = seconds
            self._oldest = (self._oldest + 1) % TIMES_KEPT

    def __len__(self) -> int:
        return len(self._seconds)

    def p99_and_p50_ms(self) -> tuple[float | None, float | None]:
        """Their 99th percentile and their median, in milliseconds; None: there are none."""
        found = sorted(self._seconds)
        if not found:
            return None, None
        return found[math.ceil(len(found) * 0.99) - 1] * 1000, found[len(found) // 2] * 1000


class Vitals:
    """Of one module, since its version in service came."""

    __slots__ = (
        "_before",
        "_handled",
        "_proxy",
        "_times",
        "failed",
        "now",
        "slow",
        "slow_s",
        "stalls",
        "terms",
    )

    def __init__(self, proxy: ModuleProxy) -> None:
        self._proxy = proxy
        self.now = proxy.app.clock.now
        self.terms = Terms()
        self._before: tuple[int, int, int, int, Times] | None = None
        self.slow_s: float | None = None  # each unit is timed, and one that takes longer is slow
        self._begin()

    def _begin(self) -> None:
        self._handled = self._proxy.handled
        self._times = Times()
        self.failed = 0
        self.slow = 0
        self.stalls = 0

    def serve(self, terms: Terms) -> None:
        """Another version enters service. Cannot raise; called between two units.

        One that comes while a probation is on is compared with what the one before it was compared with: that is what has
        passed.
        """
        if self.slow_s is None and self._proxy.implementation is not None:
            # As it is: what it amounts to is worked out when somebody asks, and not in the pause.
            self._before = (self._units, self.failed, self.slow, self.stalls, self._times)
        self.terms = terms
        self._begin()
        self.slow_s = terms.max_p99_ms / 1000 if terms.seconds else None

    def passed(self) -> None:
        """The probation is over: what serves is what the next version is compared with."""
        self.slow_s = None

    # Whether the unit that begins is timed is asked in the pump, where a call would cost a tenth of a message.

    def took(self, seconds: float) -> None:
        """A unit that was timed has ended, well or not."""
        self._times.add(seconds)
        if self.slow_s is not None and seconds > self.slow_s:
            self.slow += 1

    @property
    def _units(self) -> int:
        return self._proxy.handled - self._handled + self.failed

    @property
    def figures(self) -> Figures:
        """The vital signs now."""
        return Figures(self._units, self.failed, self.slow, self.stalls, *self._times.p99_and_p50_ms())

    @property
    def before(self) -> Figures | None:
        """Those of the version that it is compared with; None: there was none."""
        if self._before is None:
            return None
        units, failed, slow, stalls, times = self._before
        return Figures(units, failed, slow, stalls, *times.p99_and_p50_ms())
