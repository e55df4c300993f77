"""The shadows of a transaction: each new version that asks for one is compared with the one in service (DESIGN §6).

They come after all participants have prepared, and before PREPARED is on record: mailboxes are open, nothing has moved, and
the versions in service never wait for it. What is shadowed is another load of the release, not the one that is to serve,
so that nothing of what it has seen, in its module's globals either, comes into service with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from loguru import logger

from orchestrator.runtime.clock import sleep_until, within
from orchestrator.runtime.errors import ModuleError, error_text
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.retirement import Remains
from orchestrator.runtime.shadow import Ending, Shadow, Wanted
from orchestrator.runtime.state import PLAIN_STATE, find_chain, migrate
from orchestrator.upgrade import shadow_words as said
from orchestrator.upgrade import words
from orchestrator.upgrade.alarm import interrupt_after, stepwise
from orchestrator.upgrade.errors import ShadowFailed, VoteRefused
from orchestrator.upgrade.incoming import Incoming
from orchestrator.upgrade.participant import Participant, prepared

TELL_AGAIN_S = 5.0
KEPT_MAX = 10  # mismatches that are recorded
KEPT_CHARS_MAX = 1500  # of each

Tell = Callable[[str], None]
Otherwise = Callable[[], Awaitable[str]]
"""Returns once something else is asked for than what is shadowed, and says what."""


async def never() -> str:
    """Nobody asks for anything else."""
    nobody: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return await nobody


class Shadowing:
    """The shadows of one transaction, side by side."""

    def __init__(self, participants: Sequence[Participant], tell: Tell, otherwise: Otherwise = never) -> None:
        self._tell = tell
        self._otherwise = otherwise
        self._wanted = [
            (p, p.incoming) for p in participants if p.incoming is not None and p.incoming.shadow.messages
        ]
        self._ones: list[_One] = []
        self._under_way = False

    @property
    def text(self) -> str:
        """How far they are: `shadowing: 120 of 500 messages, 0 differ`; empty if there is none."""
        several = len(self._ones) > 1
        if not self._under_way:
            return ""
        parts = [f"{one.name}: {one.text}" if several else one.text for one in self._ones if one.text]
        return f"shadowing: {'; '.join(parts)}" if parts else ""

    async def run(self) -> list[str]:
        """Return what there is to say of each, if all are as they should be. Raises ShadowFailed, VoteRefused."""
        for participant, incoming in self._wanted:
            if incoming.unshadowed or participant.old is None:
                self._tell(
                    f"{participant.name}: not shadowed: {incoming.unshadowed or 'nothing of it serves'}"
                )
                continue
            one = _One(participant, incoming, self._tell)
            self._ones.append(one)
            await one.make()
        return await self._side_by_side() if self._ones else []

    async def _side_by_side(self) -> list[str]:
        each_run = [asyncio.ensure_future(one.run()) for one in self._ones]
        runs: asyncio.Future[list[str]] = asyncio.gather(*each_run)
        watch = asyncio.ensure_future(self._overtaken())
        telling = asyncio.ensure_future(self._tell_again())
        self._under_way = True
        try:
            first: list[asyncio.Future[Any]] = [runs, watch]  # Any: of two types
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not runs.done():
                watch.result()
            return runs.result()
        finally:
            self._under_way = False
            for each in (*each_run, watch, telling):  # one that fails ends the others
                each.cancel()
            await asyncio.gather(runs, *each_run, watch, telling, return_exceptions=True)

    async def _overtaken(self) -> None:
        why = await self._otherwise()
        raise ShadowFailed(f"its shadow was ended: {why}", "moment")

    async def _tell_again(self) -> None:
        clock = self._ones[0].clock
        while True:
            await sleep_until(clock, clock.now() + TELL_AGAIN_S)
            self._tell(self.text)

    async def retire(self) -> list[Remains]:
        """End them all: nothing of them is left but what there is to prove gone."""
        ones, self._ones, self._wanted = self._ones, [], []
        return [remains for one in ones if (remains := await one.retire()) is not None]


class _One:
    """The shadow of one participant."""

    def __init__(self, participant: Participant, incoming: Incoming, tell: Tell) -> None:
        self.name = participant.name
        self.clock = participant.app.clock
        self._participant = participant
        self._incoming = incoming
        self._tell = tell
        self._new: Implementation | None = None
        self._shadow: Shadow | None = None

    @property
    def text(self) -> str:
        return self._shadow.text if self._shadow is not None else ""

    @property
    def _before(self) -> str:
        before = self._participant.change.before
        return before.version if before is not None else ""

    @property
    def _after(self) -> str:
        after = self._participant.change.after
        return after.version if after is not None else ""

    async def make(self) -> None:
        """Load and prepare what is shadowed. Raises VoteRefused."""
        participant = self._participant
        try:
            await within(self.clock, self._make(), participant.limits.load_s)
        except TimeoutError:
            raise VoteRefused(
                f"{participant.label}: a second load for its shadow did not end within limits.load_s = "
                f"{participant.limits.load_s:g} s"
            ) from None
        except (ModuleError, VoteRefused) as error:
            raise VoteRefused(f"{participant.label}: {error}") from None

    async def _make(self) -> None:
        participant, incoming = self._participant, self._incoming
        code = await incoming.source.load()
        blueprint = code.blueprint
        new = self._new = Implementation(
            blueprint,
            name=self.name,
            version=self._after,
            config=incoming.config,
            loaded=code.loaded,
            entry=code.entry,
        )
        new.instance.log = logger.bind(module=self.name, version=f"{self._after} (shadow)")
        if own := [*blueprint.intakes, *blueprint.each, *(each.name for each in blueprint.resources)]:
            raise VoteRefused(
                f"pure = true says that it has no I/O of its own, and it has {words.listed(own)}: an @intake or @resource "
                "cannot be had twice. Take [shadow] out of its module.toml"
            )
        await participant.vote("prepare() of its shadow", prepared(new), new)
        await participant.vote("take_over() of its shadow", _taken_over(new), new)
        package = participant.change.after.package if participant.change.after is not None else ""
        self._shadow = Shadow(
            participant.proxy,
            new,
            Wanted(incoming.shadow.messages, incoming.shadow.max_mismatch, incoming.shadow.seconds),
            self._state,
            partial(stepwise, patient=True),
            durable=package if incoming.durable else None,
        )

    def _state(self, data: bytes) -> object:
        """The state in service, taken up as the switch would. Raises ModuleError."""
        old, new = self._participant.old, self._new
        if old is None or new is None:
            raise ModuleError("there is no version in service any more")
        before, after = old.blueprint, new.blueprint
        chain = find_chain({**before.steps, **after.steps}, before.state_version, after.state_version)
        try:
            with interrupt_after(self._participant.stall_s):
                return migrate(PLAIN_STATE.decode(data), chain, after.codec)
        except ModuleError:
            raise
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a step is a no, not the host's end
            raise ModuleError(
                f"migration raised {error_text(error)} ({author_line(error, new.loaded)})"
            ) from None

    async def run(self) -> str:
        """Return what is to be said of it. Raises ShadowFailed."""
        shadow = self._shadow
        assert shadow is not None  # noqa: S101  # it was made
        self._tell(said.begun(self.name, self._incoming.shadow))
        ending = await shadow.run()
        figures = said.took(shadow.times_s, self._before, self._after)
        if ending.how == "passed":
            self._log(shadow)
            return said.passed(self.name, shadow.handled, shadow.differ, figures)
        raise self._failed(shadow, ending, figures)

    def _failed(self, shadow: Shadow, ending: Ending, figures: str) -> ShadowFailed:
        wanted, label = self._incoming.shadow, self._participant.label
        if ending.how == "differs":
            self._log(shadow)
            self._tell(self._diff(shadow))
            first = shadow.mismatches[0]
            text = said.differs(self._before, shadow.differ, shadow.handled, wanted, str(first))
            kept = [
                "\n".join([f"{self.name}: {each.lines[0]}", *each.lines[1:]]) for each in shadow.mismatches
            ]
            return ShadowFailed(
                f"{label}: {text}", "release", tuple(k[:KEPT_CHARS_MAX] for k in kept[:KEPT_MAX])
            )
        if ending.how == "failed":
            return ShadowFailed(f"{label}: its shadow failed: {ending.why}")
        text = f"its shadow was ended: {ending.why}"
        if ending.how == "few":
            text = said.too_few(shadow.recorded, wanted)
        elif ending.how == "slow":
            text = said.too_slow(shadow.handled, shadow.recorded, wanted, figures)
        return ShadowFailed(f"{label}: {text}", "moment")

    def _diff(self, shadow: Shadow) -> str:
        """The first mismatch, to be read: the others may follow from it."""
        return "\n".join([f"{self.name}: - {self._before}, + {self._after}:", *shadow.mismatches[0].lines])

    def _log(self, shadow: Shadow) -> None:
        for each in shadow.mismatches:
            logger.bind(module=self.name).warning(
                "shadow of {}: {}", self._participant.label, "\n".join(each.lines)
            )

    async def retire(self) -> Remains | None:
        """Stop and unload it; returns what there is to prove gone."""
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            with suppress(ModuleError):
                await shadow.close()
        new, self._new = self._new, None
        if new is None:
            return None
        await self._participant.end("stop() of the shadow", new.stop(), new.version)
        new.forget_state()
        remains = await in_own_thread(Remains, new)
        remains.version = f"{remains.version} (shadow)"
        if new.loaded is not None:
            new.loaded.unload()
        return remains


async def _taken_over(new: Implementation) -> None:
    """As at a first start: there is nothing to be handed over."""
    new.instance.take_over({})
