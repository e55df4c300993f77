"""Quiescence: a moment in which no module of a set is in a unit of work (DESIGN §7.4).

The action runs synchronously in that moment. Mailboxes go on taking messages all the while; only after some patience
are the modules held, so that most switches cost nobody a wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from orchestrator.runtime.clock import look_away
from orchestrator.runtime.errors import QuiesceTimeout
from orchestrator.runtime.message import waiting_for
from orchestrator.runtime.waits import describe_waits, waited_for_by

if TYPE_CHECKING:
    from orchestrator.runtime.application import Application
    from orchestrator.runtime.proxy import ModuleProxy

T = TypeVar("T")
PATIENCE_S = 0.02
INTAKE_TURNS_MAX = 10  # of the loop, that a switch waits for an intake which is about to run


class Pause(msgspec.Struct, frozen=True):
    """What a switch cost.

    Microseconds from the first unit held back (or its own begin) to the reopening; how many messages waited meanwhile.
    """

    pause_us: float
    held_messages: int


class Quiesce(Generic[T]):
    """One attempt to run `action` while none of `proxies` is in a unit."""

    def __init__(
        self,
        app: Application,
        proxies: Sequence[ModuleProxy],
        action: Callable[[Quiesce[T]], T],
        *,
        drain_s: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._action = action
        self._drain_s = drain_s
        self._patience_s = patience_s
        self._held_at: float | None = None
        self._began = 0.0
        self._intake_turns = 0
        self._turn_asked = False
        self._result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._result.add_done_callback(look_away)  # the caller may be cancelled in the turn that decides
        self.pause = Pause(0.0, 0)

    async def run(self) -> T:
        """Wait for the moment and return what the action returned; what it raises comes out here.

        Raises QuiesceTimeout after `drain_s` seconds, with the chain of who waited for whom. In every case the modules
        run on afterwards.
        """
        clock = self._app.clock
        self._app.quiesce = self
        self._app.at_boundary = (*self._app.at_boundary, self)
        self.try_now()
        if not self._result.done():
            timers = [
                clock.call_at(clock.now() + self._patience_s, self._hold),
                clock.call_at(clock.now() + self._drain_s, self._time_out),
            ]
            try:
                await asyncio.wait([self._result])
            finally:
                for timer in timers:
                    timer.cancel()
                if not self._result.done():  # the caller was cancelled: nobody stays held
                    self._reopen()
                    self._result.cancel()
        try:
            return self._result.result()
        finally:
            # What the action raised holds this frame and those below: a circle through the result would keep the unit at
            # whose end the switch ran, and with it the version that served, until the next full collection.
            self._result = _over()

    @property
    def paused_s(self) -> float:
        """Seconds since the first unit was held back, or since the action began."""
        return perf_counter() - (self._began if self._held_at is None else self._held_at)

    def admits(self, path: Sequence[str]) -> bool:
        """Does a unit of a participant wait for a message that came by this path? Then it must run before the switch."""
        waited_for = self._waited_for()
        return any(name in waited_for for name in path)

    def look_again(self, waiter: ModuleProxy) -> None:
        """`waiter` began to wait for another: what is held back may be what a participant's unit now waits for."""
        if self._held_at is not None and not self._result.done() and waiter.name in self._waited_for():
            self._admit()

    def try_now(self) -> None:
        """Called at each boundary between two units: if no participant is in one, act."""
        if self._result.done():
            return
        for proxy in self._proxies:
            if proxy.unit is not None:
                return
        if self._intakes_run():
            return
        self._began = perf_counter()
        held_messages = sum(len(proxy.mailbox) for proxy in self._proxies)
        try:
            result = self._action(self)
        except Exception as error:  # noqa: BLE001  # it goes to the caller of run()
            self._finish(held_messages)
            self._result.set_exception(error)
        else:
            self._finish(held_messages)
            self._result.set_result(result)

    def _intakes_run(self) -> bool:
        """Let an intake that has what it waited for run first: what it read is then the old version's own delivery.

        Only for some turns: one that never rests is interrupted instead, wherever it is.
        """
        if self._intake_turns >= INTAKE_TURNS_MAX or all(proxy.intakes.quiet for proxy in self._proxies):
            return False
        if not self._turn_asked:
            self._turn_asked = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        return True

    def _next_turn(self) -> None:
        self._turn_asked = False
        self._intake_turns += 1
        self.try_now()

    def _hold(self) -> None:
        if self._result.done():  # a timer can fire in the turn that decided
            return
        self._held_at = perf_counter()
        for proxy in self._proxies:
            proxy.held = self
            proxy.mailbox.admit_all()
        self._admit()
        self.try_now()

    def _admit(self) -> None:
        """Let the held modules handle what the units of participants wait for, and what stands before it."""
        waited_for = self._waited_for()
        for proxy in self._proxies:
            admit = waiting_for(proxy.mailbox.queue, waited_for)
            if admit > proxy.admit:
                proxy.admit = admit
                proxy.pump.rouse()

    def _waited_for(self) -> dict[str, ModuleProxy]:
        """The participants in a unit and all whom these wait for, over any number of others, outside the switch too."""
        return waited_for_by(proxy for proxy in self._proxies if proxy.unit is not None)

    def _time_out(self) -> None:
        if self._result.done():
            return
        chain = describe_waits(self._proxies)
        self._finish(sum(len(proxy.mailbox) for proxy in self._proxies))
        self._result.set_exception(
            QuiesceTimeout(
                f"no boundary between two units in {self._drain_s:g} s: {chain}. Shorten that unit or raise limits.drain_s"
            )
        )

    def _finish(self, held_messages: int) -> None:
        paused_s = self.paused_s if self._began or self._held_at is not None else 0.0
        self._reopen()
        self.pause = Pause(paused_s * 1e6, held_messages)

    def _reopen(self) -> None:
        if self._app.quiesce is self:
            self._app.quiesce = None
        self._app.at_boundary = tuple(each for each in self._app.at_boundary if each is not self)
        for proxy in self._proxies:
            if proxy.held is self:
                proxy.held, proxy.admit = proxy.resting, 0  # one that is disabled stays held
                proxy.pump.rouse()


def _over() -> asyncio.Future[Any]:
    """A result that holds nothing: whoever comes later finds the attempt at its end."""
    nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    nothing.cancel()
    return nothing
