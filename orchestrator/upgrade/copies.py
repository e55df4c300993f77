"""What a trial gets of the live module: a copy of its state, and a sample of its Tables (DESIGN §7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage, sample
from orchestrator.runtime.tables import ModuleTables
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.records import Change

SAMPLE_MAX = 1_000  # records of each table and version: copied in well below a millisecond, between two units
PARTS_MAX = 2  # of a saved table, which are about as many


def state_copy(
    change: Change, old: Implementation | None, kept: KeptState | None
) -> tuple[int, bytes] | None:
    """State version and msgpack; None for a first start, and for a way down. Raises StateInvalid."""
    if old is not None:
        after, live = change.after, old.blueprint.state_version
        if after is not None and live > after.state_version:
            return (
                None  # the steps down are in the version that leaves; the trial has only the one that comes
            )
        try:
            return live, PLAIN_STATE.encode(old.state)
        except StateInvalid as error:
            before = change.before
            raise StateInvalid(
                f"the state of {change.name} {before.version if before is not None else ''} in service cannot be copied "
                f"for the trial, which is not the new version's fault. {error}"
            ) from error
    return None if kept is None else (kept.state_version, kept.state)


def table_sample(tables: ModuleTables, kept: KeptState | None) -> Sequence[TableImage]:
    """Some records of each table, and of each version there is of it. Nothing is migrated by this."""
    if tables.stores:
        return sample(tables, SAMPLE_MAX)
    saved = kept.tables if kept is not None else ()
    return [msgspec.structs.replace(image, parts=tuple(islice(image.parts, PARTS_MAX))) for image in saved]
