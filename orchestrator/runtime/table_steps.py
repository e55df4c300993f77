"""Steps of a Table: which there are, whose they are, and what they make of one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from orchestrator.runtime.errors import MigrationMissing, Overrun, Stalled, StateInvalid, error_text
from orchestrator.runtime.loader import Loaded, author_line
from orchestrator.runtime.state import Step, Steps, find_chain
from orchestrator.runtime.table_store import Layer, Shards
from orchestrator.runtime.table_types import TableType, shown

_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


class KnownStep(NamedTuple):
    """One step, and the load it belongs to (None: a class in a test)."""

    before: int
    after: int
    step: Callable[[Any, Any], Any]  # key and record as plain data → record: the author's
    origin: Loaded | None


Known = Mapping[tuple[int, int], KnownStep]


def known_of(steps: Steps, origin: Loaded | None) -> dict[tuple[int, int], KnownStep]:
    """The steps that one load brings."""
    return {
        (before, after): KnownStep(before, after, cast("Callable[[Any, Any], Any]", step), origin)
        for (before, after), step in steps.items()
    }


class Conversion:
    """Takes records of one version of a table to another: a chain of steps, and a check of what comes out."""

    __slots__ = ("_of_a_copy", "_type", "_version", "chain")

    def __init__(
        self, version: int, type_: TableType, chain: Sequence[KnownStep], *, of_a_copy: bool = False
    ) -> None:
        self._version = version
        self._of_a_copy = of_a_copy  # then nothing has happened to the record
        self._type = type_
        self.chain = tuple(chain)

    def __call__(self, key: Any, data: bytes) -> bytes:
        """The record's bytes in the new version. Raises StateInvalid; what a step does to its argument stays in it."""
        if not self.chain:
            return data
        value = _PLAIN.decode(data)
        for known in self.chain:
            try:
                value = known.step(key, value)
            except (Stalled, Overrun):
                raise
            except BaseException as error:  # noqa: BLE001  # sys.exit() in a step is its failure, not the host's end
                where = author_line(error, known.origin)
                raise StateInvalid(
                    f"{self._said(key)} the step {known.before}→{known.after} raised {error_text(error)} ({where})."
                    f"{self._left()}"
                ) from None
        try:
            new = self._type.encode(value)
            self._type.decode(new)
        except Exception as error:  # noqa: BLE001  # whatever a record that is no plain data makes the encoder say
            said = str(error) if isinstance(error, msgspec.MsgspecError) else error_text(error)
            last = self.chain[-1]
            raise StateInvalid(
                f"{self._said(key)} what the step {last.before}→{last.after} returned does not fit version "
                f"{self._type.version}: {said}.{self._left()}"
            ) from None
        return new

    def checked(self, key: Any, data: bytes) -> bytes:
        """The same for bytes that nobody has checked, from outside. Raises StateInvalid."""
        if wrong := self._type.key_misfit(key):
            raise StateInvalid(wrong)
        new = self(key, data)
        if not self.chain:
            try:
                self._type.decode(data)
            except msgspec.MsgspecError as error:
                said = f"the record does not fit version {self._type.version}: {error}."
                raise StateInvalid(f"{self._said(key)} {said}{self._left()}") from None
        return new

    def _said(self, key: object) -> str:
        return f"Table {self._type.name}, key {shown(key)}:"

    def _left(self) -> str:
        if self._of_a_copy:
            return ""
        return (
            f" The record is as it was, in version {self._version}. Release a version with a step that takes it, "
            "or write or delete this key."
        )


class NoWay:
    """Stands for a conversion where no steps lead from a record's version to the one in service."""

    __slots__ = ("_text", "chain")

    def __init__(self, name: str, error: MigrationMissing) -> None:
        self.chain: tuple[KnownStep, ...] = ()
        self._text = f"Table {name}, key %s: {error} The record is as it was."

    def __call__(self, key: object, _data: bytes) -> bytes:
        """Raises StateInvalid."""
        raise StateInvalid(self._text % shown(key))


def find_table_chain(name: str, known: Known, start: int, end: int) -> list[KnownStep]:
    """The fewest steps between two versions of a table. Raises MigrationMissing with the line to write."""
    steps: Steps = {pair: cast("Step", each.step) for pair, each in known.items()}
    try:
        by_step = {id(each.step): each for each in known.values()}
        return [by_step[id(step)] for step in find_chain(steps, start, end)]
    except MigrationMissing:
        has = ", ".join(f"{a}→{b}" for a, b in sorted(known)) or "none"
        raise MigrationMissing(
            f"No step leads from version {start} to {end} of the Table {name} (steps there are: {has}). "
            f'Add a step: @YourModule.migrates("{name}", {start}, {end}).'
        ) from None


def layer_over(version: int, shards: Shards, type_: TableType, known: Known) -> Layer:
    """The records of an older version, with the way to the version in service."""
    try:
        chain = find_table_chain(type_.name, known, version, type_.version)
    except MigrationMissing as error:
        return Layer(version, shards, NoWay(type_.name, error))
    needs = frozenset(each.origin for each in chain if each.origin is not None)
    return Layer(version, shards, Conversion(version, type_, chain), needs)


def steps_in(layer: Layer) -> dict[tuple[int, int], KnownStep]:
    """The steps that a layer's records still need; a version that follows may need them too."""
    convert = layer.convert
    if not isinstance(convert, (Conversion, NoWay)):
        return {}
    return {(each.before, each.after): each for each in convert.chain}
