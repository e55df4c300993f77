"""The start of a host: what the journal's last records say is what comes back (DESIGN §7).

COMMITTED is the only decision: a transaction without it never happened. Doing this twice gives the same.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import MigrationMissing, ModuleError, error_text
from orchestrator.upgrade import words
from orchestrator.upgrade.alarm import interrupt_after
from orchestrator.upgrade.black_box import BlackBox, Evidence
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.crash_loop import (
    fatal_releases,
    key_of,
    not_loaded,
    put_back_from,
    start_died,
    ways_back,
)
from orchestrator.upgrade.durable_rows import Stored
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.image import LETTERS, kept_state, restore_letters, stored_state
from orchestrator.upgrade.incoming import Code, Incoming, KeptState
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.noted import AFTER_DEATHS
from orchestrator.upgrade.overrides import Override, OverrideKey
from orchestrator.upgrade.participant import STALL_S, Participant
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    HostStarted,
    ImageUsed,
    Planned,
    Prepared,
    Quarantined,
    Record,
    RolledBack,
    StartDied,
)
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.source import Bring, incoming_release
from orchestrator.upgrade.transaction_view import TransactionView
from orchestrator.upgrade.unproven import at_fault, changes_back, composition_back, ended_the_host, unproven
from orchestrator.upgrade.wiring import next_wiring
from repo_store.errors import StoreError
from repo_store.failpoints import step
from repo_store.manifest import TrialSection

NOTHING_STORED = Stored()


def close_the_past(book: Book, version: str, evidence: Evidence | None = None, run: str = "") -> None:
    """Record the start, roll back what a death left unfinished, quarantine what ended the host twice, and put back.

    All of it before any module code is loaded, so that a release that ends the host at import is counted too.
    `evidence` is what the host before this one was doing, `run` the id of this run.
    """
    before = book.ledger
    if evidence is not None and not evidence.copied and evidence.recorded > before.seq:
        logger.error("{}", words.lost_end(before.seq, evidence.recorded))
    if evidence is not None and not _is_of(evidence, before):
        # Of a host before that one: what it says was taken down then. That one never came to begin its own page, or the
        # machine lost its power before the page was on disk: no module that is known can have ended it.
        evidence = replace(evidence, module=None, doing="", ended=False, in_doubt=None, loaded=False)
    copied = before.running and evidence is not None and evidence.copied
    # One that had ended before, with an error of its own, did not end by the machine.
    rebooted = before.running and evidence is not None and evidence.rebooted and not evidence.ended
    facts = _what_it_left(before, HostStarted(os.getpid(), version, run, copied, rebooted), evidence)
    # One write: a start that is killed here is asked again what the host before it died of, or has taken it down.
    with step("recovery.started"):
        book.write_together(facts)
    _say(facts, before)
    _end_crash_loop(book)


def _is_of(evidence: Evidence, ledger: Ledger) -> bool:
    """Whether it is of the last host that the journal knows."""
    last = ledger.starts
    if evidence.run or last.run:
        return evidence.run == last.run
    return evidence.pid == last.pid  # both of a livetag that gave its hosts no id


def _what_it_left(before: Ledger, started: HostStarted, evidence: Evidence | None) -> list[Fact]:
    """The start, the end of the transaction under way, and what the host before this one died of."""
    facts: list[Fact] = [started]
    now = _after(before, started)
    if now.unfinished is not None:
        facts.append(_end_of(now.unfinished.id, started, evidence))
        now = _after(now, facts[-1])
    ran = (evidence.module, evidence.doing) if evidence is not None and evidence.module is not None else None
    no_module = evidence is not None and (
        evidence.ended or evidence.rebooted or evidence.copied or not evidence.loaded
    )
    died = start_died(before, now, ran, no_module=no_module)
    return facts if died is None else [*facts, died]


def _after(ledger: Ledger, fact: Fact) -> Ledger:
    """The ledger as it will be when the fact is recorded."""
    return ledger.apply(Record(ledger.seq + 1, 0.0, fact, b""))


def _say(facts: Sequence[Fact], before: Ledger) -> None:
    started = facts[0]
    if isinstance(started, HostStarted) and started.copied:
        logger.warning(
            "this deployment is a copy of one in which a host ran: its death is not assumed, and held against nobody; "
            "in-memory state of its modules starts anew (DESIGN §6, P2)"
        )
    elif isinstance(started, HostStarted) and started.rebooted:
        logger.warning(
            "the machine was started anew while a host ran: its end is held against no release; in-memory state of its "
            "modules starts anew (DESIGN §6, P2)"
        )
    elif before.running and before.unfinished is None:
        logger.warning(
            "the host before this one died; in-memory state of its modules starts anew (DESIGN §6, P2)"
        )
    for fact in facts:
        if isinstance(fact, RolledBack):
            logger.warning("transaction {} is rolled back: {}", fact.txn, fact.reason)
        elif isinstance(fact, StartDied):
            logger.warning("the host before this one died right after its start: {}", fact.how)


def _end_of(txn: int, started: HostStarted, evidence: Evidence | None) -> RolledBack:
    """How a transaction without COMMITTED ended. One in doubt was the disk's failure: it is held against nobody."""
    if evidence is not None and evidence.in_doubt == txn:
        reason = (
            "it was in doubt: its COMMITTED could not be written, and the new versions served until the host ended; "
            "this start has not found it on disk"
        )
        return RolledBack(txn, reason, "moment")
    if started.copied:
        return RolledBack(txn, "the deployment was copied while the transaction was under way", "moment")
    if started.rebooted:
        return RolledBack(txn, "the machine went down while the transaction was under way", "moment")
    return RolledBack(txn, "the host died before the transaction was committed", "died")


