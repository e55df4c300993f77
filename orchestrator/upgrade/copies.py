"""What a trial gets of the live module: a copy of its state, and a sample of its Tables (DESIGN §7.2).

It is taken in one moment between two units, in some milliseconds, however large it all is; what was left out is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.runtime.boundary import between_units
from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.slices import in_turns
from orchestrator.runtime.state_sample import Cut, StateSample, state_sample
from orchestrator.runtime.table_image import TableImage
from orchestrator.runtime.table_sample import Picked, TableSample, part_of, pick_records, sampling
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.incoming import KeptState, StateCopy

SAMPLE_MAX = 1_000  # records of each table and version
CUTS_SAID_MAX = 3


@dataclass(frozen=True, slots=True)
class Copies:
    """A state (None: there is none yet), records, and what they are of the whole, as a phrase; empty: of nothing.

    `times`: how much larger the state is than its copy, about.
    """

    state: StateCopy | None = None
    tables: Sequence[TableImage] = ()
    said: str = ""
    times: float = 1.0


async def copied(
    proxy: ModuleProxy, old: Implementation | None, kept: KeptState | None, drain_s: float
) -> Copies:
    """Copies of what a version starts from: of the one in service, else of what is kept.

    They are of one moment, when the unit under way ends, within `drain_s` seconds. Raises StateInvalid; QuiesceTimeout and
    TrialFailed if there was no moment for it.
    """
    if old is None:
        return _kept(kept)
    await asyncio.sleep(0)  # the moment has a turn of the event loop of its own
    try:
        live, picked = await _between_units(proxy, old, drain_s)
    except StateInvalid as error:
        raise StateInvalid(
            f"the state of {old.name} {old.version} in service cannot be copied for the trial, which is not the new "
            f"version's fault. {error}"
        ) from error
    found = await in_turns(sampling(picked))
    codec = old.blueprint.codec
    state = StateCopy(
        old.blueprint.state_version, live.data, cut=bool(live.cuts), handed_on_as=codec.handed_on_as
    )
    return _of(state, found, live.cuts, live.times)


async def _between_units(
    proxy: ModuleProxy, old: Implementation, drain_s: float
) -> tuple[StateSample, list[Picked]]:
    """The state, and records of each table, of one moment between two units of this very version."""

    def act() -> tuple[StateSample, list[Picked]] | None:
        if proxy.implementation is not old:
            return None
        state = state_sample(old.state, old.blueprint.codec)
        return state, [
            each for name in proxy.tables.stores for each in pick_records(proxy.tables, name, SAMPLE_MAX)
        ]

    found = await between_units(proxy, act, drain_s)
    if found is None:
        left = f"{old.name} {old.version} left service while its state was copied for the trial"
        raise TrialFailed("start", left, "moment")
    return found


def _kept(kept: KeptState | None) -> Copies:
    """What waits for a module is on hand as bytes: the state whole, and some parts of each table."""
    if kept is None:
        return Copies()
    return _of(
        StateCopy(kept.state_version, kept.state), [part_of(image, SAMPLE_MAX) for image in kept.tables]
    )


def _of(
    state: StateCopy, tables: Sequence[TableSample], cuts: Sequence[Cut] = (), times: float = 1.0
) -> Copies:
    records = [(each.image.name, each.taken, each.whole) for each in tables]
    return Copies(state, [each.image for each in tables], said_of(state.data, cuts, records), times)


def said_of(data: bytes, cuts: Sequence[Cut], records: Sequence[tuple[str, int, int]]) -> str:
    """What was tried: `the whole state (3.2 kB) and 1,000 of 120,000 records of routes`."""
    if cuts:
        shown = [f"{c.taken:,} of {c.whole:,} in {c.where or 'it'}" for c in cuts[:CUTS_SAID_MAX]]
        said = [f"a sample of the state ({', '.join(shown)}; without self_test())"]
    else:
        said = [f"the whole state ({_size(len(data))})"]
    by_table: dict[str, tuple[int, int]] = {}
    for name, taken, whole in records:  # those of several versions are told as one
        before = by_table.get(name, (0, 0))
        by_table[name] = before[0] + taken, before[1] + whole
    said += [_records(name, taken, whole) for name, (taken, whole) in by_table.items() if whole]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _records(name: str, taken: int, whole: int) -> str:
    if whole == 1:
        return f"the one record of {name}"
    return (
        f"all {whole:,} records of {name}" if taken == whole else f"{taken:,} of {whole:,} records of {name}"
    )


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"
