"""The moment between two units of one module: something short is done there, and nobody is held for it.

A switch needs such a moment of all its modules at once, and is a `Quiesce`; a copy of one module's state needs only its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator.runtime.errors import QuiesceTimeout
from orchestrator.runtime.waits import describe_waits

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy

T = TypeVar("T")


async def between_units(proxy: ModuleProxy, action: Callable[[], T], timeout_s: float) -> T:
    """What `action` returns or raises, called while the module is in no unit: now, or when the one under way ends.

    Raises QuiesceTimeout after `timeout_s` seconds, with the chain of who waits for whom; `action` was not called then.
    """
    if proxy.unit is None:
        return action()
    clock = proxy.app.clock
    moment = _Moment(proxy, action)
    timer = clock.call_at(clock.now() + timeout_s, moment.over)
    proxy.app.at_boundary = (*proxy.app.at_boundary, moment)
    try:
        await moment.come
    finally:
        timer.cancel()
        proxy.app.at_boundary = tuple(each for each in proxy.app.at_boundary if each is not moment)
    return moment.outcome(timeout_s)


class _Moment(Generic[T]):
    """Waits for one boundary of a module, at which it acts once."""

    def __init__(self, proxy: ModuleProxy, action: Callable[[], T]) -> None:
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._action = action
        self._returned: list[T] = []
        self._raised: Exception | None = None

    def try_now(self) -> None:
        """Called at each boundary between two units, of whichever module."""
        if self._proxy.unit is not None or self.come.done():
            return
        try:
            self._returned.append(self._action())
        except Exception as error:  # noqa: BLE001  # not in the unit that has just ended: it goes to the one who waits
            self._raised = error
        self.come.set_result(None)

    def over(self) -> None:
        """The time is over."""
        if not self.come.done():
            self.come.set_result(None)

    def outcome(self, timeout_s: float) -> T:
        """What came of it."""
        if self._raised is not None:
            error, self._raised = self._raised, None  # its frames hold this
            raise error
        if self._returned:
            return self._returned.pop()
        raise QuiesceTimeout(
            f"no boundary between two units in {timeout_s:g} s: {describe_waits([self._proxy])}. Shorten that unit or raise "
            "limits.drain_s"
        )
