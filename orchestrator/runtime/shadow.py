"""The shadow: a version that is to come handles copies of what the version in service handles, and is never heard.

It is an instance of its own, behind a proxy of its own in an application of its own, so all that a unit is (tasks, threads,
undo, deadlines) is as in service. Its state and records are those of one moment between two units of the version in
service. From then on each unit of that one is noted, and handled by the shadow after it: in another task, with its share of
the loop's time; its asks are answered by the replies that the other one got; what it says is noted and goes nowhere. Then
the two notes are compared. The version in service never waits for its shadow: one that cannot keep up is too slow.
Source: DESIGN §6; Pina, Andronidis, Hicks and Cadar, Mvedsua, ASPLOS 2019, compares two versions on the same input.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from orchestrator.runtime.boundary import between_units
from orchestrator.runtime.clock import look_away
from orchestrator.runtime.durable import check_size
from orchestrator.runtime.errors import QuiesceTimeout, StateInvalid, error_text
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.letters import DeadLetters
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.shadow_compare import Difference, Shower
from orchestrator.runtime.shadow_port import ShadowProxy, ShadowPump
from orchestrator.runtime.shadow_record import Asked, UnitRecord, compare, copy_of, title
from orchestrator.runtime.shadow_tables import TableMoment, moments_of, shadow_tables
from orchestrator.runtime.shadow_tap import Tap, TappedPump, TappedVoice
from orchestrator.runtime.state_sample import state_sample
from orchestrator.runtime.table_live import LiveTable

AHEAD_MAX: Final = 10_000  # units that the version in service is ahead of its shadow
MISMATCHES_MAX: Final = 20  # that are kept to be shown
STEP_S: Final = 0.5  # so long the shadow may hold the loop,
STEP_TIMES: Final = 10  # or so many times as long as the version in service took for a unit,
STEP_MOST_S: Final = 5.0  # but never longer than anybody may

Guard = Callable[[Coroutine[Any, Any, None], Callable[[], float]], Coroutine[Any, Any, None]]
"""Runs author code of which no step may hold the loop for so many seconds as it is told then; raises Overrun in it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended: `few`, `slow` and `broken` are no verdict on the new version. `why` is for what has no figures."""

    how: Literal["passed", "differs", "failed", "few", "slow", "broken"]
    why: str = ""


class Mismatch(NamedTuple):
    """A message on which the two differ; `number` counts from 1."""

    number: int
    message: str
    differences: tuple[Difference, ...]

    @property
    def lines(self) -> list[str]:
        """As a small diff."""
        return [
            f"message {self.number}: {self.message}",
            *(line for each in self.differences for line in each.lines),
        ]

    def __str__(self) -> str:
        """In a line: the message, and the first difference."""
        more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
        return f"{self.message}, {self.differences[0]}{more}"


class Wanted(NamedTuple):
    """How long it is watched, and how much it may differ."""

    messages: int
    mismatches: int
    seconds: float


class Shadow:
    """One module's shadow. It begins when `run` is called, and must be closed."""

    def __init__(
        self,
        live: ModuleProxy,
        new: Implementation,
        wanted: Wanted,
        make_state: Callable[[bytes], object],
        guard: Guard,
        *,
        durable: str | None = None,
    ) -> None:
        """`make_state`: from the state in service as msgpack to the new version's. `durable`: the package, if it is so."""
        self.live = live
        self.new: Implementation | None = new
        self.wanted = wanted
        self.recorded = 0
        self.handled = 0
        self.differ = 0
        self.mismatches: list[Mismatch] = []
        self.times_s: tuple[list[float], list[float]] = (
            [],
            [],
        )  # of the version in service, and of the shadow
        self.guard = guard
        self._make_state = make_state
        self._durable = durable
        self._over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._backlog: deque[UnitRecord] = deque()
        self._unit: UnitRecord | None = None  # that the shadow handles now
        self._entered = False
        self._slowest_s = 0.0  # of a unit of the version in service
        self._state = b""
        self._moments: dict[str, TableMoment] = {}
        self._shower = Shower(live.app.secrets.hide)
        self._proxy = ShadowProxy(self)
        self._tap = Tap(live, _Live(self), TappedPump, TappedVoice(live))
        self._own_tap = Tap(self._proxy, _Own(self), ShadowPump, None)

    # -- from outside ------------------------------------------------------------------------------------------

    async def run(self) -> Ending:
        """Return when enough messages were handled twice, or it is clear that it will not do."""
        clock = self.live.app.clock
        timer = clock.call_at(clock.now() + self.wanted.seconds, self._time_out)
        try:
            await between_units(self.live, self._begin, self.wanted.seconds)
            await asyncio.wait([self._over])
        except QuiesceTimeout as error:  # it is in one and the same unit all the time
            self.end(Ending("broken", str(error)))
        except StateInvalid as error:
            self.end(Ending("broken", f"the state in service cannot be copied. {error}"))
        finally:
            timer.cancel()
            self._tap.detach()
        return self._over.result()

    async def close(self) -> None:
        """Nothing of it runs any more; the version itself is still to be stopped. Whoever has it lets go of it now."""
        self._tap.detach()
        self.end(Ending("broken", "it was ended"))
        await self._proxy.close("its shadow is over")
        self._own_tap.detach()
        self._proxy.implementation, self._proxy.handlers, self.new = None, {}, None
        self._backlog.clear()
        self._moments, self._unit = {}, None

    @property
    def text(self) -> str:
        """How far it is."""
        return f"{self.handled} of {self.wanted.messages} messages, {self.differ} differ"

    def end(self, ending: Ending) -> None:
        if not self._over.done():
            self._over.set_result(ending)
        self._tap.detach()

    def _time_out(self) -> None:
        if self.differ > self.wanted.mismatches:
            self.end(Ending("differs"))
        else:
            self.end(Ending("few" if self.recorded < self.wanted.messages else "slow"))

    # -- of the version in service, between two units of it ----------------------------------------------------

    def _begin(self) -> None:
        """State and records are those of now; what comes from here on is noted. Raises StateInvalid."""
        serving = self.live.implementation
        if serving is None or self.new is None or self._over.done():
            return
        state = state_sample(serving.state, serving.blueprint.codec)
        if state.cuts:
            where = ", ".join(f"{cut.whole:,} in {cut.where or 'it'}" for cut in state.cuts[:3])
            why = f"self.state is too large ({where}) to be copied between two units; keep what grows in a Table"
            self.end(Ending("failed", why))
            return
        self._state = state.data
        self._moments = moments_of(self.live.tables, self.new.blueprint)
        self._tap.attach()
        asyncio.get_running_loop().call_soon(self._enter)

    def wrote(self, table: LiveTable) -> None:
        if (moment := self._moments.get(table.store.name)) is not None:
            moment.keep()

    def noted(self, record: UnitRecord) -> None:
        """The version in service has ended one more unit."""
        self.recorded += 1
        self.times_s[0].append(record.took_s)
        self._slowest_s = max(self._slowest_s, record.took_s)
        self._backlog.append(record)
        if record.hung:
            name, on = self.live.name, title(record.message, self._shower)
            self.end(Ending("broken", f"{name} itself did not return from {on}, and would not a second time"))
        if self.recorded >= self.wanted.messages:
            self._note_no_more()
        elif len(self._backlog) > AHEAD_MAX:
            self.end(Ending("slow"))
        self._next()

    def _note_no_more(self) -> None:
        """Enough units are noted. What is written to Tables is still told, as long as the shadow reads what was there before."""
        self._tap.notes_units = False
        if not self._moments:
            self._tap.detach()

    # -- its own -----------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Take up state and records in its own shape, and begin."""
        new, proxy = self.new, self._proxy
        if self._over.done() or new is None:
            return
        try:
            state = self._make_state(self._state)
            proxy.serve(new, state, shadow_tables(self._moments, new.blueprint, new.loaded))
            if self._durable is not None:
                data = new.blueprint.codec.encode(state)
                check_size(data)
                proxy.become_durable(self._durable, data)
        except Exception as error:  # noqa: BLE001  # what the switch would find as well: its vote is no
            self.end(Ending("failed", error_text(error)))
            return
        self._state = b""
        proxy.start()
        self._own_tap.attach()
        self._entered = True
        self._next()

    def _next(self) -> None:
        """Give it the next message, if it has none."""
        if self._unit is not None or not self._entered or not self._backlog or self._over.done():
            return
        self._unit = self._backlog.popleft()
        message = copy_of(self._unit.message)
        if self._unit.asked:
            message.reply = asyncio.get_running_loop().create_future()
            message.reply.add_done_callback(look_away)
        self._proxy.accept(message)

    def handled_by_shadow(self, record: UnitRecord) -> None:
        """The shadow has ended a unit: compare."""
        before, self._unit = self._unit, None
        if before is None or self._over.done():
            return
        if record.failed:
            self._proxy.app.letters = DeadLetters()  # nobody reads them
        self.handled += 1
        self.times_s[1].append(record.took_s)
        found = compare(before, record, self._shower)
        if found:
            self.differ += 1
            if len(self.mismatches) < MISMATCHES_MAX:
                self.mismatches.append(
                    Mismatch(self.handled, title(before.message, self._shower), tuple(found))
                )
        self._judge()
        self._next()

    def _judge(self) -> None:
        if self.differ > self.wanted.mismatches:
            self._note_no_more()  # it is decided; what is noted already is looked at, to be told
            if not self._backlog or len(self.mismatches) >= MISMATCHES_MAX:
                self.end(Ending("differs"))
        elif self.handled >= self.wanted.messages:
            self.end(Ending("passed"))

    def step_s(self) -> float:
        """How long the shadow may hold the loop from here to its next wait."""
        return max(STEP_S, min(STEP_TIMES * self._slowest_s, STEP_MOST_S))

    def hung(self, error: BaseException) -> None:
        """Its code did not give the loop back and was interrupted."""
        unit = self._unit
        on = f" on {title(unit.message, self._shower)}" if unit is not None else ""
        where = author_line(error, self.new.loaded if self.new is not None else None)
        self.end(Ending("failed", f"it held up the service{on} and was {error} ({where})"))

    def knows(self, name: str) -> bool:
        """Whether the version in service said something to that name in this unit: so it was bound."""
        return self._unit is not None and any(said.name == name for said in self._unit.said)

    def reply_for(self, name: str, type_: str, body: object) -> Asked | None:
        """The first ask of the version in service that is the same, and was not replayed."""
        for asked in self._unit.asks if self._unit is not None else ():
            if not asked.replayed and asked.is_for(name, type_, body):
                asked.replayed = True
                return asked
        return None


class _Live:
    """Watches the version in service."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def wrote(self, table: LiveTable) -> None:
        self._shadow.wrote(table)

    def ended(self, record: UnitRecord) -> None:
        self._shadow.noted(record)

    def broke(self, why: str) -> None:
        self._shadow.end(Ending("broken", f"what {self._shadow.live.name} does could not be noted: {why}"))


class _Own:
    """Watches the shadow."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def wrote(self, table: LiveTable) -> None:
        """Its records are its own."""

    def ended(self, record: UnitRecord) -> None:
        self._shadow.handled_by_shadow(record)

    def broke(self, why: str) -> None:
        self._shadow.end(Ending("broken", f"what the shadow does could not be noted: {why}"))
