"""What is left of a version that was retired: weak references, taken while it was whole (DESIGN §7.8).

Every function, frame, generator and coroutine of a load holds the load's own builtins; so the version can run no more once
these are gone, and it is gone once its classes, instance and implementation are, too.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from orchestrator.runtime.collecting import collect_version
from orchestrator.runtime.ownership import Owner, namespaces_of_modules

if TYPE_CHECKING:
    from orchestrator.runtime.implementation import Implementation
    from orchestrator.runtime.loader import Loaded

CLASSES_MAX = 1_000  # of one module: more are made by code, and one of them stands for all


def traces_of(loaded: Loaded) -> list[weakref.ref[Any]]:
    """Weak references to all by which a load can be held. Before `unload()`."""
    owner = Owner(loaded.aliases.values())
    traces: list[weakref.ref[Any]] = [weakref.ref(loaded.own_import)]
    for name, names in namespaces_of_modules():
        if owner.owns(names):
            classes = [
                each for each in list(names.values()) if isinstance(each, type) and owner.owns_class(each)
            ]
            traces += [weakref.ref(sys.modules[name]), *map(weakref.ref, classes[:CLASSES_MAX])]
    return traces


def unload_and_free(loaded: Loaded) -> None:
    """Unload what nobody uses any more, and free it if nobody holds it."""
    traces = traces_of(loaded)
    loaded.unload()
    collect_version(Owner(loaded.aliases.values()), traces)


class Remains:
    """A version after its retirement. Holds nothing of it but weak references and names."""

    __slots__ = ("kept_as", "name", "owner", "traces", "version")

    def __init__(self, implementation: Implementation) -> None:
        """Take the references. Before `stop()` and `unload()`."""
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
            self.traces += [weakref.ref(implementation.blueprint.cls), *traces_of(loaded)]

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
