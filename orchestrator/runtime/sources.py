"""The attached sources of a module: thousands of connections that outlive its versions (DESIGN §5, attach).

They belong to the proxy. A swap touches none of them in its pause: afterwards, some in each turn of the event loop,
the reads that wait in the old version's code are interrupted and begun anew in the new one's. A read that has its
input already ends where it is. So a switch costs the same with ten thousand of them, and no input is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loguru import logger

from orchestrator.runtime.errors import NotInService, SourceRefused
from orchestrator.runtime.own_code import own_code_in
from orchestrator.runtime.source import SourceId, SourceReader
from orchestrator.runtime.traces import SOURCES

if TYPE_CHECKING:
    from orchestrator.runtime.blueprint import Blueprint
    from orchestrator.runtime.message import Message
    from orchestrator.runtime.proxy import ModuleProxy

MOVED_A_TURN = 32  # some 1 ms of the loop
LOOKED_AT_A_TURN = 1000
PASSES_MAX = 50  # for reads that do not end though they were interrupted


class Sources:
    """By intake and id: the objects, and the tasks that read them."""

    def __init__(self, proxy: ModuleProxy, failed: Callable[[], None]) -> None:
        self.proxy = proxy
        self.failed = failed
        self._readers: dict[str, dict[SourceId, SourceReader]] = {}
        self._objects: dict[str, dict[SourceId, object]] = {}
        self._moving: Iterator[SourceReader] | None = None  # a pass over all, after a switch
        self._found = self._passes = 0
        self._settled: asyncio.Future[None] | None = None
        self._searched = False  # the first source of the version in service, for code of its own
        self._stopped = False
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._readers.values()))

    def __iter__(self) -> Iterator[SourceReader]:
        return iter([reader for by_id in self._readers.values() for reader in by_id.values()])

    # -- what the author's code does ---------------------------------------------------------------------------

    def attach(self, name: str, id_: SourceId, source: object) -> None:
        """Read this source from now on. Raises SourceRefused, NotInService."""
        self._refuse_in_thread("attach")
        implementation, module = self.proxy.implementation, self.proxy.name
        if implementation is None or self._stopped:
            raise NotInService(f"{module} is stopping and takes no more sources; close {id_!r} yourself.")
        if name not in implementation.blueprint.each:
            known = ", ".join(implementation.blueprint.each) or "none"
            raise SourceRefused(
                f"{module} {implementation.version} has no @intake(each=True) named {name!r} (it has: {known}); "
                f"{id_!r} was not attached. Name the method that is to read it."
            )
        if isinstance(id_, bool) or not isinstance(id_, (str, int)):
            raise SourceRefused(
                f"the id of a source is a str or an int, as it goes into messages; {id_!r} is neither."
            )
        by_id = self._readers.setdefault(name, {})
        if id_ in by_id:
            raise SourceRefused(
                f"{module} reads a source {id_!r} by {name!r} already; the new one was not attached. "
                "Give it an id of its own, or detach the other first."
            )
        self.proxy.voice.leave_trace(SOURCES)
        by_id[id_] = reader = SourceReader(name, id_, source, self)
        if self.proxy.resting is not None:
            reader.pause()

    def detach(self, name: str, id_: SourceId) -> None:
        """Read it no more and close it; nothing happens if it is gone already. Raises NotInService in a thread."""
        self._refuse_in_thread("detach")
        reader = self._readers.get(name, {}).get(id_)
        if reader is not None:
            self.proxy.voice.leave_trace(SOURCES)
            self.forget(reader)
            reader.drop()
            task = asyncio.get_running_loop().create_task(reader.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _refuse_in_thread(self, what: str) -> None:
        if get_ident() != self.proxy.app.thread:
            raise NotInService(
                f"{what}() was called in {self.proxy.name} in a thread; nothing was done. The event loop reads sources: "
                f"send a message to a handler of {self.proxy.name}'s own that calls {what}()."
            )

    def objects(self, name: str) -> Mapping[SourceId, Any]:
        """Id → source, of all that one intake reads; a view that follows what comes and goes."""
        return MappingProxyType(self._objects.setdefault(name, {}))

    # -- what a reader does ------------------------------------------------------------------------------------

    def opened(self, reader: SourceReader) -> None:
        """The source is there. The first of each version is searched for code that would outlive it."""
        self._objects.setdefault(reader.name, {})[reader.id] = reader.source
        implementation = self.proxy.implementation
        if implementation is not None and not self._searched:
            self._searched = True
            own = own_code_in(reader.source, implementation)
            if own is not None:
                logger.bind(module=self.proxy.name).warning(
                    "sources of {}.{} hold code of {}: {}. They outlive the version, so old code goes on working in them "
                    "and stays in memory; build them of the standard library's and the host's objects",
                    self.proxy.name,
                    reader.name,
                    implementation.version,
                    own,
                )

    def forget(self, reader: SourceReader) -> None:
        """It is no longer one of the module's."""
        if self._readers.get(reader.name, {}).get(reader.id) is reader:
            del self._readers[reader.name][reader.id]
            self._objects.get(reader.name, {}).pop(reader.id, None)

    # -- what a switch does ------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Read all in the code of the version in service; takes no time now, it is done in the turns that follow."""
        self._searched = False
        if self._readers:
            self._moving, self._passes = None, 0
            if self._settled is None:  # else it is under way, and begins anew
                self._settled = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(self._move_some)

    def pause(self) -> None:
        """Read none until `go_on`; all stay open, and what they send waits in the system's buffers."""
        for reader in self:
            reader.pause()

    async def settled(self) -> None:
        """Return when no source is in the code of a version that left service."""
        if self._settled is not None:
            await asyncio.shield(self._settled)

    def _move_some(self) -> None:
        """Interrupt some of the reads that are in a version of before; pass after pass, until there are none."""
        if self._moving is None:
            self._moving, self._found = iter(self), 0
        moved = 0
        for looked, reader in enumerate(self._moving, 1):
            reader.go_on()
            if reader.behind:
                reader.move()
                moved += 1
            if moved == MOVED_A_TURN or looked == LOOKED_AT_A_TURN:
                break
        else:
            self._moving = None
        self._found += moved
        if self._moving is None:
            self._passes += 1
            if not self._found or self._passes > PASSES_MAX or self._stopped:
                self._settle()
                return
        asyncio.get_running_loop().call_soon(self._move_some)

    def _settle(self) -> None:
        late = [reader for reader in self if reader.behind]
        if late and not self._stopped:
            logger.bind(module=self.proxy.name).warning(
                "{} and {} others are still read by the version before: they were interrupted and did not end. "
                "An intake may not swallow CancelledError",
                late[0].label,
                len(late) - 1,
            )
        settled, self._settled = self._settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)

    # -- the end -----------------------------------------------------------------------------------------------

    def stop(self) -> list[SourceReader]:
        """Read no more. Each source is told to the module as closed, which it handles now or in its next run."""
        first, self._stopped = not self._stopped, True
        if not first:
            return []
        readers = list(self)
        for reader in readers:
            reader.leave(f"{self.proxy.name} stopped")
        return readers

    def endings(self, blueprint: Blueprint, reason: str) -> list[Message]:
        """What a version that hears of them is to be told of those that a removal closes, should it come back."""
        return [reader.ending(reason) for reader in self if f"{reader.name}.closed" in blueprint.handlers]

    def closed_by(self, blueprint: Blueprint | None) -> str:
        """How many a switch to this version (None: a removal) closes, as words; empty if it closes none."""
        lost = {
            name: len(by_id)
            for name, by_id in self._readers.items()
            if by_id and (blueprint is None or name not in blueprint.each)
        }
        return ", ".join(
            f"{count} source{'s' * (count > 1)} of {self.proxy.name}.{name} will be closed"
            for name, count in lost.items()
        )

    async def close(self) -> None:
        """Close all sources, once each: the module has left, or the host stops."""
        for reader in self:
            self.forget(reader)
            await reader.close()
        if self._closing:
            await asyncio.wait(self._closing)
