"""What must hold in a world whenever no transaction is under way, and what must hold once it has come to rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.upgrade.ledger import fold
from tests.simulation.durable import waiting
from tests.simulation.model import Wanted, desired
from tests.simulation.watch import Line, Watcher

if TYPE_CHECKING:
    from tests.simulation.life import Life


def told(life: Life) -> None:
    """The ledger, which all the world is told from, never says more than the disk (DESIGN P5)."""
    if life.serving and life.book.ledger.seq > life.watch.model.seq:
        life.watch.fail(f"the ledger is at record {life.book.ledger.seq}, the disk at {life.watch.model.seq}")


def steady(life: Life) -> None:
    """Between transactions what runs is what the ledger says (DESIGN P5)."""
    if not life.serving or life.loop.dead:
        return
    ledger, watch = life.book.ledger, life.watch
    if ledger.unfinished is not None or life.book.doubt is not None or life.journal.failed is not None:
        return
    running = {}
    for name, proxy in life.app.modules.items():
        implementation = proxy.implementation
        eye = implementation.instance.config.get("eye") if implementation is not None else None
        running[name] = eye.tree if isinstance(eye, Watcher) else ""
    failed = life.recovered.failed
    said = {n: e.tree_id for n, e in ledger.table.items() if n in running or n not in failed}
    if running != said:
        watch.fail(f"what runs is {_short(running)}, the ledger says {_short(said)}")


def _short(trees: dict[str, str]) -> dict[str, str]:
    return {name: tree[-4:] for name, tree in trees.items()}


def at_rest(life: Life) -> None:
    """Everything has been done that was to be done."""
    steady(life)
    _same_ledger(life)
    _desired_state(life)
    _messages(life)
    _history(life)
    _deaths(life)
    _probations(life)


def _same_ledger(life: Life) -> None:
    watch, ledger = life.watch, life.book.ledger
    if fold(life.journal.records()) != ledger:
        watch.fail("the ledger is not the fold of the journal")
    if dict(ledger.table) != watch.model.table or set(ledger.quarantine) != watch.model.quarantine:
        watch.fail("the ledger is not what the records say")
    if ledger.unfinished is not None:
        watch.fail(f"at rest, and transaction {ledger.unfinished.id} is unfinished")


def _desired_state(life: Life) -> None:
    ledger, watch = life.book.ledger, life.watch
    wanted = desired(
        life.world.origin, watch.model.quarantine, ledger.table, sorted(ledger.overrides.values(), key=_order)
    )
    if ledger.holds:
        return  # what a hold keeps back depends on when it came
    live = {name: Wanted.of(entry) for name, entry in ledger.table.items()}
    for name in sorted({*live, *wanted}):
        if live.get(name) != wanted.get(name) and not _rests(life, name, live.get(name), wanted.get(name)):
            watch.fail(f"at rest {name} is {live.get(name)}, and should be {wanted.get(name)}")


def _rests(life: Life, name: str, live: Wanted | None, wanted: Wanted | None) -> bool:
    """It could not come back, and what is asked of it now has no release that could be put in quarantine for that."""
    if live is None or wanted is None or name in life.app.modules:
        return False
    return (live.package, live.commit) == (wanted.package, wanted.commit)


def _order(override: object) -> tuple[int, int]:
    what: str = override.what  # type: ignore[attr-defined]
    seq: int = override.seq  # type: ignore[attr-defined]
    return {"load": 0, "unload": 0, "swap": 1, "enable": 2, "disable": 2}.get(what, 3), seq


def _messages(life: Life) -> None:  # the books, line by line
    """Accepted = handled + waiting + dead; nothing is in two of them but what failed (DESIGN P2)."""
    watch, dead, waits = life.watch, set[tuple[Line, int]](), set[tuple[Line, int]]()
    for letter in life.app.letters:
        found = waiting(letter.message.body)
        if found is not None:
            epoch, src, n = found
            dead.add(((epoch, src, letter.module), n))
    for name, proxy in life.app.modules.items():
        for message in proxy.mailbox.queue:
            found = waiting(message.body)
            if found is not None:
                epoch, src, n = found
                waits.add(((epoch, src, name), n))
        accounted = proxy.handled + proxy.dead + proxy.mailbox.dropped + len(proxy.mailbox.queue)
        if proxy.mailbox.accepted != accounted:
            watch.fail(f"{name} accepted {proxy.mailbox.accepted} messages and accounts for {accounted}")
    now = {
        (line, n) for line, sent in watch.sent.items() for n in range(1, sent + 1) if line[0] == watch.epoch
    }
    for line, n in sorted(now | watch.units.owed):
        done = n <= watch.last.get(line, 0) and (line, n) not in watch.skipped
        places = done + ((line, n) in dead) + ((line, n) in waits)
        if places != 1 and (line[0] == watch.epoch or line[2] in life.app.modules):
            watch.fail(f"message {n} of {line}: handled {done}, dead or waiting {places - done}")
            return


def _history(life: Life) -> None:
    watch = life.watch
    entries, live = life.world.origin.history
    if {e.seq: e.outcome for e in entries} != watch.model.ended:
        watch.fail("at rest the history is not what the journal says")
    if dict(live) != {n: e.commit_id for n, e in watch.model.table.items()}:
        watch.fail("at rest refs/live are not what the journal says")


def _deaths(life: Life) -> None:
    for key, deaths in life.watch.model.died.items():
        if deaths >= 2 and key not in life.watch.model.quarantine:
            life.watch.fail(f"{key} ended the host {deaths} times in a transaction, and is not in quarantine")


def _probations(life: Life) -> None:
    """What has breached its probation went back, or a person is called."""
    watch, model = life.watch, life.watch.model.probations
    left = (model.breached - model.degraded) & model.open.keys()
    if left:
        watch.fail(
            f"at rest transactions {sorted(left)} have breached their probations, and have not gone back"
        )
    if dict(life.book.ledger.confirmed) != model.confirmed:
        watch.fail("what the ledger says was confirmed last is not what the records say")
