"""A module under test: the real proxy, mailbox and switch, a clock of the test's own; no Git, no files (DESIGN §5).

async with livetag.testing.run(CounterV1, state={"total": 3}) as counter:
assert await counter.ask("tick", {"key": "a"}) == 4
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.clock import Timer
from orchestrator.runtime.errors import BodyRefused, MigrationMissing, StateInvalid, UnknownName
from orchestrator.runtime.events import EventManager, Subscription
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.letters import DeadLetter
from orchestrator.runtime.message import Message, decode_message, encode_message
from orchestrator.runtime.module import Module
from orchestrator.runtime.names import NameService
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.state import PLAIN_STATE, find_chain
from orchestrator.runtime.table_image import TableImage, image_of
from orchestrator.runtime.table_wayback import lost_in_table, migrated
from orchestrator.runtime.wayback import lost_going_down
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.participant import Code, Incoming, KeptState, Participant
from orchestrator.upgrade.records import Change, Entry, Fact, Planned, Record
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import Limits

WALL_S = 1_000_000_000.0  # the time of day at which a test begins
SETTLE_TURNS_MAX = 10_000
FED_TURNS_MAX = 20  # for what an intake or a source was fed to arrive; one that never rests is not waited for
THREAD_S = 5.0  # of real time, that a handler in a thread may take
RECORDER = "*recorder"

__all__ = ["FakeClock", "ModuleUnderTest", "Sent", "UpgradeFailed", "UpgradeReport", "run"]


class UpgradeFailed(UpgradeError):
    """The upgrade was refused or undone; the version before it serves on."""


class Sent(NamedTuple):
    """A message that left the module for a name that is not part of the test."""

    name: str
    type: str
    body: object


class Published(NamedTuple):
    """An event that the module published."""

    topic: str
    body: object


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did. `lost_going_down`: fields of state and records that a rollback would lose."""

    pause_us: float
    held_messages: int
    lost_going_down: list[str]


class FakeClock:
    """A clock that stands until the test advances it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return WALL_S + self._now

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (when_s, next(self._order), timer))
        return timer

    async def advance(self, seconds: float, settle: Callable[[], Awaitable[None]]) -> None:
        """Let time pass: each timer rings at its own time, and what it starts ends before the next."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when_s, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when_s)
            timer.ring()
            await settle()
        self._now = end


class _FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def ring(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class ModuleUnderTest:
    """One module in an application of its own, and what it said to the world."""

    def __init__(self, app: Application, clock: FakeClock, name: str, log: _MemoryLog) -> None:
        self._app = app
        self._clock = clock
        self._log = log
        self._versions: list[type[Module[Any]]] = []
        self.name = name
        self.answers: dict[tuple[str, str], object] = {}
        self.sent: list[Sent] = []
        self.published: list[Published] = []
        self._config: Mapping[str, Any] = {}  # Any: the composition's own values
        self._limits = Limits()
        self._not_plain: list[str] = []

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

    def refuse(self, reason: str) -> None:
        """Remember what the module sent though it may not; the next wait of the test raises it."""
        self._not_plain.append(reason)

    async def settle(self) -> None:
        """Return when the module has nothing left to do: its handlers, their tasks and their threads have ended.

        What waits for the test itself, or for time to pass, is left as it is; a thread is waited for some seconds.

        Raises BodyRefused if it sent or published what is not plain data.
        """
        turns_left = FED_TURNS_MAX
        for _ in range(SETTLE_TURNS_MAX):
            await asyncio.sleep(0)
            if self._not_plain:
                raise BodyRefused(self._not_plain.pop(0))
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
        outcome = await self._swap(before, cls, limits or self._limits)
        self._versions.append(cls)
        return UpgradeReport(outcome.pause.pause_us, outcome.pause.held_messages, self._lost(before, cls))

    async def rollback(self) -> UpgradeReport:
        """Go back to the version before, by the same protocol. Raises UpgradeFailed."""
        if len(self._versions) < 2:
            raise UpgradeFailed(
                "there is no version before this one; nothing was changed. Call upgrade() first."
            )
        outcome = await self._swap(self._versions[-1], self._versions[-2], self._limits)
        self._versions.pop()
        return UpgradeReport(outcome.pause.pause_us, outcome.pause.held_messages, [])

    async def _swap(self, before: type[Module[Any]], after: type[Module[Any]], limits: Limits) -> Outcome:
        change = Change(self.name, _entry(self.name, before), _entry(self.name, after))
        return await self._transact(change, Incoming(_ClassSource(after), limits, self._config), None)

    async def _transact(self, change: Change, incoming: Incoming, kept: KeptState | None) -> Outcome:
        participant = Participant(self._app, change, incoming, kept)
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
    ) -> None:
        """First start: prepare, then take_over({}). Raises UpgradeFailed."""
        kept = _kept(cls, self.name, state, tables, config)
        self._versions, self._config, self._limits = [cls], config, limits
        await self._transact(
            Change(self.name, None, _entry(self.name, cls)), Incoming(_ClassSource(cls), limits, config), kept
        )

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


