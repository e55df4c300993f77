"""One module's part in a transaction: tried out, prepared, switched, undone or attached, and the old one retired.

Everything that can fail comes before `attach` (DESIGN §7.5): after it nothing can raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import nullcontext
from typing import Any

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.clock import within
from orchestrator.runtime.durability import Write
from orchestrator.runtime.errors import ModuleError, Overrun, error_text
from orchestrator.runtime.figures import Terms
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.resources import Opening
from orchestrator.runtime.rest import Resting
from orchestrator.runtime.retirement import Remains
from orchestrator.runtime.slices import in_slices
from orchestrator.runtime.state import PLAIN_STATE, Step, find_chain, migrate
from orchestrator.runtime.state_sample import state_sample
from orchestrator.runtime.table_image import restoring
from orchestrator.runtime.table_store import Shards
from orchestrator.runtime.tables import ModuleTables, fresh_shards
from orchestrator.upgrade.alarm import interrupt_after, stepwise
from orchestrator.upgrade.converters import Borrowed, borrow, tables_with
from orchestrator.upgrade.durable_switch import DurableSide
from orchestrator.upgrade.errors import TrialFailed, VoteRefused
from orchestrator.upgrade.given_again import GivenAgain
from orchestrator.upgrade.incoming import Code, Incoming, KeptState
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.rehearsal import Rehearsed, WayDown, rehearse
from repo_store.manifest import Limits

STALL_S = 5.0  # author code that holds the event loop longer than this is interrupted (DESIGN §7, stall_s)


class Participant:
    """A module that a transaction swaps, adds or removes."""

    def __init__(
        self,
        app: Application,
        change: Change,
        incoming: Incoming | None,
        kept: KeptState | None = None,
        reason: str = "",
    ) -> None:
        self.app = app
        self.reason = reason  # why it leaves, or is out of service: for those who wait for it
        self.change = change
        self.name = change.name
        self.incoming = incoming
        self.limits = incoming.limits if incoming is not None else Limits()
        self._kept = kept
        self.proxy = app.modules.get(change.name) or ModuleProxy(
            app, change.name, self.limits.mailbox_messages
        )
        self.old = self.proxy.implementation
        self.new: Implementation | None = None
        self._chain: list[Step] = []
        self._same = False  # the state of the version before, byte for byte
        self._retyped = False  # another type under the same state version
        self._state: object = None
        self._handed: dict[str, Any] | None = None
        self._opening: Opening | None = None
        self._tables_before = self.proxy.tables
        self._tables: ModuleTables | None = None
        self._shards: dict[str, Shards] = {}
        entry = change.after or change.before
        self.earlier: AsyncIterator[Code] | None = (
            None  # releases of before, for the steps of what is on disk
        )
        self.way_down: WayDown | None = None  # for the rehearsal of a way back
        self._borrowed: Borrowed | None = None
        self.brought: list[Write] = []  # at a start of the host: what is written before its first unit
        self._again: GivenAgain | None = None
        self._durable = DurableSide(self.proxy, entry.package if entry is not None else "", incoming, kept)

    def give_again(self, version: str, since: float) -> None:
        """It is the way back of `version`, in service since `since` (seconds since the epoch).

        What that failed on, and left no trace of, is handled again by what comes, before all that waits.
        """
        self._again = GivenAgain(self.proxy, version, since)

    @property
    def given_again(self) -> int:
        """How many messages are handled again; known from the switch on."""
        return len(self._again) if self._again is not None else 0

    @property
    def label(self) -> str:
        """The module with the version that is to come, for messages."""
        return self.name if self.change.after is None else f"{self.name} {self.change.after.version}"

    @property
    def serves(self) -> Implementation | None:
        """What is behind the proxy after the switch; None for a module that leaves."""
        return self.new

    @property
    def resting(self) -> Resting | None:
        """How the module is out of service after the switch; None: it is in service."""
        after = self.change.after
        return Resting(self.reason or f"{self.name} is disabled") if after and not after.enabled else None

    @property
    def uses_kept(self) -> bool:
        """Whether it comes into service with state (and messages) that waited for it."""
        waited = self._kept is not None and not self._kept.stored
        return waited and self.old is None and self.new is not None

    @property
    def was_durable(self) -> bool:
        """Whether the version before was durable: what is kept of it is on disk already."""
        return self._durable.before

    @property
    def stall_s(self) -> float:
        """How long author code may hold the event loop before it is interrupted."""
        return min(self.limits.load_s, STALL_S)

    # -- while the old version serves; may fail ----------------------------------------------------------------

    async def try_out(self) -> Rehearsed | None:
        """Let the new version run in its trial child, on a copy of the state; returns what was found.

        Raises TrialFailed; StateInvalid and QuiesceTimeout if the state cannot be copied.
        """
        after, incoming = self.change.after, self.incoming
        if incoming is None or after is None:
            return None
        # A port that a version before had is open until that has stopped.
        await self.app.closing.over(self.name)
        return await rehearse(self.proxy, after, incoming, self.old, self._kept, way_down=self.way_down)

    async def prepare(self) -> None:
        """Load the new version beside the old one, construct it, find its migrations, open its resources, let it prepare.

        Raises VoteRefused; what was loaded is unloaded by `retire`.
        """
        if self.incoming is None or self.change.after is None:
            return
        if self.old is None and self._kept is not None:
            self._tables_before = await in_slices(restoring(self._kept.tables))
        try:
            await within(self.app.clock, self._prepare(self.incoming), self.limits.load_s)
        except TimeoutError:
            raise VoteRefused(
                f"import and prepare() did not end within limits.load_s = {self.limits.load_s:g} s"
            ) from None
        except ModuleError as error:
            raise VoteRefused(str(error)) from None

    async def _prepare(self, incoming: Incoming) -> None:
        code = await incoming.source.load()
        after = self.change.after
        version = after.version if after is not None else ""
        self.new = Implementation(
            code.blueprint,
            name=self.name,
            version=version,
            config=incoming.config,
            loaded=code.loaded,
            entry=code.entry,
        )
        if self._kept is not None and self.old is None and self.earlier is not None:
            self._borrowed = await borrow(self._kept, code.blueprint, self.earlier)
            if self._borrowed is not None:
                self._tables_before = await tables_with(self._borrowed, self._kept, code.blueprint)
        self._chain = self._find_chain(code.blueprint)
        self._retyped = not self._chain and self._type_changed(code.blueprint)
        if self._retyped and self.old is not None:
            # Of a large one a part: the switch looks at all of it, and the service is not held up here.
            self.new.check(state_sample(self.old.state, self.old.blueprint.codec).data)
        self._tables_before.check(code.blueprint, code.loaded)
        self._durable.check(self._tables_before)
        self._shards = fresh_shards(code.blueprint, self._tables_before)
        self._opening = Opening(self.new, self.proxy.resources.held)
        await self.vote("@resource", self._opening.run(), self.new)
        await self.vote("prepare()", prepared(self.new), self.new)

    async def vote(self, what: str, work: Coroutine[Any, Any, None], new: Implementation) -> None:
        """Author code beside the version in service: whatever it raises is a vote no. Raises VoteRefused, ModuleError."""
        try:
            await stepwise(work, self.stall_s)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Overrun as error:
            raise VoteRefused(
                f"{what} held up the service and was {error} ({author_line(error, new.loaded)}). "
                "It runs while the version before serves: give long work to asyncio.to_thread()"
            ) from None
        except BaseException as error:  # noqa: BLE001  # SystemExit in prepare() is a vote no, not the host's end
            raise VoteRefused(author_failed(what, error, new)) from None

    def _find_chain(self, blueprint: Blueprint) -> list[Step]:
        """The steps from the state there is to the new version; steps down live in the version that leaves."""
        if self.old is not None:
            start, leaving = self.old.blueprint.state_version, self.old.blueprint.steps
        elif self._kept is not None:
            start = self._kept.state_version
            leaving = dict(self._borrowed.steps) if self._borrowed is not None else {}
        else:
            return []
        return find_chain({**leaving, **blueprint.steps}, start, blueprint.state_version)

    def _type_changed(self, blueprint: Blueprint) -> bool:
        """Does the type differ though the version does not? Only then a state has to be walked for a check."""
        now = blueprint.codec.schema
        return self.old is not None and (not now or now != self.old.blueprint.codec.schema)

    # -- in the switch: synchronous, no I/O; may fail until `attach` -------------------------------------------

    def hand_over(self) -> None:
        """Take the live resources from the old version."""
        if self.old is not None:
            self._handed = self.old.instance.hand_over()

    def migrate(self) -> None:
        """Make the state ready: by reference if its version is the same (and it holds no Enum of the old one's), else a copy."""
        if self.new is None:
            return
        self._tables = self._tables_before.successor(self.new.blueprint, self.new.loaded, self._shards)
        if self.old is not None:
            state, codec = self.old.state, self.new.blueprint.codec
            same = not (self._chain or self._retyped)
            by_reference = same and codec.by_reference and self.old.blueprint.codec.by_reference
            self._same = same
            self._state = state if by_reference else migrate(state, self._chain, codec)
        elif self._kept is not None:
            state = PLAIN_STATE.decode(self._kept.state)
            self._state = migrate(state, self._chain, self.new.blueprint.codec)
        else:
            self._state = self.new.first_state()

    def take_over(self) -> None:
        """Give the resources to the new version."""
        if self.new is not None:
            self.new.instance.take_over(dict(self._handed or {}))

    def writes(self) -> list[Write]:
        """What is written with COMMITTED, of a durable module. Raises VoteRefused."""
        found = self._durable.writes(self.new, self._state, self._tables_before, same=self._same)
        if self._again is not None and self.new is not None:
            found += self._again.writes(durable=self._durable.after)
        return found

    def undo(self) -> None:
        """Give back what was handed over; the old version's own state was never touched. Never raises."""
        handed, self._handed = self._handed, None
        if self.old is not None and handed is not None:
            try:
                with interrupt_after(self.stall_s):
                    self.old.instance.take_over(handed)
            except BaseException as error:  # noqa: BLE001  # the old one serves on, with what it has
                where = author_line(error, self.old.loaded)
                logger.bind(module=self.name).error(
                    "{} {} raised {!r} ({}) when it took back its resources",
                    self.name,
                    self.old.version,
                    error,
                    where,
                )

    def attach(self) -> None:
        """The new version is in service. Cannot raise: the decision has been made."""
        if self.new is not None:
            self.proxy.vitals.serve(self.incoming.terms if self.incoming is not None else Terms())
            self.proxy.serve(self.new, self._state, self._tables)
            if self._opening is not None:
                self.proxy.resources.use(self._opening)
            self._durable.attach()
            self.proxy.mailbox.limit = self.limits.mailbox_messages
            if self._kept is not None:
                for message in self._kept.messages:
                    self.proxy.mailbox.put_over_limit(message)
            if self._again is not None:
                self._again.attach()
            if self.old is not None:
                self.proxy.start()  # in this moment: the old version's intakes must not run without what it handed over
            self.put_in_or_out()
        else:
            self.proxy.leave(self.reason or "it was removed")

    def put_in_or_out(self) -> None:
        """Take the module out of service or put it back, if the change says so. Cannot raise."""
        resting = self.resting
        if resting is not None:
            self.proxy.rest(resting)
        elif self.proxy.resting is not None:
            self.proxy.resume()

    # -- after the decision -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Let a new module work (one that was there has gone on since `attach`); end one that was removed."""
        if self.new is not None and self.old is None:
            self.proxy.start()
        elif self.new is None:
            await self.proxy.close(self.reason or "it was removed")

    async def retire(self, *, committed: bool) -> Remains | None:
        """Stop and unload the version that does not serve: the old one after a commit, else the new one.

        Returns what there is to prove gone; None if there was no such version.
        """
        leaving = self.old if committed else self.new
        removed = committed and self.new is None
        opening, self._opening = self._opening, None
        self.old = self.new = None
        self._state, self._handed, self._chain = None, None, []
        self._tables, self._tables_before, self._shards = None, ModuleTables(), {}
        if leaving is None:
            return None
        with self.app.closing.of(self.name) if leaving.blueprint.resources else nullcontext():
            await self._end_all(leaving, opening, committed=committed, removed=removed)
        if removed:  # closed, and its state is kept: nobody comes back to this proxy
            self.proxy.implementation = None
            converters, self.proxy.tables = self.proxy.tables.kept, ModuleTables()
            for loaded in converters:
                loaded.unload()
        leaving.forget_state()
        remains = await in_own_thread(Remains, leaving)
        if leaving.loaded is not None and self.proxy.tables.keep(leaving.loaded):
            remains.kept_as = "converter of records that it wrote"
        elif leaving.loaded is not None:
            leaving.loaded.unload()
        return remains

    async def _end_all(
        self, leaving: Implementation, opening: Opening | None, *, committed: bool, removed: bool
    ) -> None:
        """Stop a version that leaves, and close what nobody uses any more."""
        if committed:
            await self.proxy.intakes.sources.settled()
        await self.end("stop()", leaving.stop(), leaving.version)
        resources = self.proxy.resources
        if removed:
            await self.end("closing the sources", self.proxy.intakes.sources.close(), leaving.version)
            await self.end("closing the resources", resources.close(), leaving.version)
        elif committed:
            await self.end("closing the resources", resources.close_unused(), leaving.version)
        elif opening is not None:
            await self.end("closing the resources", opening.undo(), leaving.version)

    async def end(self, what: str, work: Coroutine[Any, Any, None], version: str) -> None:
        """Let author code of a version that leaves run to its end, or say that it did not in time."""
        try:
            await within(self.app.clock, stepwise(work, self.stall_s), self.limits.load_s)
        except (TimeoutError, Overrun):
            logger.bind(module=self.name).warning(
                "{} of {} {} did not end within {:g} s", what, self.name, version, self.limits.load_s
            )
        except Exception as error:  # noqa: BLE001  # it leaves in any case
            logger.bind(module=self.name).warning(
                "{} of {} {} raised {}", what, self.name, version, error_text(error)
            )


async def prepared(implementation: Implementation) -> None:
    """Its author's `prepare()`."""
    await implementation.instance.prepare()


def switch_failure(participant: Participant, step: str, error: BaseException) -> VoteRefused:
    """An error of author code in the switch, as a sentence."""
    implementation = participant.old if step == "hand_over()" else participant.new
    return VoteRefused(author_failed(step, error, implementation))


def author_failed(step: str, error: BaseException, implementation: Implementation | None) -> str:
    """What a step of the author's code raised, as a sentence."""
    loaded = implementation.loaded if implementation is not None else None
    if isinstance(error, (ModuleError, TrialFailed)):
        return f"{step}: {error}"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{step} raised {text} ({author_line(error, loaded)})"
