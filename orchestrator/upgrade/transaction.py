"""The upgrade transaction: two-phase commit over the modules that change together (DESIGN §7).

It reads like the protocol. COMMITTED is the only decision; every failure before it leaves the old versions serving.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from loguru import logger

from orchestrator.runtime.application import Application, Wiring
from orchestrator.runtime.collecting import no_collection
from orchestrator.runtime.durability import Write
from orchestrator.runtime.errors import ModuleError, Overrun, QuiesceTimeout, error_text
from orchestrator.runtime.quiesce import PATIENCE_S, Pause, Quiesce
from orchestrator.runtime.retirement import Remains
from orchestrator.upgrade import words
from orchestrator.upgrade.alarm import interrupt_after
from orchestrator.upgrade.errors import (
    Fault,
    JournalFailed,
    Overtaken,
    PauseExceeded,
    ShadowFailed,
    TrialFailed,
    UpgradeError,
    VoteRefused,
)
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.participant import Participant, switch_failure
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Fact,
    Planned,
    Prepared,
    Record,
    RolledBack,
)
from orchestrator.upgrade.rehearsal import Rehearsed, said_of
from orchestrator.upgrade.shadowing import Otherwise, Shadowing, never
from orchestrator.upgrade.wiring import next_wiring
from repo_store.failpoints import reach

T = TypeVar("T")

# Author code that still runs at this many pause budgets never returns; a busy machine makes it slower, not endless.
INTERRUPT_AFTER_BUDGETS = 5.0


class Ticket(Protocol):
    """A record on its way to the disk."""

    @property
    def record(self) -> Record: ...
    async def wait(self) -> Record: ...


class Log(Protocol):
    """Where the transaction's facts go: the journal, or memory in a test."""

    async def write(self, fact: Fact, /) -> Record: ...
    def append(
        self, fact: Fact, image: Sequence[ModuleImage] = (), writes: Sequence[Write] = (), /
    ) -> Ticket: ...
    def wake(self) -> None: ...