@asynccontextmanager
async def run(
    cls: type[Module[Any]],
    *,
    state: object = None,
    tables: Mapping[str, Mapping[Any, Any]] | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    answers: Mapping[tuple[str, str], object] | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[ModuleUnderTest]:
    """Run one module class; what it sends to other names is recorded, and asks of them are answered from `answers`.

    `state` and `tables` (table name → key → record) are what it begins with; else it is a first start. `answers` maps
    (name, type) to a reply, or to a function of the body. Raises UpgradeFailed if it cannot start.
    """
    clock = FakeClock()
    app = Application(clock)
    module = ModuleUnderTest(app, clock, name or cls.__name__.lower(), _MemoryLog())
    module.answers = dict(answers or {})
    app.names = _World(app, module)
    app.events = _Topics(app, module)
    await module.start(cls, state, tables or {}, config or {}, limits or Limits())
    try:
        yield module
    finally:
        await module.close()


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


class _ClassSource:
    """A version that is a class in the test."""

    def __init__(self, cls: type[Module[Any]]) -> None:
        self._cls = cls

    async def try_out(
        self,
        state: tuple[int, bytes] | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> None:
        """Nothing to try out: the test is the trial."""

    async def load(self) -> Code:
        return Code(Blueprint(self._cls), None, self._cls.__name__)


def _entry(name: str, cls: type[Module[Any]]) -> Entry:
    return Entry(name, name, cls.__name__, "", "", cls.__name__, "", state_version=cls.state_version)


class _MemoryLog:
    """The journal of a test: the same facts, in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._txns = itertools.count(1)

    def next_txn(self) -> int:
        return next(self._txns)

    def append(self, fact: Fact, /) -> _MemoryTicket:
        self.records.append(Record(len(self.records) + 1, WALL_S, fact, b""))
        return _MemoryTicket(self.records[-1])

    async def write(self, fact: Fact, /) -> Record:
        return self.append(fact).record

    def wake(self) -> None:
        """Nobody sleeps."""


class _MemoryTicket:
    def __init__(self, record: Record) -> None:
        self.record = record

    async def wait(self) -> Record:
        return self.record


class _World(NameService):
    """Every name that is not the module's own belongs to somebody who records and answers."""

    def __init__(self, app: Application, module: ModuleUnderTest) -> None:
        super().__init__()
        self._app = app
        self._module = module
        self._others: dict[str, _Other] = {}

    def find(self, name: str) -> ModuleProxy | None:
        proxy = self.table.get(name) or self._others.get(name)
        if proxy is None:
            proxy = self._others[name] = _Other(self._app, name, self._module)
        return proxy

    def resolve(self, name: str) -> ModuleProxy:
        proxy = self.find(name)
        if proxy is None:
            raise UnknownName(name)
        return proxy


class _Other(ModuleProxy):
    """Somebody outside the test: keeps what it is sent, answers what it was told to answer."""

    def __init__(self, app: Application, name: str, module: ModuleUnderTest) -> None:
        super().__init__(app, name, 1_000_000)
        self._module = module

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        del sender
        self._keep(message)
        return None

    def _keep(self, message: Message) -> None:
        self._module.sent.append(Sent(self.name, message.type, self._copy(message)))

    def _copy(self, message: Message) -> object:
        """The body, through encode and decode, so that an alias cannot hide."""
        try:
            return PLAIN_STATE.copy(message.body)
        except StateInvalid as error:  # raised where the test waits; here it would end the module's pump
            what = (
                f"event {message.topic!r}"
                if message.topic is not None
                else f"{message.type!r} to {self.name}"
            )
            self._module.refuse(f"{message.sender} sent {what}, whose body is not plain data: {error}")
            return None

    async def ask(self, message: Message, timeout_s: float, sender: ModuleProxy | None = None) -> Any:
        del timeout_s
        self.accept(message, sender)
        key = (self.name, message.type)
        if key not in self._module.answers:
            raise UnknownName(
                f"The test has no answer for {key}. Give one: run(..., answers={{{key}: reply}})."
            )
        answer = self._module.answers[key]
        return answer(message.body) if callable(answer) else answer


class _Topics(EventManager):
    """The event manager of a test: every topic has one more subscriber, who records."""

    def __init__(self, app: Application, module: ModuleUnderTest) -> None:
        super().__init__()
        self._recorder = Subscription("*", _Listener(app, RECORDER, module))

    def subscribers(self, topic: str) -> tuple[Subscription, ...]:
        return (*super().subscribers(topic), self._recorder)


class _Listener(_Other):
    """Keeps what is published."""

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        del sender
        self._module.published.append(Published(message.topic or "", self._copy(message)))
        return None