def _end_crash_loop(book: Book) -> None:
    for fact in list(fatal_releases(book.ledger)):
        with step("recovery.quarantined"):
            book.write_now(fact)
        logger.error("quarantined {} at {}: {}", fact.package, fact.commit_id[:12], fact.reason)
    for view, reason in ended_the_host(book.ledger):
        changes = changes_back(book.ledger, view)
        with step("recovery.put-back"):
            book.write_together(_ending_probation(book.ledger, view, changes, reason))
        logger.warning("put back: {}", "; ".join(map(words.change_text, changes)))
    for view, changes in ways_back(book.ledger):
        with step("recovery.put-back"):
            book.write_together(_putting_back(book.ledger, view, changes))
        logger.warning("put back: {}", "; ".join(map(words.change_text, changes)))


def _putting_back(ledger: Ledger, view: TransactionView, changes: tuple[Change, ...]) -> list[Fact]:
    """A whole transaction, on disk at once: a death in the middle of it must not count against what comes back."""
    txn = ledger.next_txn
    also = [
        Quarantined(
            *key_of(c.before), c.before.tag, f"it went back together with what transaction {view.id} moved"
        )
        for c in changes
        if c.before is not None and key_of(c.before) not in ledger.quarantine
    ]
    return [*also, Planned(txn, changes, "", AFTER_DEATHS, view.id), Prepared(txn), Committed(txn, 0.0, 0)]


def _ending_probation(
    ledger: Ledger, view: TransactionView, changes: tuple[Change, ...], reason: str
) -> list[Fact]:
    """The same for all of a probation, back to what was confirmed last."""
    txn, app = ledger.next_txn, composition_back(ledger, view)
    also = at_fault(ledger, view, f"it went back together with what transaction {view.id} moved")
    planned = Planned(txn, changes, "", AFTER_DEATHS, view.id, (), app, reason)
    return [*also, planned, Prepared(txn), Committed(txn, 0.0, 0)]


