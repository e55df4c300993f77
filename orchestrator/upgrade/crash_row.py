"""Hosts that end right after their start, one after the other: what is said of it, and what a person can do. Pure.

What a release did to a host is ended by `crash_loop`. A row that it does not end has no end of its own, on purpose: where
nothing accuses one release before the others, all that could be done is to take releases that have lasted out of service by
turns, and a kernel short of memory, a service manager with too short a time limit or a bad power supply make the same row.
So a person decides, who has to see it and needs a way to start at all: `livetag run --without MODULE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from orchestrator.upgrade.crash_loop import DEATHS_MAX, PATIENCE, UNEXPLAINED_MAX, key_of
from orchestrator.upgrade.ledger import Ledger

ROW_MIN = UNEXPLAINED_MAX  # what is ended by itself is ended by then, most of it


@dataclass(frozen=True, slots=True)
class CrashRow:
    """A row of hosts that ended before their start had lasted: how it is, and what to do."""

    what: str
    todo: str


def crash_row(ledger: Ledger, settle_s: float, *, host_runs: bool) -> CrashRow | None:
    """The row that the journal tells of, if it is long enough to be told; `host_runs`: the last host has not ended."""
    starts = ledger.starts
    ended = not host_runs and ledger.running and starts.settling
    count = starts.row + ended
    if count < ROW_MIN:
        return None
    first = datetime.fromtimestamp(starts.since, timezone.utc)
    what = (
        f"{count} hosts in a row ended within {settle_s:g} s of their start, the first of them started at "
        f"{first:%Y-%m-%d %H:%M:%S} UTC: {'; '.join(_evidence(ledger))}"
    )
    todo = (
        "See what the service manager and the kernel say of it (systemctl status, journalctl -k): no memory left, a time "
        "limit that is too short, a power cut. If a module may be the cause, stop the service and start the host without "
        "it, by `livetag run --without MODULE`, which keeps its state and messages; then push a version of it that works."
    )
    return CrashRow(what, todo)


def _evidence(ledger: Ledger) -> list[str]:
    """What is known of the deaths: whose code ran, and how many tell nothing."""
    starts = ledger.starts
    names = {key_of(entry): f"{entry.name} {entry.version}" for entry in ledger.table.values()}
    said = []
    for key, deaths in sorted(starts.deaths.items()):
        if key in names and deaths:
            out_at = DEATHS_MAX * (PATIENCE if key in starts.proven else 1)
            said.append(
                f"code of {names[key]} ran at {deaths} of the ends, and it goes out of service at {out_at} in a row"
            )
    if starts.unexplained:
        said.append(f"of {starts.unexplained} nothing says whose code it was")
    if not said:
        said.append(
            "they ended before any module's code had run, with an error of their own, or with the machine"
        )
    if not starts.deaths:
        said.append("no release is accused, and none is put out of service for it")
    return said
