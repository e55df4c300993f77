"""What is asked of a version in its probation, and the vital signs that answer (DESIGN §7.7). No I/O."""

from __future__ import annotations

import msgspec


class Terms(msgspec.Struct, frozen=True):
    """What is asked of a version in its probation; no seconds: nothing is.

    `one_way`: there is no way back from it. `self_test_s` is the time that its self_test() may take.
    """

    seconds: float = 0.0
    min_messages: int = 100
    max_error_rate: float = 0.01
    max_p99_ms: float = 100.0
    one_way: bool = False
    self_test_s: float = 10.0


class Figures(msgspec.Struct, frozen=True):
    """The vital signs at a moment: `units` that ended, of which `failed` raised and `slow` took longer than was asked.

    `stalls` are units that did not end for `stall_s`; `p99_ms` and `p50_ms` are those of the last units which were timed.
    """

    units: int = 0
    failed: int = 0
    slow: int = 0
    stalls: int = 0
    p99_ms: float | None = None
    p50_ms: float | None = None

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.units if self.units else None
