"""What a check has found: values, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from orchestrator.control.config import Deployment
from orchestrator.upgrade.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer: what was looked at, whether it is well, what is true, and what to do if it is not.

    `repair` puts it right and returns what it did; it is there only where nothing can be lost by it.
    """

    check: str
    ok: bool
    what: str
    todo: str = ""
    repair: Callable[[], str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks look at: the deployment, the pid of the host that runs in it, and what its journal says.

    `ledger` is None if the journal cannot be read, which a check of its own says.
    """

    deployment: Deployment
    host_pid: int | None = None
    ledger: Ledger | None = None

    @property
    def host_runs(self) -> bool:
        return self.host_pid is not None


Check = Callable[[Case], Iterator[Finding]]
