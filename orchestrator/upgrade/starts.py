"""What is known of the starts of a host: which releases ended it right after one, and which have lasted. Pure.

A death in a transaction or a probation is the ledger's to count. What is counted here ends a crash loop of what is in
service for long: at import, in the first message it handles, or two seconds later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from orchestrator.upgrade import records as facts

ReleaseKey = tuple[str, str]
"""(package, commit id): what quarantine and deaths are counted by."""


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts up to now.

    `deaths` counts, for each release, the starts in a row that ended while its code ran; `unexplained` those of which
    nothing says whose code it was. `proven` are the releases that have lasted through a start, `served` those that have
    lasted after a switch. `settling`: the last start has not lasted yet, and `quiet`: no transaction has begun in it.
    `pid` and `run` are those of the last host, which started at `at`. `row` counts the hosts up to it that ended before
    their start had lasted, of whatever cause; the first of them started at `since` (unix seconds).
    """

    deaths: Mapping[ReleaseKey, int] = field(default_factory=lambda: MappingProxyType({}))
    unexplained: int = 0
    proven: frozenset[ReleaseKey] = frozenset()
    served: frozenset[ReleaseKey] = frozenset()
    settling: bool = False
    quiet: bool = False
    pid: int = 0
    run: str = ""
    at: float = 0.0
    row: int = 0
    since: float = 0.0

    def after(self, fact: facts.Fact, table: Mapping[str, facts.Entry], at: float = 0.0) -> Starts:
        """Return what is known after this fact of that time; `table` is in service then."""
        if isinstance(fact, facts.HostStarted):
            return self._started(fact, at)
        if isinstance(fact, facts.HostStopped):
            return replace(self, unexplained=0, settling=False, quiet=False, row=0)
        if isinstance(fact, facts.Planned):
            return replace(self, unexplained=0, quiet=False) if self.quiet else self  # it came so far
        if isinstance(fact, facts.Settled):
            lasted = _keys(table, fact.but)
            now = self._without(lasted)
            return replace(now, unexplained=0, proven=self.proven | lasted, settling=False, row=0)
        if isinstance(fact, facts.Served):
            return replace(self, served=self.served | _keys(table, fact.but))
        if isinstance(fact, facts.StartDied):
            more = {key: self.deaths.get(key, 0) + 1 for key in fact.releases}
            unexplained = self.unexplained + (0 if fact.releases else 1)
            return replace(self, deaths=MappingProxyType({**self.deaths, **more}), unexplained=unexplained)
        if isinstance(fact, facts.Lifted):  # another chance is a whole one
            return self._without({(fact.package, fact.commit_id)})
        if isinstance(fact, facts.Quarantined) and fact.fatal:
            return replace(self, unexplained=0, row=0)
        return self

    def _started(self, fact: facts.HostStarted, at: float) -> Starts:
        row = self.row + 1 if self.settling and not fact.copied else 0
        since = self.since if self.row else self.at
        return replace(
            self, settling=True, quiet=True, pid=fact.pid, run=fact.run, at=at, row=row, since=since
        )

    def _without(self, keys: Collection[ReleaseKey]) -> Starts:
        kept = {key: count for key, count in self.deaths.items() if key not in keys}
        return replace(self, deaths=MappingProxyType(kept))


def _keys(table: Mapping[str, facts.Entry], but: Collection[str]) -> frozenset[ReleaseKey]:
    """The releases of the table; one of which several modules are made lasts if all of them do."""
    out = {(entry.package, entry.commit_id) for name, entry in table.items() if name in but}
    return frozenset((entry.package, entry.commit_id) for entry in table.values()) - out
