"""Work that yields often (see slices), and its end: all of it at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Steps(Generic[T]):
    """A generator's yields to loop over, once; `value` is what it returned in the end."""

    value: T

    def __init__(self, work: Generator[None, None, T]) -> None:
        self._work = work

    def __iter__(self) -> Generator[None, None, None]:
        self.value = yield from self._work


def at_once(work: Generator[None, None, T]) -> T:
    """What `work` returns; blocks."""
    steps = Steps(work)
    for _ in steps:
        pass
    return steps.value
