"""What runs author code in the trial process: under limits, one named step after the other (DESIGN section 7, step 2).

Answers on a pipe of its own: a JSON string for each step as it begins, then one Report. Whatever the author's code
prints goes elsewhere, and whatever it does to this process is seen by the keeper from outside.
"""

import asyncio
import contextlib
import gc
import inspect
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from orchestrator.runtime.blueprint import describe
from orchestrator.runtime.durable import check_size
from orchestrator.runtime.errors import MigrationMissing, ModuleError, ResourceAbsent, StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import Loaded, author_line, load_blueprint
from orchestrator.runtime.module import Module
from orchestrator.runtime.resources import Opening
from orchestrator.runtime.state import PLAIN_STATE, StateCodec, find_chain, migrate
from orchestrator.runtime.state_sample import state_sample
from orchestrator.runtime.table_image import TableImage
from orchestrator.runtime.tables import ModuleTables
from orchestrator.runtime.wayback import lost_going_down
from orchestrator.upgrade.emits import scan_folder
from orchestrator.upgrade.trial_clock import timed
from orchestrator.upgrade.trial_confinement import confine, settle, watch_faults
from orchestrator.upgrade.trial_protocol import CALLS, LOADING, Rehearsal, Report, Request, limit_name
from orchestrator.upgrade.trial_tables import (
    changed_below,
    lost_below,
    lost_in_tables,
    rehearse_tables,
    taken_down,
)

EXIT_SPEECHLESS = 71
WALKED_BYTES_MAX = 256 * 1024
FIRST_STATE_BYTES_MAX = 1024 * 1024


def _misses_resource(error: BaseException | None) -> bool:
    """Whether it failed for want of a resource that a trial does not open, however the author wrapped that."""
    while error is not None:
        if isinstance(error, ResourceAbsent):
            return True
        error = error.__cause__ or error.__context__
    return False


class Unfit(Exception):
    """A hook of the author's is not as it must be; says which and where."""


def run(request: Request, answer: int, output: int, faults: int) -> NoReturn:
    """Do what the request asks in this process, say it on `answer`, and exit."""
    worker = _Worker(request, answer)
    me = os.getpid()
    exit_now = os._exit
    gc.enable()  # the keeper does without
    try:
        confine(request.limits, output)
        settle(request.work)
        watch_faults(faults)
        report = worker.work()
    except BaseException as error:  # noqa: BLE001 - sys.exit and KeyboardInterrupt are failures of the release here
        report = worker.failure(error)
    if os.getpid() == me:  # a fork made by the release, come back to us: only the first one speaks
        with contextlib.suppress(BaseException):
            worker.say(report)
            exit_now(0)
    exit_now(EXIT_SPEECHLESS)


