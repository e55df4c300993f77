"""One module in an application of its own: spoken to, upgraded and rolled back by a test, with the real protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import MigrationMissing, StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.message import Message, decode_message, encode_message
from orchestrator.runtime.module import Module
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.state import find_chain
from orchestrator.runtime.table_image import image_of
from orchestrator.runtime.table_wayback import lost_in_table, migrated
from orchestrator.runtime.wayback import lost_going_down
from orchestrator.testing.clock import FakeClock
from orchestrator.testing.memory import ClassSource, MemoryLog, entry_of
from orchestrator.testing.world import Recording
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.incoming import Incoming, KeptState
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Planned
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import Limits

SETTLE_TURNS_MAX = 10_000
FED_TURNS_MAX = 20  # for what an intake or a source was fed to arrive; one that never rests is not waited for
THREAD_S = 5.0  # of real time, that a handler in a thread may take


class UpgradeFailed(UpgradeError):
    """The upgrade was refused or undone; the version before it serves on."""


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did. `lost_going_down`: fields of state and records that a rollback would lose.

    `given_again`: messages on which the version that left had failed, and which the one that came back handles.
    """

    pause_us: float
    held_messages: int
    lost_going_down: list[str]
    given_again: int = 0


class ModuleUnderTest(Recording):
    """One module in an application of its own, and what it said to the world."""

    def __init__(self, app: Application, clock: FakeClock, name: str, log: MemoryLog) -> None:
        super().__init__()
        self._app = app
        self._clock = clock
        self._log = log
        self._versions: list[type[Module[Any]]] = []
        self.name = name
        self._config: Mapping[str, Any] = {}  # Any: the composition's own values
        self._limits = Limits()
        self._durable = False
        self._began = 0.0  # when the version in service came

    @property
    def proxy(self) -> ModuleProxy:
        return self._app.modules[self.name]

    @property
    def state(self) -> Any:
        """A copy of the state, as it is between two units."""
        implementation = self.proxy.implementation
        assert implementation is not None  # noqa: S101  # run() has put one in service
        return implementation.blueprint.codec.copy(implementation.state)

    @property
    def tables(self) -> dict[str, dict[Any, Any]]:
        """A copy of every Table of the version in service; what was not migrated yet is migrated by this look."""
        return {name: dict(table.items()) for name, table in self.proxy.tables.live.items()}

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return list(self._app.letters)

    async def ask(self, type: str, body: object = None, *, timeout_s: float = 5.0) -> Any:  # noqa: A002
        """Ask the module; the body passes through encode and decode, so an alias cannot hide."""
        message = self._message(type, body)
        reply = await self.proxy.ask(message, timeout_s)
        await self.settle()
        return reply

    async def send(self, type: str, body: object = None) -> None:  # noqa: A002
        """Send to the module, and let it finish."""
        await self.proxy.post(self._message(type, body), 5.0)
        await self.settle()

    async def publish(self, topic: str, body: object = None) -> int:
        """Publish an event; returns how many of the module's subscriptions took it."""
        subscriptions = [s for s in self._app.events.subscribers(topic) if s.proxy is self.proxy]
        for subscription in subscriptions:
            message = self._message(subscription.type, body)
            message.topic = topic
            await self.proxy.post(message, 5.0)
        await self.settle()
        return len(subscriptions)

    def attach(self, name: str, source_id: str | int, source: object) -> None:
        """Have a source read by the module's @intake(each=True) `name`: a socket, a StreamReader that the test feeds, ..."""
        self.proxy.intakes.sources.attach(name, source_id, source)

    async def advance(self, *, seconds: float) -> None:
        """Let time pass: ticks and deadlines that fall into it happen, in order."""
        await self.settle()
        await self._clock.advance(seconds, self.settle)

    async def settle(self) -> None:
        """Return when the module has nothing left to do: its handlers, their tasks and their threads have ended.

        What waits for the test itself, or for time to pass, is left as it is; a thread is waited for some seconds.

        Raises BodyRefused if it sent or published what is not plain data.
        """
        turns_left = FED_TURNS_MAX
        for _ in range(SETTLE_TURNS_MAX):
            await asyncio.sleep(0)
            self.raise_refused()
            if self.proxy.unit is None and not len(self.proxy.mailbox):
                intakes = self.proxy.intakes
                if not turns_left or (intakes.quiet and all(reader.quiet for reader in intakes.sources)):
                    return
                turns_left -= 1
            if self.proxy.thread is not None:
                ended, _ = await asyncio.wait([self.proxy.thread.ended], timeout=THREAD_S)
                if not ended:
                    return

    async def upgrade(self, cls: type[Module[Any]], *, limits: Limits | None = None) -> UpgradeReport:
        """Hot swap to another class, by the real transaction.

        Raises UpgradeFailed with the reason; the version before serves on.
        """
        before = self._versions[-1]
        began = self._clock.wall()
        outcome, _ = await self._swap(before, cls, limits or self._limits)
        self._versions.append(cls)
        self._began = began
        return UpgradeReport(outcome.pause.pause_us, outcome.pause.held_messages, self._lost(before, cls))

    async def rollback(self) -> UpgradeReport:
        """Go back to the version before, by the same protocol. Raises UpgradeFailed."""
        return await self._go_back(failed=False)

    async def revert(self) -> UpgradeReport:
        """Go back as the host does when a version fails in its probation. Raises UpgradeFailed.

        What it failed on since it came is handled again by the version before, where the first try left no trace; the
        rest are `dead_letters`, each with its `trace`.
        """
        report = await self._go_back(failed=True)
        await self.settle()
        return report

    async def _go_back(self, *, failed: bool) -> UpgradeReport:
        if len(self._versions) < 2:
            raise UpgradeFailed(
                "there is no version before this one; nothing was changed. Call upgrade() first."
            )
        outcome, again = await self._swap(self._versions[-1], self._versions[-2], self._limits, failed=failed)
        self._versions.pop()
        return UpgradeReport(outcome.pause.pause_us, outcome.pause.held_messages, [], again)

    async def _swap(
        self, before: type[Module[Any]], after: type[Module[Any]], limits: Limits, *, failed: bool = False
    ) -> tuple[Outcome, int]:
        change = Change(self.name, entry_of(self.name, before), entry_of(self.name, after))
        incoming = Incoming(ClassSource(after), limits, self._config, self._durable, tried=False)
        participant = Participant(self._app, change, incoming)
        if failed and change.before is not None:
            participant.give_again(change.before.version, self._began)
        return await self._transact(participant), participant.given_again

    async def _transact(self, participant: Participant) -> Outcome:
        change = participant.change
        planned = Planned(self._log.next_txn(), (change,), "test", "test")
        transaction = UpgradeTransaction(self._app, planned, [participant], self._log, patience_s=0.0)
        outcome = await transaction.run()
        await transaction.retire(outcome)
        if outcome.result != "committed":
            raise UpgradeFailed(outcome.reason)
        return outcome

    async def start(
        self,
        cls: type[Module[Any]],
        state: object,
        tables: Mapping[str, Mapping[Any, Any]],
        config: Mapping[str, Any],
        limits: Limits,
        *,
        durable: bool = False,
    ) -> None:
        """First start: prepare, then take_over({}). Raises UpgradeFailed."""
        self._durable = durable
        kept = _kept(cls, self.name, state, tables, config)
        self._versions, self._config, self._limits = [cls], config, limits
        change = Change(self.name, None, entry_of(self.name, cls))
        incoming = Incoming(ClassSource(cls), limits, config, durable, tried=False)
        await self._transact(Participant(self._app, change, incoming, kept))

    async def close(self) -> None:
        """End the module; its `stop()` runs."""
        implementation = self.proxy.implementation
        await self.proxy.close("the test is over")
        if implementation is not None:
            await implementation.stop()
        await self.proxy.intakes.sources.close()
        await self.proxy.resources.close()

    def _message(self, type_: str, body: object) -> Message:
        return decode_message(encode_message(self._app.message(type_, body, "")))

    def _lost(self, before: type[Module[Any]], after: type[Module[Any]]) -> list[str]:
        old, new = Blueprint(before), Blueprint(after)
        return [*self._lost_state(old, new), *self._lost_records(old)]

    def _lost_records(self, old: Blueprint) -> list[str]:
        lost: list[str] = []
        for name, table in self.proxy.tables.live.items():
            if name in old.tables and old.tables[name].version < table.version:
                found = lost_in_table(table.type, old.tables[name].version, migrated(table))
                lost += [name] if found is None else found
        return lost

    def _lost_state(self, old: Blueprint, new: Blueprint) -> list[str]:
        state = self.state
        if old.state_version == new.state_version or not isinstance(state, dict):
            return []
        try:
            down = find_chain(new.steps, new.state_version, old.state_version)
        except MigrationMissing:
            return sorted(state)
        return lost_going_down(
            state, new.codec, down, find_chain(new.steps, old.state_version, new.state_version)
        )


def _kept(
    cls: type[Module[Any]],
    name: str,
    state: object,
    tables: Mapping[str, Mapping[Any, Any]],
    config: Mapping[str, Any],
) -> KeptState | None:
    """What the test says the module begins with, as if it had been saved. Raises UpgradeFailed."""
    if state is None and not tables:
        return None
    blueprint = Blueprint(cls)
    if unknown := set(tables) - set(blueprint.tables):
        has = ", ".join(sorted(blueprint.tables)) or "none"
        raise UpgradeFailed(f"{cls.__name__} has no Table {min(unknown)!r}; it has: {has}.")
    if state is None:
        state = Implementation(blueprint, name=name, version=cls.__name__, config=config).first_state()
    try:
        images = tuple(image_of(blueprint.tables[each], records.items()) for each, records in tables.items())
    except StateInvalid as error:
        raise UpgradeFailed(str(error)) from None
    return KeptState(cls.state_version, blueprint.codec.encode(state), tables=images)
