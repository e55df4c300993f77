"""What `livetag status` shows: first the line that matters, then the modules, then what needs a person."""

from orchestrator.control.cli.screen import ago, moment, say, show_table
from orchestrator.control.cli.session import view
from orchestrator.control.cli.views import (
    Drift,
    HistoryEntry,
    ModuleStatus,
    Probation,
    Status,
    TableStatus,
    Unloaded,
)
from orchestrator.control.printable import printable

COMMITTED = ("committed", "confirmed")
UNPLAIN = {"rolled_back": "was undone", "reverted": "was put back", "in_doubt": "is in doubt until a restart"}


def show_status(status: Status) -> None:
    """Print `status` for people."""
    say(printable(first_line(status)), style="bold")
    say(f"{status.app or 'app'}, host pid {status.host.pid}, since {moment(status.host.since)}")
    show_table(
        ("module", "version", "tag", "state", "waiting", "accepted", "handled", "dead", "notes"),
        [
            *(_row(name, module) for name, module in sorted(status.modules.items())),
            *(_unloaded(module) for module in status.unloaded),
        ],
    )
    _show_degraded(status)
    _show_what_keeps_back(status)
    if status.transaction is not None:
        running = status.transaction
        doing = f"; {running.doing}" if running.doing else ""
        say(f"transaction {running.id} is {running.phase}: {', '.join(running.modules)}{doing}")
    for group in status.waiting:
        say(f"waiting: {', '.join(group.tags)}: {group.why}")
    for bad in status.quarantine:
        tag = f" ({bad.tag})" if bad.tag else ""
        say(f"quarantined: {bad.module} at {bad.commit[:12]}{tag}: {bad.reason}", style="yellow")
    for kept in status.kept:
        say(f"kept loaded: {kept.module} {kept.version}, as {kept.purpose}")
    for left in status.leftovers:
        holders = "; ".join(left.held_by) or "its holder was not found"
        say(
            f"not gone: {left.module} {left.version}, which left service {ago(left.at)}: {holders}",
            style="yellow",
        )
    if status.dead_letters:
        say(f"dead letters: {status.dead_letters}; see livetag dead-letters list", style="yellow")
    if status.crash_row is not None:
        say(f"crash loop: {status.crash_row.what}. {status.crash_row.todo}", style="bold red")
    if status.failpoints:
        say("failpoints are ON: this host dies and fails on purpose; it is for tests only", style="bold red")
    if status.problem:
        say(f"problem: {status.problem}", style="bold red")


def _show_degraded(status: Status) -> None:
    """Print what does not keep its limits and serves on, as there is no way back: a person is called."""
    for name, module in sorted(status.modules.items()):
        if isinstance(module.probation, dict) and module.probation.get("verdict") == "degraded":
            todo = f"Push a new version; or livetag rollback; or livetag confirm {name}"
            say(f"degraded: {name}: {module.probation.get('reason')}. {todo}", style="bold red")


def _show_what_keeps_back(status: Status) -> None:
    """Print what does not go live though its tag is there: held by a person, or nobody's order."""
    for held in status.holds:
        what = held.module or "everything"
        unhold = f"livetag unhold {held.module or ''}".strip()
        say(f"held: {what}, by {held.who}: {held.why}; {unhold} ends it", style="yellow")
    for refused in status.not_permitted:
        say(f"not permitted: {refused.tag}: {refused.reason}", style="yellow")


def first_line(status: Status) -> str:
    """Return availability, the last change, by whom, and how to undo it (DESIGN §9)."""
    share = status.availability
    available = (
        "availability not measured" if share is None else f"{_percent(share)} available since its start"
    )
    return f"{available} · {_last_change(status.last_change)}"


def _percent(part: float) -> str:
    """Never rounded up to 100: seven digits, cut, and without the zeros at the end."""
    cut = int(part * 1e9) / 1e7
    return f"{cut:.7f}".rstrip("0").rstrip(".") + " %"


def _last_change(last: HistoryEntry | None) -> str:
    if last is None:
        return "nothing has changed yet"
    what = ", ".join(str(change) for change in last.modules) or "nothing"
    by = f" by {last.who}" if last.who else ""
    text = f"last change: {what} {ago(last.at)}{by}"
    if last.outcome in COMMITTED:
        return f"{text} · undo: livetag rollback --txn {last.id}" if last.can_undo else text
    return f"{text}, which {UNPLAIN.get(last.outcome, f'is {last.outcome}')}"


def _table_note(name: str, table: TableStatus) -> str:
    if table.problem:
        return f"Table {name}: {table.problem}"
    left = sum(table.to_migrate.values())
    return f"Table {name}: {left} of {table.records} records still to migrate" if left else ""


def _row(name: str, module: ModuleStatus) -> tuple[object, ...]:
    box = module.mailbox
    notes = [_probation(name, module.probation)] if module.probation else []
    notes += ["durable"] if module.durable else []
    notes += [f"failed: {module.problem}"] if module.problem else []
    notes += [f"drift: {_drift(module.drift)}"] if module.drift else []
    if (late := module.overdue.now) is not None:
        notes.append(f"a unit has not ended since {ago(late.since)}: {late.where}")
    notes += [note for table, its in module.tables.items() if (note := _table_note(table, its))]
    notes += [f"events dropped as it wishes: {box.dropped}"] if box.dropped else []
    counts = (box.length, box.accepted, box.handled, box.dead)
    return (name, module.version, module.tag, module.state, *counts, "; ".join(notes))


def _probation(name: str, probation: object) -> str:
    """How the probation stands, and what a person can do."""
    if not isinstance(probation, dict) or "verdict" not in probation:
        return f"probation: {probation}"
    now = view(probation, Probation)
    notes = "".join(f"; {note}" for note in now.notes)
    if now.verdict == "watching":
        return f"in probation for {now.seconds:g} s, since {ago(now.since)}: {now.reason}{notes}"
    if now.verdict == "inconclusive":
        return f"in probation, inconclusive: {now.reason}; livetag confirm {name}{notes}"
    return "degraded" if now.verdict == "degraded" else f"{now.verdict}: {now.reason}{notes}"


def _unloaded(module: Unloaded) -> tuple[object, ...]:
    notes = [f"state {module.state_version} is kept"] if module.state_version is not None else []
    notes += [f"drift: {module.drift}"] if module.drift is not None else []
    return (module.module, "", "", "unloaded", module.messages, "", "", "", "; ".join(notes))


def _drift(drift: object) -> object:
    return view(drift, Drift) if isinstance(drift, dict) else drift