Report = Callable[[Phase, str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction ended. `fault` says whose failure it was; pause in microseconds."""

    txn: int
    result: Literal["committed", "rolled_back", "in_doubt"]
    reason: str = ""
    fault: Fault | None = None
    pause: Pause = Pause(0.0, 0)  # noqa: RUF009  # a frozen value


class UpgradeTransaction:
    """One atomic change of the release table."""

    def __init__(
        self,
        app: Application,
        planned: Planned,
        participants: Sequence[Participant],
        log: Log,
        *,
        why: str = "",
        report: Report = lambda _phase, _text: None,
        patience_s: float = PATIENCE_S,
        overtaken: Callable[[], bool] = lambda: False,
        otherwise: Otherwise = never,
        on_probation: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_probation` is asked after the decision; False: there is nothing to prove, it is confirmed at once."""
        self._app = app
        self._planned = planned
        self._txn = planned.txn
        self._participants = sorted(participants, key=lambda p: p.name)
        self._log = log
        self._why = why
        self._report = report
        self._patience_s = patience_s
        self._overtaken = overtaken
        # No function that leads to `self`: the circle would keep the transaction until Python's own full collection.
        self._shadowing = Shadowing(self._participants, partial(report, Phase.PLANNED), otherwise)
        self._shadowed: list[str] = []
        self._on_probation = on_probation
        self._wiring: Wiring | None = None
        self._committed: Ticket | None = None
        self._pause = Pause(0.0, 0)
        self._author_step = "the switch"
        self._predicted_us: float | None = None  # what the migrations would take of the pause

    @property
    def txn(self) -> int:
        """Its number."""
        return self._txn

    @property
    def switched(self) -> bool:
        """Whether the new versions handle messages; the decision may still be on its way to the disk."""
        return self._committed is not None

    @property
    def doing(self) -> str:
        """What it waits for, if that takes long: how far its shadows are."""
        return self._shadowing.text

    async def run(self) -> Outcome:
        """Carry the change out, or leave everything as it was; every wait has a deadline.

        Cancelling it before the switch rolls back; in either case the outcome is returned, not CancelledError.
        Raises JournalFailed if not even the beginning could be recorded, and Overtaken if its plan no longer holds when
        it is to be; nothing was touched then.
        """
        if self._overtaken():  # asked in the turn that queues the beginning: nothing comes between
            raise Overtaken(f"the plan of transaction {self._txn} was overtaken; it is made anew")
        begun = False
        try:
            await self._log.write(self._planned)
            begun = True
            self._report(Phase.PLANNED, "; ".join(map(words.change_text, self._planned.changes)))
            await self._collect_votes()
            await self._log.write(Prepared(self._txn))
            self._report(Phase.PREPARED, self._prepared())
            await self._switch_between_units()
        except asyncio.CancelledError:
            if self._committed is None:  # else the switch was done in this very turn: the decision stands
                return await self._end_by_rolling_back("the host is stopping", "moment")
        except (UpgradeError, ModuleError) as error:
            if not begun:
                raise
            mismatches = error.mismatches if isinstance(error, ShadowFailed) else ()
            return await self._end_by_rolling_back(str(error), _fault_of(error), mismatches)
        except Exception as error:
            if not begun or self._committed is not None:
                raise
            # The machine's fault or ours (no descriptor left, no thread). Without an end on record the journal would
            # take no other transaction, and no host could start on it.
            logger.exception("transaction {} failed by a fault of the host", self._txn)
            return await self._end_by_rolling_back(f"the host could not do it: {error_text(error)}", "moment")
        return await _to_the_end(self._commit())

    # -- phase one: votes --------------------------------------------------------------------------------------

    async def _collect_votes(self) -> None:
        found = await self._try_out_all()
        if any(p.incoming is not None for p in self._participants):
            self._report(Phase.PLANNED, "; ".join(["tried out in a child process: passed", *said_of(found)]))
        self._keep_to_the_budget(found)
        for participant in self._participants:
            with _said_of(participant):
                await participant.prepare()
        self._shadowed = await self._shadowing.run()
        self._wiring = next_wiring(self._app, self._participants)

    def _prepared(self) -> str:
        """What is ready, and which connections the switch will close."""
        closed = [
            p.proxy.intakes.sources.closed_by(p.new.blueprint if p.new is not None else None)
            for p in self._participants
        ]
        said = "loaded beside the versions in service, all votes are yes"
        return "; ".join([said, *self._shadowed, *filter(None, closed)])

    async def _try_out_all(self) -> list[tuple[Change, Rehearsed]]:
        """Run the trials, as many at once as there are processors; the first that fails ends the others."""
        places = asyncio.Semaphore(os.cpu_count() or 1)

        async def try_out(participant: Participant) -> Rehearsed | None:
            async with places:
                with _said_of(participant):
                    return await participant.try_out()

        trials = [asyncio.ensure_future(try_out(participant)) for participant in self._participants]
        try:
            found = await asyncio.gather(*trials)
        finally:
            for each in trials:
                each.cancel()
            await asyncio.gather(*trials, return_exceptions=True)
        pairs = zip(self._participants, found, strict=True)
        return [(participant.change, each) for participant, each in pairs if each is not None]

    def _keep_to_the_budget(self, found: Sequence[tuple[Change, Rehearsed]]) -> None:
        """Begin no switch that cannot end in time. Of the release, not of the moment: trying again would not help it.

        Raises VoteRefused.
        """
        migrations = [each.predicted_s for _, each in found if each.predicted_s is not None]
        if not migrations:
            return
        self._predicted_us = sum(migrations) * 1e6
        if self._predicted_us / 1000 > self._budget_ms:
            raise VoteRefused(words.over_budget(self._predicted_us / 1000, self._budget_ms))

    @property
    def _budget_ms(self) -> float:
        return min(p.limits.pause_ms for p in self._participants)

    # -- the switch --------------------------------------------------------------------------------------------

    async def _switch_between_units(self) -> None:
        quiesce = Quiesce[
            None
        ](  # in no attribute of ours: it leads to `self`, and a circle stays until a full collection
            self._app,
            [p.proxy for p in self._participants],
            self._switch,
            drain_s=min(p.limits.drain_s for p in self._participants),
            patience_s=self._patience_s,
        )
        await asyncio.sleep(0)  # the switch has a turn of the event loop of its own
        try:
            await quiesce.run()
        finally:
            self._pause = quiesce.pause
        await asyncio.sleep(0)  # and those who waited are served before the decision is brought to the disk

    def _switch(self, quiesce: Quiesce[None]) -> None:
        with no_collection():
            self._switch_all(quiesce)

    def _switch_all(self, quiesce: Quiesce[None]) -> None:
        """In memory, no I/O. Up to the appended COMMITTED all can fail and is undone; after it nothing can raise."""
        budget_ms = self._budget_ms
        wiring = self._wiring
        assert wiring is not None  # noqa: S101  # phase one made it
        try:
            with interrupt_after(budget_ms * INTERRUPT_AFTER_BUDGETS / 1000):
                self._run_author_code()
            writes = [write for p in self._participants for write in p.writes()]
            paused_ms = quiesce.paused_s * 1000
            if paused_ms > budget_ms:
                predicted = ""
                if self._predicted_us is not None:
                    predicted = (
                        f"; its migration was predicted at {words.milliseconds(self._predicted_us / 1000)}"
                    )
                raise PauseExceeded(
                    f"the switch took {paused_ms:.1f} ms, over limits.pause_ms = {budget_ms:g}{predicted}"
                )
            held = sum(len(p.proxy.mailbox) for p in self._participants)
            used = tuple(p.name for p in self._participants if p.uses_kept)
            reach("switch.record:before")
            # Before the mailboxes reopen, and with the state in the new schema: no unit of a new version is ever on disk
            # without the decision for that version before it.
            decision = Committed(self._txn, paused_ms * 1000, held, used, self._predicted_us)
            committed = self._log.append(decision, (), writes)
        except BaseException as error:
            for participant in reversed(self._participants):
                participant.undo()
            if isinstance(error, Overrun):
                raise VoteRefused(
                    f"{self._author_step} was {error}; it may take limits.pause_ms = {budget_ms:g}. "
                    "hand_over(), take_over() and migrations run while messages wait: no loops that wait, no I/O"
                ) from None
            raise
        self._committed = committed
        reach("switch.record:after")
        for participant in self._participants:
            participant.attach()
        self._app.rewire(wiring)

    def _run_author_code(self) -> None:
        for step, name in (
            ("hand_over", "hand_over()"),
            ("migrate", "migration"),
            ("take_over", "take_over()"),
        ):
            for participant in self._participants:
                self._author_step = f"{participant.label}: {name}"
                failure = None
                try:
                    getattr(participant, step)()
                except Overrun:
                    raise
                except BaseException as error:  # noqa: BLE001  # SystemExit in take_over() is a no, not the host's end
                    failure = switch_failure(participant, name, error)
                if (
                    failure is not None
                ):  # not above: it would hold the author's error, whose frames hold the version
                    raise VoteRefused(f"{participant.label}: {failure}")

    # -- phase two: the decision -------------------------------------------------------------------------------

    async def _commit(self) -> Outcome:
        """The mailboxes are open again; now the decision reaches the disk, and only then it is told."""
        assert self._committed is not None  # noqa: S101  # the switch set it
        fact = self._committed.record.fact
        assert isinstance(fact, Committed)  # noqa: S101  # the switch appended it
        pause = Pause(fact.pause_us, fact.held_messages)  # what is told is what the journal says
        self._log.wake()
        for participant in sorted(self._participants, key=lambda p: p.new is None):
            await participant.start()  # what leaves may take its time to end; nobody waits for that
        try:
            await self._committed.wait()
        except JournalFailed as error:
            return Outcome(self._txn, "in_doubt", str(error), None, pause)
        if not self._on_probation():
            with suppress(JournalFailed):  # a restart finds it unconfirmed, which is no harm
                await self._log.write(Confirmed(self._txn, self._why))
        return Outcome(self._txn, "committed", "", None, pause)

    async def _end_by_rolling_back(
        self, reason: str, fault: Fault, mismatches: tuple[str, ...] = ()
    ) -> Outcome:
        return await _to_the_end(self._roll_back(reason, fault, mismatches))

    async def _roll_back(self, reason: str, fault: Fault, mismatches: tuple[str, ...]) -> Outcome:
        pause = self._pause
        logger.info("transaction {} rolled back: {}", self._txn, reason)
        with suppress(
            JournalFailed
        ):  # recovery writes it at the next start: without COMMITTED it never happened
            end = RolledBack(
                self._txn, reason, fault, pause.pause_us, pause.held_messages, mismatches, self._predicted_us
            )
            await self._log.write(end)
        return Outcome(self._txn, "rolled_back", reason, fault, pause)

    async def retire(self, outcome: Outcome) -> list[Remains]:
        """Stop and unload what does not serve; returns what there is to prove gone.

        After the outcome was told: nobody waits for it.
        """
        committed = outcome.result != "rolled_back"
        left = [await participant.retire(committed=committed) for participant in self._participants]
        shadows = await self._shadowing.retire()
        return [*(remains for remains in left if remains is not None), *shadows]


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, though the caller is cancelled meanwhile: what was decided is carried out."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


class _said_of:  # noqa: N801  # reads as a phrase in a with statement
    """Puts the module's name before what a participant says when it refuses."""

    def __init__(self, participant: Participant) -> None:
        self._label = participant.label

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VoteRefused):
            raise VoteRefused(f"{self._label}: {error}") from None


def _fault_of(error: Exception) -> Fault:
    """Is it the release's fault (quarantine), or the moment's (try again)? Source: DESIGN §4."""
    if isinstance(error, (TrialFailed, ShadowFailed)):
        return error.fault
    moment = (QuiesceTimeout, PauseExceeded, JournalFailed)
    return "moment" if isinstance(error, moment) else "release"
