"""A module's plain state: its type, its bytes, and the steps between its versions (DESIGN §5, plain data)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

import msgspec
import msgspec.inspect

from orchestrator.runtime.errors import MigrationMissing, StateInvalid
from orchestrator.runtime.first_use import decoder_of
from orchestrator.runtime.schema import schema_of_json

Step = Callable[[Any], Any]
Steps = Mapping[tuple[int, int], Step]


class StateCodec:
    """Encodes, decodes and checks states of one type. Bytes are msgpack, so they outlive the code that wrote them."""

    __slots__ = ("_decoder", "_encoder", "by_reference", "schema", "type")

    def __init__(self, type_: Any) -> None:  # Any: the author's own TypedDict or dict type
        self.type = type_
        self._encoder = msgspec.msgpack.Encoder()
        try:
            self._decoder = decoder_of(type_)
        except (TypeError, NameError) as error:
            raise StateInvalid(
                f"The state type {type_!r} is not plain data: {error}. "
                "Use a TypedDict of plain types (None, bool, int, float, str, bytes, list, dict, datetime, ...)."
            ) from error
        #: The type as JSON Schema; empty if it has none.
        self.schema: bytes = _schema_of(type_)
        #: May a state be given to the next version as it is? Not if it holds instances of this version's classes.
        self.by_reference: bool = not _names_a_class(msgspec.inspect.type_info(type_), set())

    @property
    def handed_on_as(self) -> bytes:
        """The type as which a state may go to the next version by reference; empty: each version gets a copy."""
        return self.schema if self.by_reference else b""

    def encode(self, state: object) -> bytes:
        """The state as bytes.

        Raises StateInvalid if it holds anything that is not plain data.
        """
        try:
            return self._encoder.encode(state)
        except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
            raise StateInvalid(f"The state is not plain data: {error}.") from error

    def decode(self, data: bytes) -> Any:
        """The state that the bytes hold, typed.

        Raises StateInvalid if it does not fit the type, with the path of the field that does not.
        """
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StateInvalid(f"The state does not fit its type: {error}.") from error

    def copy(self, state: object) -> Any:
        """The state again, checked against the type and sharing nothing.

        Raises StateInvalid.
        """
        return self.decode(self.encode(state))


def _schema_of(type_: Any) -> bytes:
    try:
        return msgspec.json.encode(schema_of_json(type_))
    except TypeError:
        return b""


def _names_a_class(info: object, seen: set[int]) -> bool:
    """Whether values of the type are instances of a class that somebody wrote: an Enum, a Struct, a dataclass."""
    if isinstance(info, (list, tuple)):
        return any(_names_a_class(each, seen) for each in info)
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
        return False
    seen.add(id(info))
    if isinstance(info, _AUTHORS_CLASSES):
        return True
    return any(_names_a_class(getattr(info, name), seen) for name in info.__struct_fields__)


_AUTHORS_CLASSES = (
    msgspec.inspect.EnumType,
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.CustomType,
)
PLAIN_STATE = StateCodec(Any)


def find_chain(steps: Steps, start: int, end: int) -> list[Step]:
    """The fewest steps that lead from state version `start` to `end`; none if they are equal.

    Raises MigrationMissing, which names the versions that can be reached.
    """
    path = find_path(steps, start, end)
    return [steps[pair] for pair in pairwise(path)]


def find_path(steps: Collection[tuple[int, int]], start: int, end: int) -> list[int]:
    """The state versions that the fewest steps pass, from `start` to `end`, both included.

    Raises MigrationMissing, which names the versions that can be reached.
    """
    reached: dict[int, list[int]] = {start: [start]}
    frontier = [start]
    while frontier and end not in reached:
        version = frontier.pop(0)
        for before, after in sorted(steps):
            if before == version and after not in reached:
                reached[after] = [*reached[version], after]
                frontier.append(after)
    if end not in reached:
        known = ", ".join(f"{a}→{b}" for a, b in sorted(steps)) or "none"
        raise MigrationMissing(
            f"No migration leads from state version {start} to {end} (steps there are: {known}). "
            f"Add a step: @YourModule.migrates({start}, {end})."
        )
    return reached[end]


def migrate(state: object, chain: list[Step], codec: StateCodec) -> Any:
    """A migrated copy of `state`, checked against the new type; the old state is untouched.

    Raises whatever a step raises, and StateInvalid.
    """
    copy = PLAIN_STATE.copy(state)
    for step in chain:
        copy = step(copy)
    return codec.copy(copy)
