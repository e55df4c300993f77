"""What is to come into service, as a transaction sees it: where its code comes from, and the state that waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.figures import Terms
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.message import Message
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Limits, Shadow


@dataclass(frozen=True, slots=True)
class Code:
    """A version that was loaded: its blueprint, the names it occupies (None for a class in a test), its entry."""

    blueprint: Blueprint
    loaded: Loaded | None
    entry: str


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A state for a trial, as msgpack.

    `cut`: it is only a sample, with which a self-test may find fault. `left_by`: the release that has taken it down to this
    version, in a trial of its own. `handed_on_as`: the type as which it goes to a version of the same state version by
    reference, empty if never; None: the switch does not hand it on.
    """

    version: int
    data: bytes
    cut: bool = False
    left_by: str = ""
    handed_on_as: bytes | None = None


class Source(Protocol):
    """Where a version's code comes from: a staged release, or a class in a test."""

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> TrialReport | None:
        """Run the version in a child process, on an encoded copy of the state. Raises TrialFailed.

        `open_keys`: the resources that the version in service has open, by name; the child opens only others. `tables`:
        a sample of the records.
        """

    async def load(self) -> Code:
        """Load the version beside the others. Raises LoadFailed."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is to come into service: its code, limits, its config with secrets resolved, the terms of its probation.

    `unshadowed`: why it gets no shadow though it asks for one.
    """

    source: Source
    limits: Limits
    config: Mapping[str, Any]  # Any: the composition's own values
    durable: bool = False
    shadow: Shadow = Shadow()  # noqa: RUF009  # a frozen value
    unshadowed: str = ""
    tried: bool = (
        True  # in a child, on copies; a class in a test is not, and so no unit is waited for to make them
    )
    terms: Terms = Terms()  # noqa: RUF009  # a frozen value


@dataclass(frozen=True, slots=True)
class KeptState:
    """State (and messages) that wait for a module from an earlier run: state version, msgpack bytes, messages.

    `stored`: they are in the rows of a durable module, and stay there until it says otherwise.
    """

    state_version: int
    state: bytes
    messages: tuple[Message, ...] = ()
    tables: tuple[TableImage, ...] = ()
    stored: bool = False
