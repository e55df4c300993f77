"""What is left of a version that was retired: weak references, taken while it was whole (DESIGN §7.8).

Every function, frame, generator and coroutine of a load holds the load's own builtins; so the version can run no more once
these are gone, and it is gone once its classes, instance and implementation are, too.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.collecting import collect_version, members_of
from orchestrator.runtime.ownership import Owner, namespaces_of_modules

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.loader import Loaded


def traces_of(loaded: Loaded, *holders: object) -> list[weakref.ref[Any]]:
    """Weak references to all by which a load can be held: its modules, and its classes wherever they are. Before `unload()`.

    `holders` are what else leads to code of it. Walks the whole version: some milliseconds.
    """
    owner = Owner(loaded.aliases.values())
    modules = [sys.modules[name] for name, names in namespaces_of_modules() if owner.owns(names)]
    members = members_of(owner, [*modules, *holders]) or []  # of a giant: its modules, and its own import
    # Not isinstance(): on 3.10 `list[int]` says that it is a class, and typing keeps one of them for all that are equal.
    classes = [each for each in members if issubclass(type(each), type)]
    return [weakref.ref(each) for each in (loaded.own_import, *modules, *classes)]


def unload_and_free(loaded: Loaded) -> None:
    """Unload what nobody uses any more, and free it if nobody holds it."""
    traces = traces_of(loaded)
    loaded.unload()
    collect_version(Owner(loaded.aliases.values()), traces)


class Remains:
    """A version after its retirement. Holds nothing of it but weak references and names."""

    __slots__ = ("kept_as", "name", "owner", "traces", "version")

    def __init__(self, implementation: Implementation) -> None:
        """Take the references. After `forget_state()`, before `unload()`; not on the event loop."""
        loaded = implementation.loaded
        self.name = implementation.name
        self.version = implementation.version
        self.owner = Owner(loaded.aliases.values() if loaded is not None else ())
        self.kept_as = ""  # what its code stays loaded for, if that is meant
        self.traces: list[weakref.ref[Any]] = [
            weakref.ref(implementation),
            weakref.ref(implementation.instance),
        ]
        if loaded is not None:  # else it is a class of a test, which stays
            self.traces += traces_of(loaded, implementation)

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return all(trace() is None for trace in self.traces)

    def collect(self) -> bool:
        """Free what is free to go; returns `gone`. Not on the event loop: some milliseconds for a large version."""
        if not self.gone:
            collect_version(self.owner, self.traces)
        return self.gone
