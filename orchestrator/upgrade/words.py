"""The sentences people read: what failed, what is true now, what to do next. All in one place, to be read as prose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.quiesce import Pause
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.ledger import Quarantine, TransactionView
from orchestrator.upgrade.overrides import PRESENCE, SERVICE, Override, OverrideKey
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.records import Change, Entry, Held, Unheld
from repo_store.release import RefMap, next_free_tag, parse_tag


def release_name(entry: Entry) -> str:
    """`counter 1.1.0`, and by which tag if that is not its own: `counter 1.1.0 (by v1.3.1)`."""
    tag = parse_tag(entry.tag)
    own = tag is None or str(tag.version) == entry.version
    name = entry.package if entry.package == entry.name else f"{entry.name} ({entry.package})"
    return f"{name} {entry.version}" if own or tag is None else f"{name} {entry.version} (by v{tag.version})"


def left_out(entry: Entry) -> str:
    """Why a module is not loaded that a person left out of a start."""
    return (
        f"{entry.name} {entry.version} is left out of this start by --without; its state and messages are kept. Push a "
        "version that works, or start the host without that option to have it again."
    )


def lost_end(seq: int, recorded: int) -> str:
    """Return what a journal that ends too early means, and where its end may be."""
    lost = "record is" if recorded == seq + 1 else "records are"
    return (
        f"the journal ends with record {seq}, but the host before had record {recorded} on disk: {recorded - seq} {lost} gone. "
        "journal.db-wal was removed, cut or damaged, or an older journal.db was put back. What the journal still says is whole, "
        "and holds: what was deployed, kept and written by durable modules after it is not known"
    )


def no_way_to(entry: Entry, error: MigrationMissing, quarantine: Iterable[Quarantine]) -> str:
    """Why a module cannot take up what is kept of it, when its steps are only in a release that must not be loaded."""
    fatal = [q for q in quarantine if q.fatal and q.package == entry.package]
    tags = ", ".join(sorted(q.tag or q.commit_id[:12] for q in fatal))
    why = (
        f" The steps of {tags} are not at hand: it ended the host, and no code of it is loaded."
        if fatal
        else ""
    )
    retry = (
        f"; or, once the cause is gone, livetag retry {tags} brings that one back" if len(fatal) == 1 else ""
    )
    missing = str(error).partition(" Add a step")[0].rstrip(".")
    return (
        f"{entry.name} {entry.version} cannot take up what is kept of it, which another release has left: {missing}.{why} "
        f"{entry.name} is out of service; its state and messages are kept, and nothing of them is lost. Push a new version "
        f"of it that keeps that state version, or that has the step{retry}."
    )


def change_text(change: Change) -> str:
    """One change: `counter 1.0.0 → 1.1.0`, `counter 1.0.0 added`, `counter 1.0.0 removed`."""
    if change.before is None:
        return (
            f"{release_name(change.after)} added" if change.after is not None else f"{change.name}: nothing"
        )
    if change.after is None:
        return f"{release_name(change.before)} removed"
    if change.before.version != change.after.version or change.before.tree_id != change.after.tree_id:
        more = altered(change)
        return f"{change.name} {change.before.version} → {change.after.version}{f' ({more})' if more else ''}"
    return f"{release_name(change.after)} {altered(change) or 'as it was'}"


def row_text(change: Change) -> str:
    """A change of the table with which nothing is swapped: of a module in service already, or of one that is not loaded."""
    if not altered(change):
        return "in service already: the same tree, config and names"
    return f"{change_text(change)}, in the release table alone: it could not come back, and is not loaded for that"


def altered(change: Change) -> str:
    """What became of a module beside its version: `disabled and bound to total`; empty if nothing, or it comes or goes."""
    before, after = change.before, change.after
    return listed(_altered(before, after)) if before is not None and after is not None else ""


def _altered(before: Entry, after: Entry) -> list[str]:
    found = ["enabled" if after.enabled else "disabled"] if before.enabled != after.enabled else []
    if before.config != after.config:
        found.append("configured anew")
    if new := [name for name in after.also if name not in before.also]:
        found.append(f"bound to {listed(new)}")
    if gone := [name for name in before.also if name not in after.also]:
        found.append(f"no longer bound to {listed(gone)}")
    return found


def why_out(change: Change, overrides: Mapping[OverrideKey, Override]) -> str:
    """Why a module leaves, or is out of service, for those who send to it."""
    name, after = change.name, change.after
    if after is None:
        unload = overrides.get((name, PRESENCE))
        return f"it was {unload.said}" if unload is not None and unload.what == "unload" else "it was removed"
    if after.enabled:
        return ""
    disable = overrides.get((name, SERVICE))
    if disable is not None and disable.what == "disable":
        return f"{name} is {disable.said}; livetag enable {name}"
    return (
        f"{name} is disabled: app.toml says enabled = false. Change that and tag it, or livetag enable {name}"
    )


def way_back(change: Change, lost: Sequence[str]) -> str:
    """What the way back of a migration was found to lose: `way back 2→1: yes, loses by_key`."""
    start = change.after.state_version if change.after is not None else 1
    end = change.before.state_version if change.before is not None else 1
    losing = f"loses {', '.join(lost)}" if lost else "loses nothing"
    between = f" {start}→{end}" if start != end else ""  # else it is that of a Table's records
    return f"{change.name}: way back{between}: yes, {losing}"


def going_down(change: Change, lost: Sequence[str] | None) -> str:
    """What going back to an older state was found to lose: `going back 2→1: loses by_key`."""
    start = change.before.state_version if change.before is not None else 1
    end = change.after.state_version if change.after is not None else 1
    between = f" {start}→{end}" if start > end else ""  # else it is that of a Table's records
    if lost is None:
        return f"{change.name}: going back{between}: what that loses is not known"
    return f"{change.name}: going back{between}: loses {', '.join(lost) if lost else 'nothing'}"


def over_budget(predicted_ms: float, budget_ms: float) -> str:
    """Why a release is not switched in at all: its migrations would take too long."""
    return (
        f"the migration would take about {milliseconds(predicted_ms)}, over limits.pause_ms = {budget_ms:g}, so nothing was "
        "touched. Put what grows into a Table, which is migrated record by record, migrate less at once, or "
        "raise limits.pause_ms"
    )


def milliseconds(ms: float) -> str:
    """A duration as people read it."""
    return f"{ms:.1f} ms" if ms >= 1 else f"{ms * 1000:.0f} µs"


def serving_now(changes: Iterable[Change]) -> str:
    """What is in service after a failure: exactly what was before."""
    return serving(c.before for c in changes if c.before is not None)


def serving(entries: Iterable[Entry]) -> str:
    """What goes on as if nothing had happened."""
    names = [release_name(entry) for entry in entries]
    if not names:
        return "Nothing of it is in service."
    return f"{listed(names)} {'serves' if len(names) == 1 else 'serve'} on, with all state and messages."


def next_tag(tags: Iterable[str], refs: RefMap) -> str:
    """An example of the tag to push next: one that is free."""
    packages = dict.fromkeys(tag.package for tag in map(parse_tag, tags) if tag is not None)
    return listed(next_free_tag(package, refs).name for package in packages) or "a new tag"


def failed(group: Group, reason: str, fault: Fault, refs: RefMap) -> str:
    """A group that did not go live."""
    what = f"{listed(group.tags) or 'the release'} did not go live: {sentence(reason)}"
    if fault == "release":
        return f"{what} {serving_now(group.changes)} Fix it, commit, and push a new tag, e.g. {next_tag(group.tags, refs)}."
    return f"{what} {serving_now(group.changes)} Nothing is wrong with the release itself; it is tried again."


def live(changes: Iterable[Change], pause: Pause) -> str:
    """A group that is in service."""
    texts = listed([change_text(c) for c in changes])
    waited = "message" if pause.held_messages == 1 else "messages"
    return f"live: {texts}; pause {pause.pause_us:.0f} µs, {pause.held_messages} {waited} waited, none lost."


def inconclusive(reason: str, modules: Sequence[str]) -> str:
    """A probation whose time is over, with too little to judge it by."""
    return (
        f"{sentence(reason)} {listed(modules)} {'stays' if len(modules) == 1 else 'stay'} in probation until enough was "
        f"handled; livetag confirm {modules[0]} ends it."
    )


def breach(reason: str, modules: Sequence[str], *, back: bool) -> str:
    """A probation whose limits are not kept."""
    if back:
        return f"{sentence(reason)} {listed(modules)} {'goes' if len(modules) == 1 else 'go'} back to what was confirmed last."
    return f"{sentence(reason)} Nothing was put back. {degraded_todo(modules)}"


def degraded(reason: str, modules: Sequence[str]) -> str:
    """What could not go back, and serves on."""
    return f"{sentence(reason)} {degraded_todo(modules)}"


def degraded_todo(modules: Sequence[str]) -> str:
    """What a person can do about it."""
    on = f"{listed(modules)} {'serves' if len(modules) == 1 else 'serve'} on, degraded"
    return (
        f"{on}: a person has to decide. Push a new version that mends it; livetag rollback goes back by hand; livetag confirm "
        f"{modules[0]} takes it as it is."
    )


def reverts(view: TransactionView) -> str:
    """Why a transaction is a way back, for the history."""
    why = view.breach.reason if view.breach is not None else "it was to go back"
    return f"transaction {view.id} breached its probation: {why}"


def reverted(changes: Iterable[Change], pause: Pause, again: int) -> str:
    """What went back, and what becomes of what the version that left has failed on."""
    texts = listed([change_text(c) for c in changes])
    messages = "1 message that had failed is" if again == 1 else f"{again} messages that had failed are"
    handled = f", {messages} handled again" if again else ""
    return f"back: {texts}; pause {pause.pause_us:.0f} µs, all state is kept{handled}."


def way_back_failed(view: TransactionView, reason: str, delay: float) -> str:
    """A way back that is tried again."""
    return f"transaction {view.id} could not be put back: {sentence(reason)} It serves on. Next try in {delay:g} s."


def confirmed(view: TransactionView) -> str:
    """A probation that a person has ended."""
    return (
        f"{listed(view.probation)} {'is' if len(view.probation) == 1 else 'are'} confirmed: what serves now is what an "
        f"automatic way back returns to (transaction {view.id})."
    )


def commanded(view: TransactionView, holding: Iterable[Override]) -> str:
    """A command of a person that is done, and how long it holds."""
    texts = listed([change_text(c) for c in view.changes])
    text = f"{texts}; pause {view.pause_us:.0f} µs, none lost (transaction {view.id})."
    if not any(True for _ in holding):
        return text
    return f"{text} It holds until the tags give another release."


def not_commanded(view: TransactionView) -> str:
    """A command of a person that did not go live: it leaves no trace but the record."""
    now = serving_now(view.changes)
    what = f"{view.trigger} was not done: {sentence(view.reason)}"
    return f"{what} {now} It is not tried again on its own; correct what is wrong, and say it again."


def held(fact: Held | Unheld) -> str:
    """What a hold keeps from going live, or what its end lets go."""
    what = f"of {fact.module} " if fact.module else ""
    if isinstance(fact, Unheld):
        return f"Releases {what}go live on their own again."
    unhold = f"livetag unhold{' ' if fact.module else ''}{fact.module}"
    return (
        f"No release {what}goes live on its own now; {unhold} ends that. livetag deploy TAG brings one into service all "
        "the same."
    )


def moved(tag: str, new: str | None, old: str | None) -> str:
    """A tag that was seen to move."""
    return f"tag {tag}: {(old or 'new')[:12]} → {(new or 'deleted')[:12]}"


def not_ordered(reason: str, table: Mapping[str, Entry], package: str) -> str:
    """A tag that is nobody's order under the strict policy."""
    return (
        f"{sentence(reason)} The policy is strict, and nothing of it was run. {sentence(versions(table, package))} The commit is "
        "not in quarantine: a tag on it that is properly signed is acted on at once."
    )


def versions(table: Mapping[str, Entry], package: str) -> str:
    """What serves of a package now."""
    names = [release_name(e) for e in table.values() if e.package == package]
    return (
        f"{listed(names)} {'serves' if len(names) == 1 else 'serve'}"
        if names
        else f"no {package} is in service"
    )


def to_paste(source: str) -> str:
    """Source as further lines of a text; empty if there is none."""
    return f"\nTo paste, and to complete:\n{source}" if source else ""


def sentence(text: str) -> str:
    """The text with one full stop at its end."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    items = list(items)
    return " and ".join(items) if len(items) < 3 else f"{', '.join(items[:-1])} and {items[-1]}"