class Recovered:
    """What came back: modules that could not, with the reason, and the state that still waits for them."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.kept: dict[str, KeptState] = {}


async def bring_back(  # noqa: PLR0917  # all that a start has
    app: Application,
    book: Book,
    repository: Repository,
    images: Mapping[str, ModuleImage],
    trial: TrialSection,
    box: BlackBox | None = None,
    bring: Bring = incoming_release,
    stored: Stored = NOTHING_STORED,
    without: Collection[str] = (),
) -> Recovered:
    """Load every module of the table, give it its image, and start them all together; `box` notes whose code runs.

    A durable module gets what is `stored` of it. The modules `without` stay out, as a person wished.

    A module that cannot be loaded stays out, with the reason; the others serve.
    """
    recovered = Recovered()
    box = box or BlackBox()
    lethal = not_loaded(book.ledger)
    stays_out = {**{name: words.left_out(book.ledger.table[name]) for name in without}, **lethal}
    if LETTERS in images:
        restore_letters(app, images[LETTERS])
    app.letters.restore(stored.letters)
    app.durability.go_on_from(stored.first_row, stored.last_row)
    ready: list[Participant] = []
    waiting = {name: kept_state(image) for name, image in images.items() if name != LETTERS}
    waiting.update({name: stored_state(image) for name, image in stored.modules.items()})
    gone = set(waiting) - set(book.ledger.table)
    recovered.kept.update({name: waiting[name] for name in gone})
    for name, entry in sorted(book.ledger.table.items()):
        kept = waiting.get(name)
        try:
            if name in stays_out:
                raise UpgradeError(stays_out[name])
            with box.during(name, "being loaded"):
                found = await repository.staged(entry)
                incoming = bring(found[0], entry, found[1], trial)
                app.secrets.learn(entry.config, incoming.config)
                earlier = _earlier(book.ledger, entry, lambda each: _code(repository, each, bring, trial))
                left = put_back_from(book.ledger, name)
                ready.append(await _ready(app, entry, incoming, kept, book.ledger.overrides, earlier, left))
        except (UpgradeError, ModuleError, StoreError) as error:
            recovered.failed[name] = why = _why_failed(entry, error, book.ledger)
            if kept is not None:
                recovered.kept[name] = kept
            logger.bind(module=name).error("{} {} did not come back: {}", name, entry.version, why)
    app.rewire(next_wiring(app, ready))
    for participant in ready:
        if participant.new is not None:
            box.watch(participant.new)
        app.durability.put(participant.brought)
        participant.attach()
    used = tuple(sorted({p.name for p in ready if p.name in images} | ({LETTERS} & set(images))))
    if used:
        # Marked used before the first message is handled: a death after it must not handle one twice.
        with step("recovery.image-used"):
            await book.write(ImageUsed(used))
    for participant in ready:
        await participant.start()
    await _confirm(app, book, recovered)
    return recovered


def _why_failed(entry: Entry, error: Exception, ledger: Ledger) -> str:
    missing = error if isinstance(error, MigrationMissing) else error.__context__  # a vote of no hides it
    if isinstance(missing, MigrationMissing):  # nobody can add a step to what is released
        return words.no_way_to(entry, missing, ledger.quarantine.values())
    return str(error)


async def _confirm(app: Application, book: Book, recovered: Recovered) -> None:
    """Confirm what a death kept from being confirmed right after its commit, now that it serves again.

    Else it would be suspect for ever: any later death of the host, of whatever cause, would quarantine it. What has a
    probation to go through is watched anew instead.
    """
    terms = {name: proxy.vitals.terms for name, proxy in app.modules.items()}
    for view in book.ledger.in_probation:
        if recovered.failed.keys() & set(view.probation) or unproven(book.ledger, view, terms):
            continue
        with step("recovery.confirmed"):
            judged = "nothing is to be proven of it; it came back after a death of the host"
            await book.write(Confirmed(view.id, view.reason, judged))


async def _code(repository: Repository, entry: Entry, bring: Bring, trial: TrialSection) -> Code:
    folder, manifest = await repository.staged(entry)
    return await bring(folder, entry, manifest, trial).source.load()


async def _earlier(
    ledger: Ledger, entry: Entry, load: Callable[[Entry], Awaitable[Code]]
) -> AsyncIterator[Code]:
    """The releases of a module that served before, newest first, loaded one by one; not what ended the host."""
    seen = {(entry.package, entry.tree_id)}
    for view in sorted(ledger.transactions.values(), key=lambda each: each.id, reverse=True):
        for change in view.changes:
            for each in (change.after, change.before):
                if each is None or each.name != entry.name or (each.package, each.tree_id) in seen:
                    continue
                seen.add((each.package, each.tree_id))
                quarantined = ledger.quarantine.get(key_of(each))
                if quarantined is not None and quarantined.fatal:
                    continue
                try:
                    yield await load(each)
                except (UpgradeError, ModuleError, StoreError) as error:
                    logger.warning("the steps of {} {} are not at hand: {}", each.name, each.version, error)


async def _ready(  # noqa: PLR0917  # all that a module needs to come back
    app: Application,
    entry: Entry,
    incoming: Incoming,
    kept: KeptState | None,
    overrides: Mapping[OverrideKey, Override],
    earlier: AsyncIterator[Code],
    left: tuple[str, float] | None = None,
) -> Participant:
    change = Change(entry.name, None, entry)
    participant = Participant(app, change, incoming, kept, words.why_out(change, overrides))
    participant.earlier = earlier
    if left is not None:
        participant.give_again(*left)
    try:
        await participant.prepare()
        try:
            with interrupt_after(min(participant.limits.load_s, STALL_S)):
                participant.migrate()
                participant.take_over()
            participant.brought = participant.writes()
        except BaseException as error:  # SystemExit in take_over() must not end each start of the host
            raise UpgradeError(f"its state or take_over() failed: {error_text(error)}") from error
    except (UpgradeError, ModuleError):
        await participant.retire(committed=False)
        raise
    return participant
