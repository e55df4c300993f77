"""The name service: any name to any module, looked up at each call (paper §3.2.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.runtime.clock import Clock
from orchestrator.runtime.errors import Disabled, UnknownName

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class NameService:
    """Names of the modules in service. `table` is one immutable value; a switch replaces it by one assignment.

    `absent` has the names of modules that are disabled, each with the sentence that says so.
    """

    __slots__ = ("_awaited", "absent", "table")

    def __init__(self) -> None:
        self.table: Mapping[str, ModuleProxy] = {}
        self.absent: Mapping[str, str] = {}
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}

    def when_bound(self, name: str, clock: Clock, until: float) -> asyncio.Future[None]:
        """A future that is done when the name is bound, or when the clock's `now` reaches `until`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(name, []).append(waiter)

        def time_out() -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = clock.call_at(until, time_out)

        def forget(_waiter: asyncio.Future[None]) -> None:
            timer.cancel()
            waiters = self._awaited.get(name, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._awaited.pop(name, None)

        waiter.add_done_callback(forget)
        return waiter

    def tell_who_waits(self) -> None:
        """The table was replaced: whoever waits for a name that is bound now goes on. Cannot raise."""
        for name in [name for name in self._awaited if name in self.table]:
            for waiter in self._awaited.pop(name):
                if not waiter.done():
                    waiter.set_result(None)

    def find(self, name: str) -> ModuleProxy | None:
        """The module's proxy, None if nothing is bound to the name."""
        return self.table.get(name)

    def resolve(self, name: str) -> ModuleProxy:
        """The module's proxy.

        Raises UnknownName, which says the names there are; Disabled, which says by whom and how it comes back.
        """
        proxy = self.find(name)
        if proxy is None:
            if name in self.absent:
                raise Disabled(f"{self.absent[name]}. Nothing was sent.")
            known = ", ".join(sorted(self.table)) or "none"
            raise UnknownName(f"No module is bound to {name!r}; nothing was sent. Names in service: {known}.")
        return proxy

    def names(self) -> Mapping[str, str]:
        """Name → the module it is bound to."""
        return {name: proxy.name for name, proxy in self.table.items()}
