"""A module's state taken out, or another put in its place, between two units (DESIGN §9, `state --import`)."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from orchestrator.runtime.application import Application
from orchestrator.runtime.durable import check_size
from orchestrator.runtime.errors import MigrationMissing, Overrun, StateInvalid, error_text
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.quiesce import Quiesce
from orchestrator.runtime.slices import in_slices
from orchestrator.runtime.state import find_chain, migrate
from orchestrator.runtime.table_image import copied, encoding
from orchestrator.runtime.table_replace import Replacement, preparing
from orchestrator.runtime.table_sweep import release
from orchestrator.upgrade.alarm import interrupt_after, stepwise
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.durable_switch import replaced_rows, writes_of
from orchestrator.upgrade.records import Entry, StateImported
from orchestrator.upgrade.state_file import FileRefused, StateFile, writing

DRAIN_S = 5.0
MIGRATE_S = 5.0  # the steps run on the event loop, before the moment of the change


class ImportRefused(FileRefused):
    """The file cannot be this module's state; what is in service is untouched."""


class ExportRefused(FileRefused):
    """There is no state to give out now."""


class Imported(msgspec.Struct, frozen=True):
    """What an import did: digests of the state before and after, the tables it replaced and left, and the pause."""

    module: str
    state_version: int
    before: str
    after: str
    pause_us: float
    tables: tuple[str, ...] = ()
    tables_left: tuple[str, ...] = ()


async def export_state(app: Application, book: Book, name: str) -> StateFile:
    """State and Tables of a module, of one moment between two units.

    Raises ExportRefused, QuiesceTimeout, StateInvalid if the state is not plain data.
    """
    entry, proxy, implementation = _in_service(app, book, name) or (None, None, None)
    if entry is None or proxy is None or implementation is None:
        raise ExportRefused(f"{name} is not loaded, so it has no state. `livetag status` shows what is.")
    if app.quiesce is not None:
        raise ExportRefused("An upgrade is under way; nothing was written. Try again when it is over.")
    codec = implementation.blueprint.codec

    def take(_quiesce: object) -> tuple[bytes, Any]:
        return codec.encode(implementation.state), copied(proxy.tables)

    state, tables = await Quiesce(app, [proxy], take, drain_s=DRAIN_S).run()
    images = await in_slices(encoding(tables))
    version = implementation.blueprint.state_version
    return await in_slices(writing(entry, version, state, images, app.clock.wall()))


async def import_state(
    app: Application, book: Book, name: str, file: StateFile, *, who: str, why: str, force: bool = False
) -> Imported:
    """Replace a module's state, and the Tables that the file has, between two units: migrated, checked, journaled.

    On any error all is as it was. Raises FileRefused, QuiesceTimeout, JournalFailed.
    """
    entry, proxy, implementation = _in_service(app, book, name) or (None, None, None)
    if entry is None or proxy is None or implementation is None:
        raise ImportRefused(f"{name} is not loaded, so nothing was imported. `livetag status` shows what is.")
    if file.package != entry.package and not force:
        raise ImportRefused(
            f"The file is a state of the package {file.package}, and {name} is made from {entry.package}; nothing was "
            "changed. Say --force if that is meant."
        )
    state = _fitted(implementation, file)
    data = implementation.blueprint.codec.encode(state)
    records = await _fitted_records(implementation, proxy, file)
    rows = await in_slices(replaced_rows(name, records)) if proxy.keeps else []
    if proxy.keeps:
        _small_enough(data)
    if app.quiesce is not None or book.ledger.unfinished is not None:
        raise ImportRefused("An upgrade is under way; nothing was imported. Try again when it is over.")

    def replace(_quiesce: object) -> tuple[StateImported, Any]:
        if book.ledger.unfinished is not None:
            raise ImportRefused("An upgrade is under way; nothing was imported. Try again when it is over.")
        if proxy.implementation is not implementation:
            raise ImportRefused(f"{name} was swapped meanwhile; nothing was imported. Try again.")
        before = implementation.blueprint.codec.encode(implementation.state)
        version = implementation.blueprint.state_version
        digests = _digest(before), _digest(data)
        fact = StateImported(name, entry.version, version, who, why, *digests, tables=records.names)
        # If it raises, nothing was done; after it nothing can. Of a durable module the rows are in the same write.
        ticket = book.append(fact, (), writes_of(proxy, entry.package, version, data, rows))
        implementation.state = state
        records.put_in(proxy.tables)
        if proxy.durable is not None and proxy.keeps:
            proxy.durable.attach(entry.package, data)
        return fact, ticket

    quiesce = Quiesce(app, [proxy], replace, drain_s=DRAIN_S)
    fact, ticket = await quiesce.run()
    release(proxy.tables)
    book.wake()
    await ticket.wait()
    left = tuple(sorted(set(proxy.tables.stores) - set(fact.tables)))
    return Imported(
        name, fact.state_version, fact.before, fact.after, quiesce.pause.pause_us, fact.tables, left
    )


def _in_service(app: Application, book: Book, name: str) -> tuple[Entry, ModuleProxy, Implementation] | None:
    entry, proxy = book.ledger.table.get(name), app.modules.get(name)
    if entry is None or proxy is None or proxy.implementation is None:
        return None
    return entry, proxy, proxy.implementation


def _fitted(implementation: Implementation, file: StateFile) -> Any:
    """The file's state as the version in service has it, by its own steps. Raises FileRefused."""
    blueprint, label = implementation.blueprint, f"{implementation.name} {implementation.version}"
    try:
        chain = find_chain(blueprint.steps, file.state_version, blueprint.state_version)
        with interrupt_after(MIGRATE_S):
            return migrate(file.content(), chain, blueprint.codec)
    except (MigrationMissing, StateInvalid) as error:
        said = str(error).replace("@YourModule.", f"@{type(implementation.instance).__name__}.")
        raise ImportRefused(f"{label} cannot take the file's state: {said} Nothing was changed.") from None
    except FileRefused:
        raise
    except BaseException as error:  # noqa: BLE001  # sys.exit() in a step is a no, not the host's end
        where = author_line(error, implementation.loaded)
        raise ImportRefused(
            f"a step of {label} raised {error_text(error)} ({where}) on the file's state; nothing was changed."
        ) from None


async def _fitted_records(implementation: Implementation, proxy: ModuleProxy, file: StateFile) -> Replacement:
    """The file's records as the version in service has them, every one of them. Raises FileRefused."""
    label = f"{implementation.name} {implementation.version}"
    try:
        return await stepwise(in_slices(preparing(proxy.tables, file.images())), MIGRATE_S)
    except (MigrationMissing, StateInvalid) as error:
        said = str(error).replace("@YourModule.", f"@{type(implementation.instance).__name__}.")
        raise ImportRefused(f"{label} cannot take the file's records: {said} Nothing was changed.") from None
    except Overrun as error:
        where = author_line(error, implementation.loaded)
        raise ImportRefused(
            f"a step of a Table of {label} was {error} ({where}) on the file's records; nothing was changed."
        ) from None


def _small_enough(data: bytes) -> None:
    try:
        check_size(data)
    except StateInvalid as error:
        raise ImportRefused(f"{error} Nothing was changed.") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
