"""The host process: one deployment, its modules, its upgrader and its control socket, from start to stop (DESIGN §9)."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial

from loguru import logger

from orchestrator.control.config import Deployment, load_config
from orchestrator.control.environment import host_environment
from orchestrator.control.lock import DeploymentInUse, only_host
from orchestrator.control.logs import hide_in_logs
from orchestrator.control.operations import Operations
from orchestrator.control.outlast import run_to_its_end
from orchestrator.control.pools import threads_left
from orchestrator.control.server import ControlServer, SocketTaken, check_place
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.clock import sleep_until, within
from orchestrator.runtime.collecting import freeze_the_living
from orchestrator.runtime.errors import ModuleError, Overrun, QuiesceTimeout
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.watchdog import Watchdog
from orchestrator.upgrade.alarm import stepwise
from orchestrator.upgrade.black_box import BlackBox
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.crash_row import crash_row
from orchestrator.upgrade.durable_store import DurableStore
from orchestrator.upgrade.errors import JournalFailed, UpgradeError
from orchestrator.upgrade.gate import Gate
from orchestrator.upgrade.image import newest_id, take_image
from orchestrator.upgrade.journal import Journal, ModuleImage
from orchestrator.upgrade.needed import needed_commits, needed_trees
from orchestrator.upgrade.planner import Planner
from orchestrator.upgrade.records import Fact, HostStopped, ImageSaved, Served, Settled
from orchestrator.upgrade.recovery import Recovered, bring_back, close_the_past
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.rolling_back import go_on_with_rollback
from orchestrator.upgrade.source import Bring, incoming_release, unwatched
from orchestrator.upgrade.trial import describe
from orchestrator.upgrade.trial_keepers import Keepers
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.errors import StoreError
from repo_store.failpoints import FailpointsRefused, arm, step
from repo_store.manifest import HostConfig
from repo_store.monitor import TagMonitor

SWITCH_INTERVAL_S = 0.00001  # a saturated loop must not starve the journal's thread; see runtime/give_way
STOP_S = 2.0  # for each module's stop()
SERVED_S = 1.0  # the shortest time after which a switch is said to have lasted
_ARMED = "failpoints are ON: this host dies and fails on purpose, as its file failpoints says; it is for tests only"
_THREADS_LEFT = (
    "the host ends without these threads of its modules, which still run {1:g} s after stop(): {0}. What is given to "
    "asyncio.to_thread() should end by itself"
)
_NOT_NOTED = (
    "that what serves has lasted could not be recorded, so that a death of this host counts as one right after its "
    "start: {}"
)


def run(deployment: Deployment, without: Collection[str] = ()) -> int:
    """Run the host until SIGTERM, SIGINT or a stop command; returns the exit code: 0 stopped, 1 could not run.

    The modules `without` are not loaded; their state and messages are kept.
    Side effects: takes the deployment's lock, journal and socket. After `livetag restart` the process becomes a new host.
    """
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _allow_many_files()
    try:
        if arm(deployment.path, os.environ):
            logger.warning(_ARMED)
        with only_host(deployment.path / "host.lock"):
            code, again = run_to_its_end(_Host(deployment, load_config(deployment), without).main())
    except (
        DeploymentInUse,
        SocketTaken,
        Refused,
        FailpointsRefused,
        UpgradeError,
        StoreError,
        OSError,
    ) as error:
        logger.error("{}", error)
        return 1
    left = threads_left(STOP_S)
    if left:
        logger.warning(_THREADS_LEFT, ", ".join(left), STOP_S)
    if again:
        logger.info("starting again")
        os.execv(sys.executable, [sys.executable, "-m", "livetag", *sys.argv[1:]])  # noqa: S606
    if left:
        logger.remove()  # all of it is written
        os._exit(code)  # Python would wait for them without end
    return code


def _allow_many_files() -> None:
    """Take as many descriptors as the machine gives: a gateway holds thousands, and shells start us with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Host:
    """What one run of a host holds."""

    def __init__(self, deployment: Deployment, config: HostConfig, without: Collection[str] = ()) -> None:
        self._without = frozenset(without)
        self._deployment = deployment
        self._config = config
        self._stop = asyncio.Event()
        self._restart = False
        self._exit_code = 0
        self._saving = False
        self._box = BlackBox(deployment.black_box)
        self._offers = host_environment()
        self._keepers = Keepers()

    async def main(self) -> tuple[int, bool]:
        """Start, serve, stop; returns the exit code, and whether to start again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        journal = Journal.open(self._deployment.journal, time.time)
        try:
            await self._serve(Book(journal, self._box))
        finally:
            self._keepers.close()
            self._box.close()
            await in_own_thread(journal.close)
        return self._exit_code, self._restart

    async def _serve(self, book: Book) -> None:
        check_place(self._deployment.socket, self._config.control.group)
        self._check_without(book)
        # A checkout that was never installed has no version.
        close_the_past(book, self._offers.distributions.get("livetag", "0"), self._box.last(), self._box.run)
        row = crash_row(book.ledger, self._config.host.settle_s, host_runs=True)
        if row is not None:
            logger.error("{}. {}", row.what, row.todo)
        self._box.begin()
        images, stored = book.journal.load_images(), book.journal.load_stored()
        repository = Repository(
            self._deployment.store,
            self._deployment.stage,
            partial(describe, trial=self._config.trial, keepers=self._keepers),
            lambda: book.ledger.tags,
        )
        await repository.open()
        await repository.sweep(needed_trees(book.ledger))  # also what a kill left half staged
        await repository.let_go(needed_commits(book.ledger))
        # Microseconds of the day it starts: ids go on above those of a run that was killed, too.
        newest = max(newest_id(images), stored.newest_id)
        app = Application(
            first_message_id=max(newest + 1, int(time.time() * 1e6)), ahead=DurableStore(book.journal)
        )
        book.hide = app.secrets.hide
        hide_in_logs(app.secrets.hide)
        app.ownership.begin()  # from before the first prepare(): no task of a module may end the host
        bring = partial(incoming_release if self._config.host.probation else unwatched, keepers=self._keepers)
        recovered = await bring_back(
            app,
            book,
            repository,
            images,
            self._config.trial,
            self._box,
            bring,
            stored=stored,
            without=self._without,
        )
        try:
            await self._serve_on(app, book, repository, recovered, bring)
        except BaseException:
            if not self._saving:  # the image of the last stop is used: what came back with it would be lost
                await self._save(app, book)
            raise

    async def _serve_on(
        self, app: Application, book: Book, repository: Repository, recovered: Recovered, bring: Bring
    ) -> None:
        """What came back serves already; take commands and look at the tags, too, until the host is to stop."""
        beside = [asyncio.ensure_future(self._settle(app, book))]
        await in_own_thread(freeze_the_living)
        prereleases = self._config.host.prereleases
        strict = self._config.policy.mode == "strict"
        gate = Gate(self._deployment.path, prereleases=prereleases) if strict else None
        planner = Planner(app, repository, self._offers, prereleases=prereleases, gate=gate)
        upgrader = Upgrader(
            app,
            repository,
            planner,
            book,
            self._config.trial,
            kept=recovered.kept,
            shadows=self._config.host.shadow,
            bring=bring,
        )
        await go_on_with_rollback(upgrader)
        operations = Operations(app, upgrader, self._config, recovered.failed, self._ask_to_stop)
        server = ControlServer(
            self._deployment.socket,
            operations.table(),
            group=self._config.control.group,
            hide=app.secrets.hide,
        )
        await server.start()
        upgrader.probations.resume()
        running = asyncio.ensure_future(upgrader.run())
        beside += map(asyncio.ensure_future, (upgrader.probations.run(), self._keepers.run(app.clock)))
        monitor = self._watch(upgrader)
        watchdog = Watchdog(self._config.host.stall_s, app)
        watchdog.start()
        logger.info("host {} serves {} modules from {}", os.getpid(), len(app.modules), self._deployment.path)
        try:
            await self._stop.wait()
            logger.info("stopping: draining {} modules", len(app.modules))
        finally:
            await in_own_thread(monitor.stop)
            await upgrader.leave(running)
            for each in beside:
                each.cancel()
            await server.close()
            await self._save(app, book)
            watchdog.stop()
            await upgrader.stop()
            await repository.close()

    def _check_without(self, book: Book) -> None:
        """Refuse to start if a module that is to be left out is not there; nothing was recorded then."""
        unknown = ", ".join(sorted(self._without - set(book.ledger.table)))
        if unknown:
            there = ", ".join(sorted(book.ledger.table)) or "none"
            raise UpgradeError(
                f"The host was not started: --without names {unknown}, and the modules in service are: {there}. "
                "Name one of those, or none."
            )

    async def _settle(self, app: Application, book: Book) -> None:
        """Record that what the host started with does not end it, once it has served for a while, and later switches too."""
        seen = book.ledger.next_txn
        began = {n: e for n, e in book.ledger.table.items() if n not in _not_loaded(app, book)}
        await sleep_until(app.clock, app.clock.now() + self._config.host.settle_s)
        self._box.unwatch()
        try:
            # What came a moment ago has lasted through no start, and what could not be loaded through none either.
            others = (n for n, e in book.ledger.table.items() if began.get(n) != e)
            with step("recovery.settled"):
                await book.write(Settled(tuple(sorted(others))))
            await self._note_what_served(app, book, seen)
        except Exception as error:  # noqa: BLE001 - whatever it was, the host serves on, and nobody else would say it
            logger.opt(exception=not isinstance(error, JournalFailed)).error(_NOT_NOTED, error)

    async def _note_what_served(self, app: Application, book: Book, seen: int) -> None:
        """Record that what was switched in lasts, whenever nothing was switched for a while; `seen`: the next transaction."""
        while True:
            before = book.ledger.next_txn
            await sleep_until(app.clock, app.clock.now() + max(self._config.host.settle_s, SERVED_S))
            now = book.ledger.next_txn
            if before == now != seen and book.ledger.unfinished is None:
                await book.write(Served(_not_loaded(app, book)))
                seen = now

    def _watch(self, upgrader: Upgrader) -> TagMonitor:
        """Look whenever the tags may have moved. The monitor calls from a thread of its own."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            with suppress(RuntimeError):  # the loop was closed: the host has stopped
                loop.call_soon_threadsafe(upgrader.look)

        # The upgrader reads the tags itself, so it is asked to look though they are as the monitor last told them.
        monitor = TagMonitor(self._deployment.store, lambda _before, _after: None, on_look=look)
        monitor.start()
        return monitor

    def _ask_to_stop(self, *, restart: bool) -> None:
        self._restart = restart
        self._stop.set()

    async def _save(self, app: Application, book: Book) -> None:
        """Bring every module to a boundary, save state and mailboxes, then let the modules stop."""
        self._saving = True
        for proxy in app.modules.values():
            proxy.stop_input()
        await asyncio.gather(*(proxy.intakes.stop() for proxy in app.modules.values()))
        clean, images = await self._quiet(app, book)
        with step("stop.image"):
            saved = self._write(book, ImageSaved(tuple(sorted(image.name for image in images))), images)
        for proxy in app.modules.values():
            await proxy.close("the host stopped")
        for proxy in app.modules.values():
            if proxy.implementation is not None:
                with suppress(TimeoutError, Overrun, ModuleError):
                    await within(app.clock, stepwise(proxy.implementation.stop(), STOP_S), STOP_S)
            for letting_go in (proxy.intakes.sources.close(), proxy.resources.close()):
                with suppress(TimeoutError, Overrun, ModuleError):
                    await within(app.clock, stepwise(letting_go, STOP_S), STOP_S)
        with step("stop.stopped"):
            stopped = saved and self._write(book, HostStopped(clean))
        if stopped:
            durable = sum(proxy.keeps for proxy in app.modules.values())  # theirs is on disk all the time
            kept = durable + len([image for image in images if image.name in app.modules])
            logger.info("stopped: state and mailboxes of {} of {} modules are saved", kept, len(app.modules))

    def _write(self, book: Book, fact: Fact, images: Sequence[ModuleImage] = ()) -> bool:
        """Whether the fact is on disk. A journal that fails must not keep the modules from stopping."""
        try:
            book.write_now(fact, images)
        except JournalFailed as error:
            self._exit_code = 1
            logger.error("stopped without saving state and mailboxes: {}", error)
            return False
        return True

    async def _quiet(self, app: Application, book: Book) -> tuple[bool, list[ModuleImage]]:
        """The image at a moment between units; if none comes in time, the units under way are cut."""

        def image(_quiesce: object) -> list[ModuleImage]:
            return take_image(app, book.ledger.table)

        quiesce = Quiesce(
            app, list(app.modules.values()), image, drain_s=self._config.host.drain_s, patience_s=0.0
        )
        try:
            return True, await quiesce.run()
        except QuiesceTimeout as error:
            logger.warning("the host stops without a clean boundary: {}", error)
            for proxy in app.modules.values():
                await proxy.close("the host stopped")
            return False, take_image(app, book.ledger.table)


def _not_loaded(app: Application, book: Book) -> tuple[str, ...]:
    """The modules of the table of which no code is loaded: they could not come back."""
    return tuple(sorted(n for n in book.ledger.table if n not in app.modules))
