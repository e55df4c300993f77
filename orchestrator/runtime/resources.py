"""Resources: live objects that outlive the code, such as a listening socket or a connection pool (DESIGN §5, @resource).

They belong to the proxy. A version says how one is opened and by which key it is known; a version with the same name
and key goes on with the same object, and what no version uses any more is closed, once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.errors import ModuleError, Overrun, ResourceAbsent, error_text
from orchestrator.runtime.guard import was_cancelled
from orchestrator.runtime.loader import author_line
from orchestrator.runtime.own_code import own_code_in

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.resource import Resource


class Held:
    """An open object, the key it was opened for, and how to close it."""

    __slots__ = ("_closed", "close", "key", "value")

    def __init__(self, key: bytes, value: object, close: str | None) -> None:
        self.key = key
        self.value = value
        self.close = close
        self._closed = False

    async def let_go(self) -> None:
        """Close the object, once."""
        if not self._closed:
            self._closed = True
            await close_object(self.value, self.close)


class Opening:
    """The resources of a version that is to come: what goes on from the version in service, and what was opened for it."""

    def __init__(
        self,
        implementation: Implementation,
        in_service: Mapping[str, Held],
        *,
        left_out: Mapping[str, bytes] | None = None,
    ) -> None:
        """`left_out`: name → key of what is open elsewhere, and must not be opened here (in a trial)."""
        self.table: dict[str, Held] = {}
        self._left_out = left_out or {}
        self._implementation = implementation
        self._in_service = in_service
        self._new: list[Held] = []
        self._abandoned = False

    async def run(self) -> None:
        """Open what is not there yet; each is readable from then on. Raises ModuleError, which names the resource."""
        for declared in self._implementation.blueprint.resources:
            key = declared.key_for(self._implementation.instance)
            if self._left_out.get(declared.name) == key:
                continue
            held = self._in_service.get(declared.name)
            if held is None or held.key != key:
                try:
                    held = Held(key, await self._open(declared), declared.close)
                except ResourceAbsent:  # it is made of one that is left out
                    continue
                self._new.append(held)
                if self._abandoned:  # it swallowed the cancellation: nobody else will close it
                    await held.let_go()
                    raise asyncio.CancelledError
            self.table[declared.name] = held
            vars(self._implementation.instance)[declared.name] = held.value

    async def _open(self, declared: Resource[Any]) -> object:
        implementation = self._implementation
        try:
            value = await declared.open(implementation.instance)
        except (asyncio.CancelledError, GeneratorExit, Overrun):
            raise
        except BaseException as error:
            if isinstance(error, ResourceAbsent) and self._left_out:
                raise
            where = author_line(error, implementation.loaded)
            raise ModuleError(f"opening {declared.name!r} raised {error_text(error)} ({where})") from error
        own = own_code_in(value, implementation)
        if own is not None:
            from loguru import logger  # as in implementation.py

            logger.bind(module=implementation.name).warning(
                "the resource {!r} of {} {} holds code of that version: {}. It outlives the version, so old code goes on "
                "working in it and stays in memory; build it of the standard library's and the host's objects",
                declared.name,
                implementation.name,
                implementation.version,
                own,
            )
        return value

    async def undo(self) -> None:
        """Close what was opened for a version that does not come."""
        self._abandoned = True
        await _let_go(reversed(self._new), self._implementation.name)
        self._new.clear()


class Resources:
    """The open resources of one module, by name. They belong to its proxy."""

    __slots__ = ("_leaving", "_name", "held")

    def __init__(self, name: str) -> None:
        self.held: Mapping[str, Held] = {}
        self._name = name
        self._leaving: list[Held] = []

    def keys(self) -> dict[str, bytes]:
        """Name → key of what is open: what a trial must not open a second time."""
        return {name: held.key for name, held in self.held.items()}

    def use(self, opening: Opening) -> None:
        """The version serves: its resources are the module's. Cannot raise; called in the switch."""
        for declared in opening._implementation.blueprint.resources:  # noqa: SLF001  # same file, same idea
            opening.table[declared.name].close = declared.close
        kept = set(map(id, opening.table.values()))
        self._leaving += [held for held in self.held.values() if id(held) not in kept]
        self.held = opening.table

    async def close_unused(self) -> None:
        """Close what no version uses any more."""
        leaving, self._leaving = self._leaving, []
        await _let_go(leaving, self._name)

    async def close(self) -> None:
        """Close all: the module leaves, or the host stops."""
        held, self.held = list(self.held.values()), {}
        self._leaving += reversed(held)
        await self.close_unused()


async def _let_go(held: Iterable[Held], name: str) -> None:
    for each in held:
        try:
            await each.let_go()
        except BaseException as error:  # one that cannot be closed must not keep the others open
            cut = isinstance(error, asyncio.CancelledError) and was_cancelled()
            if cut or isinstance(error, (GeneratorExit, Overrun)):
                raise
            from loguru import logger  # as in implementation.py

            logger.bind(module=name).warning(
                "closing {} of {} raised {}", type(each.value).__name__, name, error_text(error)
            )


async def close_object(value: object, method: str | None = None) -> None:
    """Call `method`, or aclose() or close() if it has one, and await what it gives; of a tuple, each one's.

    Raises what that raises.
    """
    if isinstance(value, tuple) and method is None:
        for each in value:
            await close_object(each)
        return
    for name in ("aclose", "close") if method is None else (method,):
        close = getattr(value, name, None)
        if callable(close):
            given = close()
            if inspect.isawaitable(given):
                await given
            return
    if method is not None:
        raise ModuleError(f"it has no method {method}(), which its @resource names to close it")
