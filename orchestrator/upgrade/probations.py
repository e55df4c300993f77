"""The probations under way: watched once a second by the injected clock, and told how they end (DESIGN §7.7).

What is in probation is in the journal; what was seen of it is in memory alone, so a start of the host watches anew from zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.clock import sleep_until
from orchestrator.runtime.figures import Terms
from orchestrator.upgrade import words
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.crash_loop import key_of
from orchestrator.upgrade.errors import Fault, JournalFailed
from orchestrator.upgrade.ledger import TransactionView
from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.probation import Backlog, Judgement, Signs, judge, together
from orchestrator.upgrade.progress import Event, Progress
from orchestrator.upgrade.records import Breached, Confirmed, Degraded, Fact, Inconclusive, Lifted
from orchestrator.upgrade.retries import DELAYS_S
from orchestrator.upgrade.self_testing import SelfTesting
from orchestrator.upgrade.unproven import at_fault, unproven
from repo_store.failpoints import step
from repo_store.release import APP

LOOK_S = 1.0
BEGUN = Judgement("watching", "it has just begun")
NOT_LOADED = Judgement("watching", "it is not loaded, so there is nothing to judge")


@dataclass(slots=True)
class _Watch:
    """What was seen of one probation since this host began to watch it. Times: of the clock, and of the day."""

    began_s: float
    since: float
    modules: tuple[str, ...]
    backlogs: dict[str, Backlog] = field(default_factory=dict)
    judgement: Judgement = BEGUN  # until the first look


@dataclass(slots=True)
class _Tries:
    """How often a way back failed for a reason of the moment, and when it is due again, by the clock."""

    failed: int = 0
    due: float = 0.0


class Probations:
    """Watches what was committed and not confirmed yet, and records what came of it."""

    def __init__(self, app: Application, book: Book, progress: Progress) -> None:
        self._app = app
        self._book = book
        self._progress = progress
        self._watches: dict[int, _Watch] = {}
        self._tests = SelfTesting(app)
        self._recording = asyncio.Lock()
        self._waiting: list[asyncio.Future[None]] = []
        self._tries: dict[int, _Tries] = {}
        self.on_breach: Callable[[], object] = lambda: None

    # -- begin and end of a watch -------------------------------------------------------------------------------

    def begin(self, txn: int) -> bool:
        """Watch what a transaction has brought, and what it took over; False: there is nothing to prove."""
        view = self._book.ledger.transactions[txn]
        modules = unproven(self._book.ledger, view, self._terms())
        for name in view.probation:
            if name not in modules and name in self._app.modules:
                self._app.modules[name].vitals.passed()
        if modules:
            self._watch(view, modules)
        return bool(modules)

    def resume(self) -> None:
        """Watch anew, from zero, what an earlier run of the host left in probation; nothing else is watched."""
        views = self._book.ledger.in_probation
        for view in views:
            self._watch(view, unproven(self._book.ledger, view, self._terms()))
        watched = {name for watch in self._watches.values() for name in watch.modules}
        for name, proxy in self._app.modules.items():
            if name not in watched:
                proxy.vitals.passed()

    def _watch(self, view: TransactionView, modules: tuple[str, ...]) -> None:
        clock = self._app.clock
        watch = self._watches[view.id] = _Watch(clock.now(), clock.wall(), modules)
        for name in modules:
            if name in self._app.modules:
                mailbox = self._app.modules[name].mailbox
                watch.backlogs[name] = Backlog(len(mailbox), mailbox.limit, len(mailbox))

    def _terms(self) -> Mapping[str, Terms]:
        return {name: proxy.vitals.terms for name, proxy in self._app.modules.items()}

    # -- watching -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look once a second, until it is cancelled."""
        try:
            while True:
                await sleep_until(self._app.clock, self._app.clock.now() + LOOK_S)
                await self._look_safely()
        finally:
            self._tests.stop()

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except JournalFailed as error:  # said by whoever meets it first; nothing is recorded any more
            logger.debug("what came of a probation cannot be recorded: {}", error)
        except Exception:  # noqa: BLE001  # a bug in one look must not end the watch
            logger.exception("a look at what is in probation failed")

    async def look(self) -> None:
        """Judge what is in probation now."""
        views = {view.id: view for view in self._book.ledger.in_probation}
        for txn in [txn for txn in self._watches if txn not in views]:
            del self._watches[txn]  # taken over, or confirmed by a person
        self._tests.keep_only({name for watch in self._watches.values() for name in watch.modules})
        for txn, watch in list(self._watches.items()):
            view = views[txn]
            if view.breach is None:
                watch.judgement = self._judged(view, watch)
                await self._record(view, watch.judgement)

    def _judged(self, view: TransactionView, watch: _Watch) -> Judgement:
        over = view.inconclusive is not None
        elapsed_s = self._app.clock.now() - watch.began_s if not over else float("inf")
        return together({name: self._judge(name, watch, elapsed_s) for name in watch.modules})

    def _judge(self, name: str, watch: _Watch, elapsed_s: float) -> Judgement:
        proxy = self._app.modules.get(name)
        if proxy is None or proxy.implementation is None:
            return NOT_LOADED
        mailbox, vitals = proxy.mailbox, proxy.vitals
        backlog = watch.backlogs.get(name, Backlog()).after(len(mailbox), mailbox.limit)
        if proxy.resting is not None:  # it is disabled: what waits for it is no fault of it
            backlog = Backlog(len(mailbox), mailbox.limit, len(mailbox))
        watch.backlogs[name] = backlog
        unfit, untested = self._tests.look(proxy)
        return judge(Signs(vitals.terms, vitals.figures, vitals.before, elapsed_s, backlog, unfit, untested))

    # -- what came of it ----------------------------------------------------------------------------------------

    async def _record(self, view: TransactionView, judgement: Judgement) -> None:
        if judgement.word == "passed":
            text = "; ".join((f"passed: {judgement.reason}", *judgement.notes))
            await self._confirm(view.id, text)
        elif judgement.word == "breach":
            await self._breach(view, judgement)
        elif judgement.word == "inconclusive" and view.inconclusive is None:
            await self._inconclusive(view, judgement.reason)

    async def _confirm(self, txn: int, judged: str) -> bool:
        """Record that a probation ended well; False: it was over already."""
        async with self._recording:
            await self._book.flush()
            view = self._in_probation(txn)
            if view is None:
                return False
            with step("probation.confirmed"):
                await self._book.write(Confirmed(txn, view.reason, judged))
        self._watches.pop(txn, None)
        for name in view.probation:
            if name in self._app.modules:
                self._app.modules[name].vitals.passed()
        self._tell(view, "confirmed", judged)
        return True

    async def _inconclusive(self, view: TransactionView, reason: str) -> None:
        if await self._found("inconclusive", Inconclusive(view.id, reason)):
            self._tell(view, "inconclusive", words.inconclusive(reason, view.probation))

    async def _breach(self, view: TransactionView, judgement: Judgement) -> None:
        """Quarantine what the probation brought, and have it go back; if there is no way, a person is called."""
        reason = "; ".join((judgement.reason, *judgement.notes))
        one_way = [name for name in view.probation if self._is_one_way(name)]
        facts: list[Fact] = [Breached(view.id, reason)]
        if one_way:
            why = f"{words.listed(one_way)} has one_way = true, so there is no way back: {reason}"
            facts += [Degraded(view.id, why)]
        else:
            facts = [*at_fault(self._book.ledger, view, reason), *facts]
        if not await self._found("breached", *facts):
            return
        phase = "degraded" if one_way else "breach"
        self._tell(view, phase, words.breach(reason, view.probation, back=not one_way))
        if not one_way:
            self.on_breach()

    def _is_one_way(self, name: str) -> bool:
        proxy = self._app.modules.get(name)
        return proxy is not None and proxy.vitals.terms.one_way

    async def _found(self, what: str, *facts: Fact) -> bool:
        """Record what was found of a probation, in one write; False: it was over already."""
        txn = next(fact.txn for fact in facts if isinstance(fact, (Inconclusive, Breached, Degraded)))
        async with self._recording:
            await self._book.flush()
            if self._in_probation(txn) is None:
                return False
            with step(f"probation.{what}"):
                for fact in facts:
                    self._book.append(fact)
                await self._book.flush()
        return True

    # -- the way back -------------------------------------------------------------------------------------------

    def keeps(self, names: Iterable[str]) -> bool:
        """Whether one of these modules is about to go back: nothing else is done with it before."""
        return not {name for view in self._book.ledger.going_back for name in view.probation}.isdisjoint(
            names
        )

    def due(self) -> list[TransactionView]:
        """Those whose way back is to be tried now."""
        now = self._app.clock.now()
        return [
            view for view in self._book.ledger.going_back if self._tries.get(view.id, _Tries()).due <= now
        ]

    @property
    def next_due(self) -> float | None:
        """When the next way back is to be tried; None: there is none."""
        return min(
            (self._tries.get(view.id, _Tries()).due for view in self._book.ledger.going_back), default=None
        )

    def reverted(self, view: TransactionView, text: str) -> None:
        """Tell that what breached its probation has gone back."""
        self._tries.pop(view.id, None)
        self._tell(view, "reverted", text)

    async def failed(self, view: TransactionView, reason: str, fault: Fault) -> None:
        """A way back has failed: it is tried again if that was of the moment; else what is in service serves on, degraded."""
        tries = self._tries.setdefault(view.id, _Tries())
        if fault != "release" and tries.failed < len(DELAYS_S):
            delay = DELAYS_S[tries.failed]
            tries.failed, tries.due = tries.failed + 1, self._app.clock.now() + delay
            logger.warning("{}", words.way_back_failed(view, reason, delay))
            return
        why = f"it was to go back, and could not: {words.sentence(reason)} It breached its probation"
        why = f"{why}: {view.breach.reason}" if view.breach is not None else why
        # It serves on, so the tags must go on asking for it: else the next look would try the same once more.
        keys = [key_of(e) for name in view.probation if (e := self._book.ledger.table.get(name)) is not None]
        app = self._book.ledger.app
        keys += [(APP, app[1])] if app is not None else []
        lifted = [
            Lifted(*key, IN_PROBATION, "it serves on") for key in keys if key in self._book.ledger.quarantine
        ]
        if await self._found("degraded", *lifted, Degraded(view.id, why)):
            self._tell(view, "degraded", words.degraded(why, view.probation))

    def _in_probation(self, txn: int) -> TransactionView | None:
        return next((view for view in self._book.ledger.in_probation if view.id == txn), None)

    def _tell(self, view: TransactionView, phase: str, text: str) -> None:
        level = {"breach": "WARNING", "degraded": "ERROR"}.get(phase, "INFO")
        logger.log(level, "transaction {}, {}: {}", view.id, phase, text)
        self._progress.tell(Event(tuple(view.trigger.split()), phase, text, view.id))
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    # -- for others ---------------------------------------------------------------------------------------------

    async def next_news(self) -> None:
        """Return when something has come of a probation."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        try:
            await news
        finally:
            if news in self._waiting:  # nobody waits for it any more
                self._waiting.remove(news)

    async def confirm(self, module: str, judged: str) -> TransactionView | None:
        """A person ends the probation that a module is in; returns its transaction, None: it is in none."""
        view = self.of(module)
        return view if view is not None and await self._confirm(view.id, judged) else None

    @property
    def watched(self) -> Mapping[str, float]:
        """The modules that are watched, and for how many seconds each."""
        names = {name for watch in self._watches.values() for name in watch.modules}
        modules = self._app.modules
        return {name: modules[name].vitals.terms.seconds for name in names if name in modules}

    def undecided(self, tags: Iterable[str]) -> bool:
        """Whether it is still to come what becomes of a probation that one of these tags has led to."""
        mine = set(tags)
        return any(
            view.inconclusive is None and view.degraded is None and not mine.isdisjoint(view.trigger.split())
            for view in self._book.ledger.in_probation
        )

    def of(self, module: str) -> TransactionView | None:
        """The transaction whose probation covers the module."""
        return next((view for view in self._book.ledger.in_probation if module in view.probation), None)

    def facts(self, module: str) -> dict[str, Any] | None:  # Any: JSON
        """What `status` shows of a module that is watched; None: it is not."""
        view = self.of(module)
        watch = self._watches.get(view.id) if view is not None else None
        proxy = self._app.modules.get(module)
        if view is None or watch is None or module not in watch.modules or proxy is None:
            return None
        figures, found = proxy.vitals.figures, view.degraded or view.breach or view.inconclusive
        return {
            "txn": view.id,
            "since": watch.since,
            "seconds": proxy.vitals.terms.seconds,
            "messages": figures.units,
            "errors": figures.failed,
            "p99_ms": figures.p99_ms,
            "verdict": _word(view),
            "reason": found.reason if found is not None else watch.judgement.reason,
            "at": found.at if found is not None else None,
            "notes": list(watch.judgement.notes),
        }


def _word(view: TransactionView) -> str:
    if view.degraded is not None:
        return "degraded"
    if view.breach is not None:
        return "breach"
    return "watching" if view.inconclusive is None else "inconclusive"
