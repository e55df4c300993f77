"""How a selftest ends when it does not end well."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


class SelftestImpossible(Exception):
    """It could not be made or carried out, which says nothing about the claim; the message says why, and what to do."""


class Broken(Exception):
    """What is claimed does not hold: what was expected, and what was found."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected: {expected}; found: {found}")
        self.expected = expected
        self.found = found


def wait_until(condition: Callable[[], object], what: str, within_s: float = 10.0) -> None:
    """Return once the condition holds. Raises Broken if it does not within the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            raise Broken(what, f"not within {within_s:g} s")
        time.sleep(POLL_S)
