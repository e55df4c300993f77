"""What a trial process is asked and answers: the request, its limits, the steps by name, the report. As data."""

from typing import Any

import msgspec

from orchestrator.runtime.table_image import TableImage

SIZE_BYTES = 8
"""Before each message between host and keeper stands its length."""

LOADING = frozenset(
    {"start", "import", "construct", "initial_state", "migrate", "tables", "resources", "prepare"}
)
"""The steps that the release's own `load_s` bounds; the others are bounded by the host's trial time."""

CALLS = {
    "import": "its import",
    "construct": "its construction",
    "initial_state": "initial_state()",
    "migrate": "the migration of a copy of the state",
    "tables": "the migration of a sample of its records",
    "tables_back": "the way back, tried on a sample of its records,",
    "way_back": "the way back, tried on a copy of the state,",
    "resources": "@resource",
    "prepare": "prepare()",
    "take_over": "take_over()",
    "self_test": "self_test()",
    "stop": "stop()",
}
"""The steps as a sentence calls them."""


class ChildLimits(msgspec.Struct, frozen=True):
    """What the process may use: address space, seconds until prepared, seconds in all."""

    memory_mb: int = 4096
    load_s: float = 10.0
    time_s: float = 20.0


class Rehearsal(msgspec.Struct, frozen=True):
    """What a trial does beyond describing: who the module is, and the state it would start from.

    `state` is msgpack of a state of `state_version`; None is a first start. `way_back`: a state that is migrated up
    is also taken down and up again, and what does not come back is reported. `open_keys`: the resources that the
    version in service has open, name → key; they are not opened a second time. `back_to`: nothing but the steps down
    to that state version is run, as if an older release took this one's place, and for `tables_back_to` (table → version)
    those of its Tables. `tables`: a sample of its records. `durable`: its state has a limit. `cut`: the state is only a
    sample, and no self-test is held against it. `left_by`: the release whose steps have taken it down. `handed_on_as`: the
    type as which the switch hands it on as it is, if this release has the same; it is copied otherwise, which is measured as
    a migration is. `enough_ms`: one that takes longer is measured again.
    """

    name: str
    version: str
    config: dict[str, Any]
    state: bytes | None = None
    state_version: int = 1
    way_back: bool = True
    open_keys: dict[str, bytes] = {}
    back_to: int | None = None
    tables: tuple[TableImage, ...] = ()
    tables_back_to: dict[str, int] = {}
    durable: bool = False
    cut: bool = False
    left_by: str = ""
    handed_on_as: bytes | None = None
    enough_ms: float = 0.0


class Request(msgspec.Struct, frozen=True):
    """One trial: which staged folder, its top-level packages, what to do with it, and the folder that it works in."""

    folder: str
    tops: tuple[str, ...]
    package: str
    entry: str | None
    limits: ChildLimits
    rehearsal: Rehearsal | None = None
    work: str = ""


class Report(msgspec.Struct, frozen=True):
    """The worker's own word: what failed, or the description and how long each step took.

    `migration_s` is the migration as the switch would do it. `lost` are the fields that a way back would lose, None
    if there was none to try. `first_state` is what `initial_state()` gave, as msgpack, on a first start. `went_down` and
    `tables_down` are the state and the records after the steps down of `back_to` and `tables_back_to`; of a release that
    comes up, after its steps down to what it came from, where that is not what they were.
    """

    failed: str | None = None
    description: bytes = b""
    seconds: dict[str, float] = {}
    migration_s: float | None = None
    lost: tuple[str, ...] | None = None
    first_state: bytes | None = None
    went_down: bytes | None = None
    tables_down: tuple[TableImage, ...] = ()


def limit_name(step: str, limits: ChildLimits) -> str:
    """What the limit of a step is called where its value comes from."""
    own = step in LOADING and limits.load_s <= limits.time_s
    return "limits.load_s" if own else "the host's trial.time_s"
