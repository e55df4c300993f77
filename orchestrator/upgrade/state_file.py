"""A module's state as a file: exported for a person, and put in its place between two units (DESIGN §9, `state --import`).

Tables are not in it: their records stay where they are.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import MigrationMissing, ModuleError, StateInvalid, error_text
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.quiesce import Pause, Quiesce
from orchestrator.runtime.state import PLAIN_STATE, find_chain, migrate
from orchestrator.upgrade.alarm import interrupt_after
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.records import Entry, StateImported

FORMAT = 1
DRAIN_S = 5.0
MIGRATE_S = 5.0  # the steps run on the event loop, before the moment of the change


class ImportRefused(ModuleError):
    """The file cannot be this module's state; the state in service is untouched."""


class StateFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A state with where it is from. It is in `state` if JSON can hold it as it is, else in `data` (msgpack, base64)."""

    livetag: int
    module: str
    package: str
    version: str
    commit: str
    state_version: int
    at: float
    state: Any = None  # Any: the author's data
    data: bytes | None = None

    def content(self) -> Any:
        """The state as plain data. Raises ImportRefused."""
        if self.data is None:
            return self.state
        try:
            return PLAIN_STATE.decode(self.data)
        except StateInvalid as error:
            raise ImportRefused(f"the file's data cannot be read: {error}") from None


def exported(entry: Entry, implementation: Implementation, at: float) -> StateFile:
    """The state of a module between two units. Raises StateInvalid if it is not plain data."""
    data = implementation.blueprint.codec.encode(implementation.state)
    plain = PLAIN_STATE.decode(data)
    version = implementation.blueprint.state_version
    head = (FORMAT, entry.name, entry.package, entry.version, entry.commit_id, version, at)
    return StateFile(*head, state=plain) if _json_holds(plain) else StateFile(*head, data=data)


def _json_holds(plain: object) -> bool:
    """Does it come back from JSON as it was? Not bytes, datetimes or keys that are numbers."""
    try:
        back = msgspec.json.decode(msgspec.json.encode(plain))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return False
    return msgspec.msgpack.encode(back) == msgspec.msgpack.encode(plain)


class Imported(msgspec.Struct, frozen=True):
    """What an import did: digests of the state before and after, and the pause."""

    module: str
    state_version: int
    before: str
    after: str
    pause_us: float


async def import_state(
    app: Application, book: Book, name: str, file: StateFile, *, who: str, why: str, force: bool = False
) -> Imported:
    """Replace a module's state between two units: migrated, checked, journaled; on any error it is as it was.

    Raises ImportRefused, QuiesceTimeout, JournalFailed.
    """
    entry, proxy = book.ledger.table.get(name), app.modules.get(name)
    implementation = proxy.implementation if proxy is not None else None
    if entry is None or proxy is None or implementation is None:
        raise ImportRefused(f"{name} is not loaded, so nothing was imported. `livetag status` shows what is.")
    if file.package != entry.package and not force:
        raise ImportRefused(
            f"the file is a state of the package {file.package}, and {name} is made from {entry.package}; nothing was "
            "changed. Say --force if that is meant."
        )
    state = _fitted(implementation, file)
    data = implementation.blueprint.codec.encode(state)
    if app.quiesce is not None or book.ledger.unfinished is not None:
        raise ImportRefused("an upgrade is under way; nothing was imported. Try again when it is over.")

    def replace(_quiesce: object) -> tuple[StateImported, Any]:
        if proxy.implementation is not implementation:
            raise ImportRefused(f"{name} was swapped meanwhile; nothing was imported. Try again.")
        before = implementation.blueprint.codec.encode(implementation.state)
        fact = StateImported(
            name,
            entry.version,
            implementation.blueprint.state_version,
            who,
            why,
            _digest(before),
            _digest(data),
        )
        ticket = book.append(fact)  # if it raises, nothing was done; after it nothing can
        implementation.instance.state = state
        return fact, ticket

    quiesce = Quiesce(app, [proxy], replace, drain_s=DRAIN_S)
    fact, ticket = await quiesce.run()
    book.wake()
    await ticket.wait()
    pause: Pause = quiesce.pause
    return Imported(name, fact.state_version, fact.before, fact.after, pause.pause_us)


def _fitted(implementation: Implementation, file: StateFile) -> Any:
    """The file's state as the version in service has it, by its own steps. Raises ImportRefused."""
    blueprint, label = implementation.blueprint, f"{implementation.name} {implementation.version}"
    try:
        chain = find_chain(blueprint.steps, file.state_version, blueprint.state_version)
        with interrupt_after(MIGRATE_S):
            return migrate(file.content(), chain, blueprint.codec)
    except (MigrationMissing, StateInvalid) as error:
        raise ImportRefused(f"{label} cannot take the file's state: {error} Nothing was changed.") from None
    except ImportRefused:
        raise
    except BaseException as error:  # noqa: BLE001  # sys.exit() in a step is a no, not the host's end
        where = author_line(error, implementation.loaded)
        raise ImportRefused(
            f"a step of {label} raised {error_text(error)} ({where}) on the file's state; nothing was changed."
        ) from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
