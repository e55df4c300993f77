"""The name service: any name to any module, looked up at each call (paper §3.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.runtime.errors import Disabled, UnknownName

if TYPE_CHECKING:
    from orchestrator.runtime.proxy import ModuleProxy


class NameService:
    """Names of the modules in service. `table` is one immutable value; a switch replaces it by one assignment.

    `absent` has the names of modules that are disabled, each with the sentence that says so.
    """

    __slots__ = ("absent", "table")

    def __init__(self) -> None:
        self.table: Mapping[str, ModuleProxy] = {}
        self.absent: Mapping[str, str] = {}

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
