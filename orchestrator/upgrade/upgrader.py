"""The upgrader: looks at the refs, makes a plan, runs its transactions one after the other (DESIGN §4, §7).

It is the shell around pure parts: `plan` decides, `UpgradeTransaction` acts, the ledger remembers; `Lookout` says when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.description import Description
from orchestrator.upgrade import words
from orchestrator.upgrade.agreement import Agreement
from orchestrator.upgrade.announcements import announcements
from orchestrator.upgrade.asked import Asked
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.candidate import Problem, candidate_of
from orchestrator.upgrade.causes import Cause, Causes
from orchestrator.upgrade.chronicle import Chronicle
from orchestrator.upgrade.damage import damage
from orchestrator.upgrade.errors import Fault, Overtaken, UpgradeError, VoteRefused
from orchestrator.upgrade.incoming import Incoming, KeptState
from orchestrator.upgrade.leaving import way_down
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.lookout import Lookout
from orchestrator.upgrade.noting import note_orders, note_tags
from orchestrator.upgrade.overrides import Override
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.plan import Group, Plan
from orchestrator.upgrade.planner import Outlook, Planner
from orchestrator.upgrade.probations import Probations
from orchestrator.upgrade.progress import Event, Progress
from orchestrator.upgrade.records import (
    Change,
    Entry,
    Lifted,
    OverrideEnded,
    Planned,
    Quarantined,
    RolledBack,
    Unchanged,
)
from orchestrator.upgrade.rehearsal import WayDown
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.retirements import Retirements
from orchestrator.upgrade.retries import Retries
from orchestrator.upgrade.reverting import go_back
from orchestrator.upgrade.rewired import Rewired, only_rewired
from orchestrator.upgrade.runner import Runner
from orchestrator.upgrade.shadow_words import why_not
from orchestrator.upgrade.something_else import something_else
from orchestrator.upgrade.source import Bring, incoming_release
from orchestrator.upgrade.tidying import Tidying
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from repo_store.manifest import ModuleManifest, TrialSection
from repo_store.release import APP, RefMap


class Upgrader(Lookout):
    """Keeps the application at what the refs ask for."""

    def __init__(
        self,
        app: Application,
        repository: Repository,
        planner: Planner,
        book: Book,
        trial: TrialSection,
        *,
        kept: dict[str, KeptState] | None = None,
        bring: Bring = incoming_release,
        shadows: bool = True,
    ) -> None:
        super().__init__(app.clock)
        self._bring = bring
        self.app = app
        self.repository = repository
        self.planner = planner
        self.book = book
        self.progress = Progress()
        self.probations = Probations(app, book, self.progress)
        self.probations.on_breach = self.look
        self.retries = Retries(app.clock.now)
        self.outlook = Outlook()  # what the last look found
        self._planned_with = book.ledger  # and what was recorded when it began
        self._trial = trial
        self._shadows = shadows  # whether this host shadows what asks for it
        self._kept = kept if kept is not None else {}  # state of modules that left, or could not come back
        self.asked = Asked()
        self._tidying = Tidying(repository, book.ledger)
        self._causes = Causes()
        self.damage = ""  # what of the tags and their releases the last look could not read
        self.chronicle = Chronicle(book, repository)
        self.retirements = Retirements(app)
        self.runner = Runner(app, book, self._kept, lambda left: self.retirements.begin(left))  # noqa: PLW0108  # whichever it then has
        self._refs: RefMap = {}  # as this look has read them
        self.first: Callable[[], Awaitable[None]] | None = None  # what a start could not do; before any plan

    @property
    def kept(self) -> Mapping[str, KeptState]:
        """The state of modules that are not loaded, for their return."""
        return MappingProxyType(self._kept)

    @property
    def doing(self) -> str:
        """What the transaction under way waits for, if that takes long."""
        return self.runner.running.doing if self.runner.running is not None else ""

    @property
    def switching(self) -> bool:
        """Whether the transaction under way has switched in memory, and its decision is not on disk yet (DESIGN P5)."""
        return self.runner.switching

    def told(self, tags: Sequence[str], cause: Cause) -> None:
        """Remember who moved these tags and why, for the records that they lead to."""
        self._causes.told(tags, cause)

    def told_of(self, moves: Mapping[str, str | None], cause: Cause) -> None:
        """Remember who moved these tags to where; what leads them elsewhere after that is not his."""
        pins = self.book.ledger.tags
        self._causes.told_of(moves, cause, {tag: pins[tag].object_id for tag in moves if tag in pins})

    def announced(self, moves: Mapping[str, str | None], cause: Cause) -> None:
        """Remember who is about to move these tags, for the record of that."""
        self._causes.announced(moves, cause)

    def _due(self) -> float | None:
        due = (self.retries.next_due, self.probations.next_due)
        return min((each for each in due if each is not None), default=None)

    async def stop(self) -> None:
        """Wait until the versions that left service have stopped; not for proof that they are gone."""
        await self.runner.stop()
        await self.retirements.stop()

    @property
    def _overtaken(self) -> bool:
        """Whether a person, or a probation, has said something since the plan was begun: it must be made anew (DESIGN §4).

        Else a release that was rolled back, held or disabled meanwhile would go live all the same, and one take over what
        has to go back first. What is still on its way to the disk counts: it comes before all that is recorded from now on.
        """
        return self.book.saying or _heeded(self._planned_with) != _heeded(self.book.ledger)

    # -- one look ----------------------------------------------------------------------------------------------

    async def _look(self, *, push_over: bool) -> None:
        await self._go_back()
        if self.first is not None:
            await self.first()
            self.first = None
        agreement = Agreement(self.repository, self.app.clock, lambda: self._settled_push)
        # Before the tags are read: a rollback writes its tags first, so what it says after that is not taken without them.
        self._planned_with = self.book.ledger
        refs = await agreement.refs(push_over=push_over)
        while True:
            self._refs = refs
            await self.book.flush()
            await note_tags(self.book, refs, self._causes)
            asked = self.asked.now()
            self.outlook = await self.planner.look(refs, self.book.ledger, asked.together, asked.by_hand)
            plan = self.outlook.plan
            await note_orders(self.book, self.outlook.admission, refs, self._causes)
            await self._end_overrides(self.outlook.overruled.ended, plan)
            self.retries.keep_only((*plan.ready, *plan.waiting, *plan.refused))
            if not await self._step(plan):
                break
            self._planned_with = self.book.ledger
            refs = await agreement.refs_again(refs)  # a tag moved meanwhile: the plan is made anew
        left = {tag for group in (*plan.ready, *plan.waiting) for tag in group.tags}
        self.asked.done(asked, refs.keys(), left)
        await self._tidying.look(self.book.ledger, self.outlook.candidates)
        self._note_damage()
        if not await self.chronicle.catch_up():
            self.look_again()

    def _note_damage(self) -> None:
        before, self.damage = self.damage, damage(self.outlook)
        if self.damage:
            self.look_again()
        if self.damage not in {"", before}:
            logger.warning("{}", self.damage)

    async def _go_back(self) -> bool:
        """Put back what breached its probation, before anything else: that asks neither the tags nor a plan."""
        due = self.probations.due()
        for view in due:
            await go_back(self, view)
        return bool(due)

    async def _step(self, plan: Plan) -> bool:
        """Do the first thing that can be done; False: there is nothing."""
        if await self._go_back() or self._overtaken:
            return True
        if plan.unchanged:
            await self._rename(plan.unchanged)
            return True
        for group in (*plan.refused, *plan.waiting):
            if group.overrides:  # its person waits for it now: it does not wait for better times
                why = group.refused.reason if group.refused is not None else group.waits
                await self._give_up(group, why)
                return True
        for group in plan.refused:
            problem = group.refused
            if problem is not None and self._may_begin(group):
                await self._refuse(group, problem)
                return True
        for group in plan.ready:
            if self._may_begin(group):
                await self._deploy(group)
                return True
        return False

    def _may_begin(self, group: Group) -> bool:
        """Not before its time, and not before the group whose outcome it starts from, a command for the same module."""
        table = self.book.ledger.table
        free = not self.probations.keeps(change.name for change in group.changes)
        return free and self.retries.due(group) and all(table.get(c.name) == c.before for c in group.changes)

    async def _end_overrides(self, ended: Sequence[tuple[Override, str]], plan: Plan) -> None:
        """Journal the overrides that hold no longer, and tell those whose tags ended them."""
        for override, why in ended:
            self.book.append(OverrideEnded(override.module, override.what, override.value, why))
            text = f"{override.module} was {override.said}; that is over: {why}"
            logger.info(text)
            for group in plan.ready:
                if any(change.name == override.module for change in group.changes):
                    self.progress.tell(Event(group.tags, "override ended", text))
        await self.book.flush()

    async def _give_up(self, group: Group, reason: str) -> None:
        """A command that did not go live: what it replaced holds again, and nothing is tried again on its own."""
        for override in group.overrides:
            why = f"did not go live: {reason}"
            self.book.append(
                OverrideEnded(override.module, override.what, override.value, why, restores=True)
            )
        await self.book.flush()
        logger.warning("{} did not go live: {}", " ".join(group.tags), reason)

    # -- what a look can lead to -------------------------------------------------------------------------------

    async def _rename(self, changes: Sequence[Change]) -> None:
        """The tags select what is in service already, or is not loaded: recorded, not swapped."""
        txn = self.book.ledger.next_txn
        await self.book.write(Unchanged(txn, tuple(changes), "tags", "refs"))
        said: dict[str, list[str]] = {}
        for change in changes:
            if change.after is not None:
                said.setdefault(words.row_text(change), []).append(change.after.tag)
        for text, tags in said.items():
            self.progress.tell(Event(tuple(tags), "unchanged", text, txn))

    async def _refuse(self, group: Group, problem: Problem) -> None:
        """A release that cannot even be loaded: recorded as a transaction that never began to switch."""
        txn = self.book.ledger.next_txn
        if not group.changes:  # a composition that cannot be read: there is no transaction to speak of
            await self._quarantine(group, problem.reason)
            return
        await self.book.write(self._planned(group, txn, self._causes.of(group)))
        await self.book.write(RolledBack(txn, problem.reason, problem.fault))
        await self._after_failure(group, problem.reason, problem.fault, txn)

    async def _deploy(self, group: Group) -> None:
        """Run one group as one transaction."""
        txn = self.book.ledger.next_txn
        with logger.contextualize(txn=txn):
            await self.repository.keep(
                {e.commit_id for c in group.changes for e in (c.before, c.after) if e is not None}
            )
            if self._overtaken:
                return
            try:
                participants = [self._participant(change) for change in group.changes]
            except UpgradeError as error:
                await self._refuse(group, Problem(str(error), "release"))
                return
            cause = self._causes.of(group)
            planned = self._planned(group, txn, cause)
            self._say_loudly(group, txn)
            transaction = UpgradeTransaction(
                self.app,
                planned,
                participants,
                self.book,
                why=cause.why,
                report=lambda phase, text: self._report(group, txn, phase, text),
                overtaken=lambda: self._overtaken,
                otherwise=lambda: something_else(
                    self, self.repository, group, self._refs, lambda: self._overtaken
                ),
                on_probation=lambda: self.probations.begin(txn),
            )
            try:
                outcome = await self.runner.run(transaction, participants)
            except Overtaken:
                return
            await self._after(group, outcome, cause)

    def _planned(self, group: Group, txn: int, cause: Cause) -> Planned:
        asked = tuple(override.key for override in group.overrides)
        app = self.outlook.tags.get(APP)
        composed = (
            (app.tag.name, app.commit_id or "") if app is not None and app.tag.name in group.tags else None
        )
        tags = " ".join(group.tags)
        return Planned(txn, group.changes, tags, cause.who, cause.reverts, asked, composed, cause.why)

    def _participant(self, change: Change) -> Participant:
        reason = words.why_out(change, self.book.ledger.overrides)
        if only_rewired(self.app, change):
            return Rewired(self.app, change, reason)
        participant = Participant(
            self.app, change, self._incoming(change), self._kept.get(change.name), reason
        )
        candidate = self.outlook.candidates.get(change.name)
        described = candidate.description if candidate is not None else None
        participant.way_down = self.way_down(change, described)
        return participant

    def way_down(self, change: Change, description: Description | None) -> WayDown | None:
        """What its trial needs if what it keeps goes down with it."""
        return way_down(self.app, self.repository, change, description, trial=self._trial, bring=self._bring)

    def _incoming(self, change: Change) -> Incoming | None:
        if change.after is None:
            return None
        candidate = candidate_of(change, self.outlook.candidates)
        if candidate is None or candidate.folder is None:
            # No code serves as another release, nor an old one as the new, even if the plan is wrong.
            raise VoteRefused(f"{change.name}: {change.after.tag} is not what is staged for it")
        incoming = self.bring_in(candidate.folder, change.after, candidate.manifest)
        return replace(incoming, unshadowed=why_not(change, self.book.ledger, host=self._shadows))

    def bring_in(self, folder: Path, entry: Entry, manifest: ModuleManifest) -> Incoming:
        """What a staged release brings into service. Raises VoteRefused."""
        incoming = self._bring(folder, entry, manifest, self._trial)
        self.app.secrets.learn(entry.config, incoming.config)
        return incoming

    async def _after(self, group: Group, outcome: Outcome, cause: Cause) -> None:
        if outcome.result == "committed":
            self._causes.spent(group, cause)
            self.retries.forget(group)
            text = words.live(group.changes, outcome.pause)
            logger.info(text)
            self.forget_kept(group.changes)
            self.announce(group)
        elif outcome.result == "in_doubt":
            raise self.book.in_doubt(outcome.txn, group.tags, outcome.reason)
        else:
            await self._after_failure(group, outcome.reason, outcome.fault or "moment", outcome.txn)

    async def _after_failure(self, group: Group, reason: str, fault: Fault, txn: int) -> None:
        """Quarantine what is at fault; try again what only failed in this moment; a command is given up."""
        if group.overrides:
            await self._give_up(group, reason)
            self.progress.tell(Event(group.tags, "rolled back", "every module is as it was", txn))
            if not group.keys:
                return
        if fault == "moment" or not group.keys:  # nobody is to blame for what brings no code
            delay = self.retries.failed(group, reason, fault)
            if delay is not None:
                text = f"{words.failed(group, reason, fault, self.outlook.refs)} Next try in {delay:g} s."
                logger.warning(text)
                self.progress.tell(Event(group.tags, "retry", text, txn))
                return
        text = words.failed(group, reason, "release", self.outlook.refs)
        logger.warning(
            text
        )  # of what has no keys it is the last word: it rests until the plan is another one
        await self._quarantine(group, reason)
        self.progress.tell(Event(group.tags, "rolled back", "every module is as it was", txn))

    async def _quarantine(self, group: Group, reason: str) -> None:
        paste = group.refused.paste if group.refused is not None else ""
        for package, commit_id in group.keys:
            tag = next((t for t in group.tags if t.startswith(f"{package}/")), "".join(group.tags[:1]))
            self.book.append(Quarantined(package, commit_id, tag, reason, paste=paste))
        await self.book.flush()

    async def lift(self, keys: Sequence[tuple[str, str]], who: str, why: str) -> None:
        """Give quarantined commits another chance (`livetag retry`)."""
        for package, commit_id in keys:
            self.book.append(Lifted(package, commit_id, who, why))
        await self.book.flush()
        self.look(push_over=True)

    def _say_loudly(self, group: Group, txn: int) -> None:
        """What does not stop the change, and must not go by unread: what a way back breaks."""
        for check in group.checks:
            if check.ok and check.loud:
                logger.warning(check.why)
                self.progress.tell(Event(group.tags, "note", f"{check.why}.", txn))

    def _report(self, group: Group, txn: int, phase: Phase, text: str) -> None:
        logger.debug("transaction {}: {}", txn, text)
        quiet = not any(change.brings_code for change in group.changes)  # done before one could read of it
        if phase in {Phase.PLANNED, Phase.PREPARED} and not (group.overrides and quiet):
            self.progress.tell(Event(group.tags, phase.value, text, txn))

    def forget_kept(self, changes: Sequence[Change]) -> None:
        """What serves again has what was kept for it; the transaction has recorded that."""
        for change in changes:
            if change.after is not None:
                self._kept.pop(change.name, None)

    def announce(self, group: Group) -> None:
        """Tell the other modules, after COMMITTED (DESIGN §4)."""
        for change in group.changes:
            for body in announcements(change):
                self.app.announce(f"livetag.modules.{change.name}", body)


def _heeded(ledger: Ledger) -> tuple[object, ...]:
    """What a plan must heed. A breach need not show in the quarantine: a person may have put all of it there before."""
    breached = {view.id for view in ledger.going_back}
    return ledger.quarantine, ledger.holds, ledger.overrides, breached