class _Worker:
    def __init__(self, request: Request, answer: int) -> None:
        self._request = request
        self._answer = answer
        self._step = "start"
        self._started = time.monotonic()
        self._step_began = self._started
        self._seconds: dict[str, float] = {}
        self._loaded = Loaded(Path(request.folder), request.tops, "trial")
        self._migration_s: float | None = None
        self._lost: tuple[str, ...] | None = None
        self._first_state: bytes | None = None
        self._went_down: bytes | None = None
        self._tables_down: tuple[TableImage, ...] = ()

    def say(self, what: str | Report) -> None:
        data = msgspec.json.encode(what) + b"\n"
        while data:
            data = data[os.write(self._answer, data) :]

    def step(self, name: str) -> None:
        now = time.monotonic()
        self._seconds[self._step] = now - self._step_began
        self._step, self._step_began = name, now
        self.say(name)

    def work(self) -> Report:
        request = self._request
        self.step("import")
        blueprint, entry = load_blueprint(self._loaded, request.package, request.entry)
        described = describe(blueprint, entry)
        if request.rehearsal is None:
            said = scan_folder(
                Path(request.folder), request.tops
            )  # parsed here: a hostile file can crash the parser
            described = msgspec.structs.replace(described, emits=said)
        description = msgspec.json.encode(described)
        if request.rehearsal is not None:
            self.step("construct")
            implementation = Implementation(
                blueprint,
                name=request.rehearsal.name,
                version=request.rehearsal.version,
                config=request.rehearsal.config,
                loaded=self._loaded,
                entry=entry,
            )
            # Not asyncio.run: at an error it would first wait for tasks that may refuse to be cancelled.
            asyncio.new_event_loop().run_until_complete(self._rehearse(implementation, request.rehearsal))
        self.step("end")
        return Report(
            description=description,
            seconds=self._seconds,
            migration_s=self._migration_s,
            lost=self._lost,
            first_state=self._first_state,
            went_down=self._went_down,
            tables_down=self._tables_down,
        )

    async def _rehearse(self, implementation: Implementation, rehearsal: Rehearsal) -> None:
        """Walk the life of an implementation up to service, test it, and stop it."""
        instance = implementation.instance
        state = self._state(implementation, rehearsal)
        if rehearsal.back_to is not None:
            self._go_back(implementation, rehearsal, state, rehearsal.back_to)
            return
        if rehearsal.durable:
            check_size(implementation.blueprint.codec.encode(state))
        tables = self._records(implementation, rehearsal)
        opening = Opening(implementation, {}, left_out=rehearsal.open_keys)
        await self._hook("resources", opening.run)
        whole = await self._hook("prepare", instance.prepare)
        first = rehearsal.state is None and not rehearsal.open_keys
        if first:
            self.step("take_over")
            instance.take_over({})
        # One that takes resources over lives on what only the version in service can give: no test of it here.
        # Nor on a part of a state, which need not be one that ever was.
        if whole and not rehearsal.cut and (first or type(instance).take_over is Module.take_over):
            instance.state = state
            vars(instance).update(tables.live)  # to be read; a test writes nothing
            await self._hook("self_test", instance.self_test)
        await self._hook("stop", instance.stop)
        await self._hook("resources", opening.undo)

    def _state(self, implementation: Implementation, rehearsal: Rehearsal) -> Any:
        """The state that it would start from, in its own shape. Any: it is the author's."""
        blueprint = implementation.blueprint
        if rehearsal.state is None:
            self.step("initial_state")
            state = implementation.first_state()
            self._first_state = _small(state)
            return state
        self.step("migrate")
        chain = find_chain(blueprint.steps, rehearsal.state_version, blueprint.state_version)
        if not chain:
            state = self._same_version(implementation, rehearsal.state, rehearsal.left_by)
            if rehearsal.handed_on_as is not None:
                self._migration_s = self._copying_s(blueprint.codec, rehearsal.state, rehearsal)
            return state
        old = PLAIN_STATE.decode(rehearsal.state)
        state, self._migration_s = timed(
            lambda: migrate(old, chain, blueprint.codec), rehearsal.enough_ms / 1000
        )
        if rehearsal.way_back and rehearsal.state_version < blueprint.state_version:
            self.step("way_back")
            self._try_way_back(implementation, rehearsal, state)
        return state

    def _try_way_back(self, implementation: Implementation, rehearsal: Rehearsal, state: Any) -> None:
        """See what its steps down lose, and what they make of the state: whoever has the older type sees whether it fits.

        The latter is not told where it is what it was, or too much to be looked at in a few milliseconds.
        """
        blueprint = implementation.blueprint
        try:
            down = find_chain(blueprint.steps, blueprint.state_version, rehearsal.state_version)
        except MigrationMissing:
            return  # the plan knows the steps of both versions, and has judged
        lower = migrate(state, down, PLAIN_STATE)
        self._lost = self._lost_going_back(implementation, rehearsal, state, lower, rehearsal.state_version)
        told = state_sample(lower, PLAIN_STATE)
        if not told.cuts and told.data != rehearsal.state:
            self._went_down = told.data

    def _copying_s(self, codec: StateCodec, state: bytes, rehearsal: Rehearsal) -> float | None:
        """How long the switch would take to copy a state that no step changes; None: it hands it on as it is."""
        if rehearsal.handed_on_as and rehearsal.handed_on_as == codec.handed_on_as:
            return None
        old = PLAIN_STATE.decode(state)
        return timed(lambda: migrate(old, [], codec), rehearsal.enough_ms / 1000)[1]

    def _go_back(self, implementation: Implementation, rehearsal: Rehearsal, state: Any, target: int) -> None:
        """Take a copy of the state down, timed, and see what that loses, and what the release that comes will start from."""
        self.step("way_back")
        blueprint = implementation.blueprint
        down = find_chain(blueprint.steps, blueprint.state_version, target)
        lower, took_s = timed(lambda: migrate(state, down, PLAIN_STATE), rehearsal.enough_ms / 1000)
        self._migration_s = took_s if down else None
        self._went_down = PLAIN_STATE.encode(lower)
        lost = self._lost_going_back(implementation, rehearsal, state, lower, target) if down else ()
        if rehearsal.tables_back_to:
            self.step("tables_back")
            self._tables_down = taken_down(implementation, rehearsal.tables, rehearsal.tables_back_to)
            of_tables = lost_below(implementation, rehearsal.tables, rehearsal.tables_back_to)
            lost = None if lost is None or of_tables is None else (*lost, *of_tables)
        self._lost = lost

    def _records(self, implementation: Implementation, rehearsal: Rehearsal) -> ModuleTables:
        """A sample of its tables' records, in its own shape."""
        self.step("tables")
        tables = rehearse_tables(implementation, rehearsal.tables)
        if rehearsal.way_back:
            self.step("tables_back")
            lost = lost_in_tables(implementation, tables, rehearsal.tables)
            if lost is not None:
                self._lost = (*(self._lost or ()), *lost)
                self._tables_down = changed_below(implementation, tables, rehearsal.tables)
        return tables

    def _lost_going_back(
        self, implementation: Implementation, rehearsal: Rehearsal, state: Any, lower: Any, target: int
    ) -> tuple[str, ...] | None:
        """What `up(down(state))` does not give back; None if there is no way down (the plan's to judge) or up again."""
        blueprint = implementation.blueprint
        try:
            down = find_chain(blueprint.steps, blueprint.state_version, target)
            up = find_chain(blueprint.steps, target, blueprint.state_version)
        except MigrationMissing:
            return None
        if not isinstance(state, Mapping):
            return None
        # Each field is tried with another value, which walks the whole state each time: of a large one a small one.
        large = len(rehearsal.state or b"") > WALKED_BYTES_MAX
        sample = implementation.first_state() if large else None
        return tuple(lost_going_down(state, blueprint.codec, down, up, sample=sample, lower=lower))

    def _same_version(self, implementation: Implementation, state: bytes, left_by: str) -> Any:
        """The state as it is, if the type still takes it."""
        try:
            return implementation.blueprint.codec.decode(state)
        except StateInvalid as error:
            if left_by:
                raise Unfit(
                    f"what the steps down of {left_by} make of the state does not fit the type of this one: {error.__cause__}"
                ) from None
            version = implementation.blueprint.state_version
            raise Unfit(
                f"the state of the version in service does not fit the type of this one: {error.__cause__}. "
                f"Give this one state_version = {version + 1}, and steps up and down"
            ) from None

    async def _hook(self, name: str, hook: Callable[[], Awaitable[None]]) -> bool:
        """Run one of the author's coroutines, and say where it waits if its time is over.

        False: it went as far as it could without a resource that only the version in service has open.
        """
        self.step(name)
        given = hook()
        if not inspect.isawaitable(given):
            raise Unfit(f"{name}() must be `async def`")
        task = asyncio.ensure_future(given)
        limits = self._request.limits
        limit_s = min(limits.load_s, limits.time_s) if name in LOADING else limits.time_s
        left_s = self._started + limit_s * 0.95 - time.monotonic()
        done, _ = await asyncio.wait({task}, timeout=max(0.01, left_s))
        if not done:
            frames = task.get_stack()
            where = f" ({self._place(frames[-1].f_code.co_filename, frames[-1].f_lineno)})" if frames else ""
            raise Unfit(
                f"{name}() did not end within {limit_name(name, limits)} = {limit_s:g} s, it still waits{where}"
            )
        try:
            await task
        except Exception as error:
            rehearsal = self._request.rehearsal
            if rehearsal is None or not rehearsal.open_keys or not _misses_resource(error):
                raise
            return False
        return True

    def _place(self, filename: str, line: int) -> str:
        return f"{filename.removeprefix(self._request.folder + os.sep)} line {line}"

    def failure(self, error: BaseException) -> Report:
        """Say what went wrong as a sentence, without holding on to what filled the memory."""
        place = author_line(error, self._loaded)
        said_by_us = {
            "migrate": StateInvalid,
            "tables": StateInvalid,
            "tables_back": StateInvalid,
            "resources": ModuleError,
        }.get(self._step)
        if said_by_us is not None and isinstance(error, said_by_us):
            text = f"{CALLS[self._step]}: {error}"
        elif isinstance(error, (Unfit, ModuleError)):
            text = str(error)
        else:
            said = "".join(traceback.format_exception_only(type(error), error)).strip()
            text = f"{CALLS.get(self._step, self._step)} raised {said} ({place})"
        traceback.clear_frames(error.__traceback__)
        if "MemoryError" in text:
            text += f"; the limit of a trial is {self._request.limits.memory_mb} MB"
        return Report(failed=self._loaded.public_name(text), seconds=self._seconds)


def _small(state: object) -> bytes | None:
    """The state as msgpack, unless it is too large to be told."""
    data = PLAIN_STATE.encode(state)
    return data if len(data) <= FIRST_STATE_BYTES_MAX else None
