"""A Table: large keyed state of a module (DESIGN §5), as its author sees it, and as it lives in service.

The design, in the order of what it has to give:

- **A record is kept as its msgpack bytes.** A write encodes it and decodes it once to check it against the record's type;
  a read decodes it. So a record that was read is the author's own copy, none outlives the code that made it, undo is
  putting bytes back, and 10⁶ records are nothing that a garbage collector walks over (1 ms, against 107 ms as objects).
- **The records lie in a fixed number of small dicts** (`table_store`), so that none of them ever grows by a long copy.
- **A switch copies nothing.** Where the version of a table changes, the new one begins empty over the shards of the old
  one, a *layer*; a record goes up (or down) when it is touched first, and a sweep between other work takes the rest
  (`table_sweep`). Layers of several versions lie over each other if versions come faster than sweeps end.
- **A unit's writes are undone when it raises**: the first write to a key in a unit notes what was there before. The same
  notes are the set of records that a unit has changed.

The declaration (`Table`) is what the class holds; an instance in service holds a `LiveTable` (`table_live`) under the same name.
"""

# ruff: noqa: ARG002  # a declaration takes what a live table takes

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from orchestrator.runtime.errors import DefinitionInvalid, NotInService

if TYPE_CHECKING:
    from typing_extensions import Self


K = TypeVar("K")
R = TypeVar("R")
D = TypeVar("D")


class Table(Generic[K, R]):
    """Large keyed state: `routes: Table[tuple[str, str], Route] = Table(version=1)` in a Module class.

    Used like a dict. Keys are str, int, bytes, or tuples of these; a record is plain data of the annotated type, checked
    at each write, and replaced, never changed in place: what a read gives is a copy. `version` is that of the records; steps
    between versions are `@YourModule.migrates("routes", 1, 2)`. A record read or written costs below a microsecond.

    A unit that raises leaves no trace in any Table. Raises NotInService before service, and for a write outside a unit.
    Source: DESIGN §5.
    """

    def __init__(self, *, version: int = 1) -> None:
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise DefinitionInvalid(f"Table(version={version!r}): the version must be a whole number from 0.")
        self.version = version
        self._name = "a Table"

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Self:
        """The declaration, from the class; an instance in service has its live table before this is asked."""
        if instance is None:
            return self
        raise self._refused()

    def _refused(self) -> NotInService:
        return NotInService(
            f"The Table {self._name} was used by a version that is not in service. Use it in handlers, events and ticks; "
            "prepare(), take_over() and stop() see no records."
        )

    @overload
    def get(self, key: K, /) -> R | None: ...
    @overload
    def get(self, key: K, default: D, /) -> R | D: ...
    def get(self, key: K, default: object = None, /) -> object:
        """A copy of the record, or `default`. Raises StateInvalid if the record's migration raises."""
        raise self._refused()

    def set(self, key: K, record: R) -> None:
        """The same as `table[key] = record`."""
        self[key] = record

    @overload
    def pop(self, key: K, /) -> R: ...
    @overload
    def pop(self, key: K, default: D, /) -> R | D: ...
    def pop(self, key: K, /, *default: object) -> object:
        """Take a record out and return it; without it `default`, or KeyError if none is given."""
        raise self._refused()

    def keys(self) -> Iterator[K]:
        """The keys, in no particular order.

        As with a dict, RuntimeError is raised when a key is added or removed while one iterates; a record may be replaced.
        """
        return iter(self)

    def values(self) -> Iterator[R]:
        """The records, each read when its turn comes. Changed meanwhile: as `keys`."""
        return (record for _, record in self.items())

    def items(self) -> Iterator[tuple[K, R]]:
        """Keys and records. Changed meanwhile: as `keys`."""
        raise self._refused()

    def __getitem__(self, key: K) -> R:
        raise self._refused()

    def __setitem__(self, key: K, record: R) -> None:
        raise self._refused()

    def __delitem__(self, key: K) -> None:
        raise self._refused()

    def __contains__(self, key: object) -> bool:
        raise self._refused()

    def __iter__(self) -> Iterator[K]:
        raise self._refused()

    def __len__(self) -> int:
        """How many records there are; costs about 25 microseconds."""
        raise self._refused()
