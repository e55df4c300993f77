"""The facts of a host as the commands show them: the JSON shapes of DESIGN §9, read leniently.

Only what a command prints for people is named here; `--json` passes the host's answer on as it came.
"""

from __future__ import annotations

import msgspec


class Mailbox(msgspec.Struct, frozen=True):
    length: int = 0
    accepted: int = 0
    handled: int = 0
    dead: int = 0
    dropped: int = 0


class TableStatus(msgspec.Struct, frozen=True):
    version: int = 0
    records: int = 0
    to_migrate: dict[str, int] = {}
    problem: str | None = None


class OverdueUnit(msgspec.Struct, frozen=True):
    type: str
    since: float
    where: str


class OverdueStatus(msgspec.Struct, frozen=True):
    count: int = 0
    now: OverdueUnit | None = None


class Probation(msgspec.Struct, frozen=True):
    verdict: str = ""
    since: float | str | None = None
    seconds: float = 0.0
    messages: int = 0
    errors: int = 0
    p99_ms: float | None = None
    reason: str = ""
    notes: list[str] = []


class ModuleStatus(msgspec.Struct, frozen=True):
    version: str | None = None
    tag: str | None = None
    state: str = ""
    state_version: int | None = None
    probation: object = None  # a Probation; anything else is shown as it is
    mailbox: Mailbox = Mailbox()
    drift: object = None  # a Drift; anything else is shown as it is
    problem: str | None = None
    durable: bool = False
    tables: dict[str, TableStatus] = {}
    overdue: OverdueStatus = OverdueStatus()


class HostStatus(msgspec.Struct, frozen=True):
    pid: int | None = None
    since: float | str | None = None


class TransactionStatus(msgspec.Struct, frozen=True):
    id: int
    phase: str
    modules: list[str] = []
    doing: str = ""


class Waiting(msgspec.Struct, frozen=True):
    tags: list[str] = []
    why: str = ""


class Quarantined(msgspec.Struct, frozen=True):
    module: str
    commit: str
    tag: str | None = None
    reason: str = ""
    at: float | str | None = None


class ModuleChange(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    module: str
    before: str | None = None
    after: str | None = None
    commit: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        return self.text or f"{self.module} {self.before or '(none)'} → {self.after or '(none)'}"


class HistoryEntry(msgspec.Struct, frozen=True):
    id: int | None = None
    at: float | str | None = None
    modules: list[ModuleChange] = []
    outcome: str = ""
    reason: str | None = None
    pause_us: float | None = None
    held_messages: int | None = None
    who: str | None = None
    can_undo: bool = True


class Leftover(msgspec.Struct, frozen=True):
    module: str
    version: str = ""
    held_by: list[str] = []
    at: float | str | None = None


class Kept(msgspec.Struct, frozen=True, rename={"purpose": "as"}):
    module: str
    version: str = ""
    purpose: str = ""


class NotPermitted(msgspec.Struct, frozen=True):
    tag: str = ""
    reason: str = ""


class CrashRow(msgspec.Struct, frozen=True):
    what: str = ""
    todo: str = ""


class Status(msgspec.Struct, frozen=True):
    app: str | None = None
    host: HostStatus = HostStatus()
    modules: dict[str, ModuleStatus] = {}
    unloaded: list[Unloaded] = []
    holds: list[Hold] = []
    transaction: TransactionStatus | None = None
    quarantine: list[Quarantined] = []
    waiting: list[Waiting] = []
    not_permitted: list[NotPermitted] = []
    dead_letters: int = 0
    crash_row: CrashRow | None = None
    leftovers: list[Leftover] = []
    kept: list[Kept] = []
    problem: str | None = None
    failpoints: bool = False
    availability: float | None = None
    last_change: HistoryEntry | None = None


class Drift(msgspec.Struct, frozen=True):
    what: str = ""
    who: str | None = None
    why: str | None = None

    def __str__(self) -> str:
        by = f" by {self.who}" if self.who else ""
        return f"{self.what}{by}{f': {self.why}' if self.why else ''}"


class Unloaded(msgspec.Struct, frozen=True):
    module: str
    state_version: int | None = None
    messages: int = 0
    drift: Drift | None = None


class Hold(msgspec.Struct, frozen=True):
    module: str | None = None
    who: str = ""
    why: str = ""


class Done(msgspec.Struct, frozen=True):
    text: str = ""


class Outcome(msgspec.Struct, frozen=True):
    tag: str = ""
    verdict: str = ""
    text: str = ""


class Outcomes(msgspec.Struct, frozen=True):
    tags: list[Outcome] = []


class PlanStep(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    module: str = ""
    does: str = ""
    before: str | None = None
    after: str | None = None
    state: list[int] = []
    text: str = ""
    transaction: int = 0


class PlanCheck(msgspec.Struct, frozen=True):
    what: str = ""
    ok: bool | None = None
    why: str = ""
    mark: str = ""
    text: str = ""
    paste: str = ""
    transaction: int = 0


class PlanPause(msgspec.Struct, frozen=True):
    expected_us: float | None = None
    text: str = ""


class PlanTransaction(msgspec.Struct, frozen=True, rename={"kind": "is"}):
    transaction: int = 0
    kind: str = ""
    by: list[str] = []
    text: str = ""
    why: str = ""
    pause: PlanPause = PlanPause()


class PlanTag(Outcome, frozen=True):
    pushed: bool = True


class PlanDrift(msgspec.Struct, frozen=True):
    module: str = ""
    what: str = ""
    who: str | None = None
    why: str | None = None
    ends: str | None = None


class Plan(msgspec.Struct, frozen=True):
    steps: list[PlanStep] = []
    checks: list[PlanCheck] = []
    transactions: list[PlanTransaction] = []
    tags: list[PlanTag] = []
    drift: list[PlanDrift] = []
    ok: bool = True
