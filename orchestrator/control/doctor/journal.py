"""The journal: readable, unbroken, and what its last records ask for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from orchestrator.control.config import load_config
from orchestrator.control.doctor.findings import Case, Finding
from orchestrator.upgrade import words
from orchestrator.upgrade.black_box import BlackBox
from orchestrator.upgrade.crash_loop import not_loaded
from orchestrator.upgrade.crash_row import CrashRow, crash_row
from orchestrator.upgrade.errors import IllegalTransition, UpgradeError
from orchestrator.upgrade.journal_file import read_images, read_records, reading, saved_images
from orchestrator.upgrade.ledger import Ledger, fold
from repo_store.errors import StoreError
from repo_store.manifest import HostSection

ERRORS = (UpgradeError, IllegalTransition, OSError, sqlite3.Error)


def read_ledger(path: Path) -> Ledger:
    """What the journal says, read without changing a byte of it; raises one of `ERRORS`. No journal is an empty one."""
    if not path.exists():
        return Ledger()
    with reading(path) as connection:
        return fold(read_records(connection, path))


def journal(case: Case) -> Iterator[Finding]:
    """Whether it can be read, its chain is whole, its records fit each other, and the kept states are what was saved."""
    path = case.deployment.journal
    if not path.exists():
        yield Finding("journal", True, "there is no journal yet: no host has run here")
        return
    try:
        with reading(path) as connection:
            records = read_records(connection, path)
            fold(records)
            read_images(connection, path, saved_images(records))
    except ERRORS as error:
        todo = (
            "Restore journal.db together with journal.db-wal from a backup, or move both away and start anew: the "
            "tags are deployed again, but kept state, quarantine and history are gone. Nothing here repairs a journal: "
            "what it does not say cannot be known."
        )
        yield Finding("journal", False, words.sentence(str(error)), todo)
    else:
        box = BlackBox(case.deployment.black_box).last()
        if box is not None and not box.copied and box.recorded > len(records) and not case.host_runs:
            todo = (
                "Put journal.db and journal.db-wal back as they were, both, if you have them; or start the host: it goes on "
                "from what the journal still says."
            )
            yield Finding("journal", False, words.lost_end(len(records), box.recorded), todo)
            return
        yield Finding(
            "journal", True, f"{len(records)} records, the chain is whole, kept states are as saved"
        )


def transaction(case: Case) -> Iterator[Finding]:
    """Whether a transaction is unfinished, and who ends it."""
    if case.ledger is None:
        return
    view = case.ledger.unfinished
    names = ", ".join(change.name for change in view.changes) if view is not None else ""
    if view is None:
        yield Finding("transaction", True, "none is unfinished")
    elif case.host_runs:
        yield Finding(
            "transaction", True, f"transaction {view.id} is under way ({view.phase.value}): {names}"
        )
    else:
        what = f"transaction {view.id} ({names}) was {view.phase.value} when the host died; without COMMITTED it never happened"
        yield Finding(
            "transaction", False, what, "The next start rolls it back: the versions before it serve."
        )


def modules(case: Case) -> Iterator[Finding]:
    """Whether a module of the table is not loaded because it ends the host."""
    if case.ledger is None:
        return
    for name, why in not_loaded(case.ledger).items():
        yield Finding("modules", False, why, f"Push a new version of {name}.")


def starts(case: Case) -> Iterator[Finding]:
    """Whether hosts end right after their start, one after the other."""
    if case.ledger is None:
        return
    row = row_of(case)
    if row is None:
        yield Finding("starts", True, "no row of hosts has ended right after their start")
    else:
        yield Finding("starts", False, row.what, row.todo)


def row_of(case: Case) -> CrashRow | None:
    """The row of hosts that ended right after their start, up to now."""
    if case.ledger is None:
        return None
    try:
        settle_s = load_config(case.deployment).host.settle_s
    except (StoreError, OSError):  # a check of its own says so
        settle_s = HostSection().settle_s
    return crash_row(case.ledger, settle_s, host_runs=case.host_runs)
