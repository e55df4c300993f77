"""A request of the control socket: its arguments read, its expected failures told apart from bugs."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from orchestrator.control.server import Emit, Operation
from orchestrator.control.wire import BadRequest, Refused
from orchestrator.runtime.errors import ModuleError
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.rollback import RollbackRefused
from repo_store.errors import StoreError

A = TypeVar("A")


def expected(operation: Operation) -> Operation:
    """The operation with the family of expected errors made `Refused`."""

    async def run(request: dict[str, object], emit: Emit) -> object:
        try:
            return await operation(request, emit)
        except (ModuleError, RollbackRefused, StoreError, JournalFailed) as error:
            raise Refused(str(error)) from error

    return run


def read(request: dict[str, object], shape: type[A]) -> A:
    """The arguments as `shape`. Raises BadRequest naming the one that is wrong."""
    try:
        return msgspec.convert({k: v for k, v in request.items() if k != "op"}, shape)
    except msgspec.ValidationError as error:
        raise BadRequest(f"wrong argument: {error}. `livetag COMMAND --help` says what it takes.") from None
