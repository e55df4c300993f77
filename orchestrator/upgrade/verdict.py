"""What became of one tag: worked out from refs, ledger and plan, so that asking twice gives the same answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.upgrade import words
from orchestrator.upgrade.book import Doubt
from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.plan import Plan
from orchestrator.upgrade.records import Entry
from repo_store.release import APP, RefMap, TagRef, parse_tag

Word = Literal[
    "degraded", "in doubt", "live", "unchanged", "recorded", "refused", "waiting", "under way", "ignored"
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word that decides an exit code, and the sentence that explains it."""

    tag: str
    word: Word
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """All that a verdict is made from."""

    refs: RefMap
    tags: Mapping[str, TagRef]  # package → its highest good tag
    ledger: Ledger
    plan: Plan
    retrying: Mapping[Key, str]
    prereleases: bool
    trouble: str = ""  # why the last look at the repository could not be done
    stopped: str = ""  # why nothing is recorded, and so deployed, any more
    doubt: Doubt | None = None
    not_ordered: Mapping[str, str] = field(
        default_factory=dict
    )  # tag → why it is not acted on (strict policy)
    going_back: Collection[str] = ()  # modules that breached their probation
    watched: Mapping[str, float] = field(
        default_factory=dict
    )  # module → for how many seconds its probation lasts


def verdict(tag: str, view: View) -> Verdict:
    """What is true of the tag now."""
    parsed = parse_tag(tag)
    if view.stopped and parsed is not None:
        return _of_a_host_that_records_nothing(tag, view)
    if view.trouble:
        return Verdict(tag, "under way", f"not known yet: {view.trouble}")
    if parsed is None:
        return Verdict(tag, "ignored", "not a release tag (<package>/v<X.Y.Z>); nothing is deployed from it")
    if tag in view.not_ordered:
        return Verdict(
            tag, "refused", words.not_ordered(view.not_ordered[tag], view.ledger.table, parsed.package)
        )
    ref = view.refs.get(tag)
    package = parsed.package
    if ref is None:
        return Verdict(tag, "recorded", f"the tag is gone; {words.versions(view.ledger.table, package)}")
    if ref.commit_id is None:
        lost = f"it cannot be read: {ref.lost}. livetag doctor says what to do" if ref.lost else ""
        return Verdict(tag, "refused", lost or "it points at no commit. Tag a commit, and push that tag")
    key = (package, ref.commit_id)
    if key in view.ledger.quarantine:
        return Verdict(tag, "refused", _quarantined(tag, view, key))
    if parsed.version.is_prerelease and not view.prereleases:
        return Verdict(
            tag,
            "recorded",
            "a pre-release; this host deploys them only with prereleases = true in livetag.toml",
        )
    best = view.tags.get(package)
    if best is not None and best.tag.name != tag:
        return Verdict(tag, "recorded", f"not deployed: {best.tag.name} is higher")
    return _of_the_wished(tag, ref, key, view)


def _of_a_host_that_records_nothing(tag: str, view: View) -> Verdict:
    """Nothing goes live any more until a restart; what was in the middle of it is known to nobody until then."""
    ref = view.refs.get(tag)
    serving = [e for e in view.ledger.table.values() if e.tag == tag]
    if serving and ref is not None and ref.commit_id == serving[0].commit_id:
        return Verdict(tag, "live", _live_text(serving[0], _last_change(view.ledger, serving[0])))
    if ref is not None and view.ledger.app == (tag, ref.commit_id):
        return _of_a_composition_in_force(tag, view)
    if view.doubt is not None and tag in view.doubt.tags:
        text = (
            f"transaction {view.doubt.txn} is in doubt: its versions serve, but it is not known whether their COMMITTED is "
            f"on disk. {view.doubt.reason}\nThe tag stays. The restart finds it committed or rolls it back, and says "
            "which in livetag history; nothing else goes live before."
        )
        return Verdict(tag, "in doubt", text)
    text = (
        f"the host cannot record anything, so it deploys nothing: {view.stopped}\nWhat was in service serves on. Repair "
        f"the disk, livetag restart (or start the host anew), and push {tag} again."
    )
    return Verdict(tag, "refused", text)


def _of_the_wished(tag: str, ref: TagRef, key: Key, view: View) -> Verdict:
    if key in view.retrying:
        return Verdict(
            tag, "under way", f"it failed for a reason of the moment and is tried again: {view.retrying[key]}"
        )
    kept = _kept_back(tag, view)
    if kept is not None:
        return kept
    serving = [e for e in view.ledger.table.values() if e.tag == tag and e.commit_id == ref.commit_id]
    if ref.tag.package == APP:
        return _of_the_composition(tag, view)
    if not serving and (overridden := _overridden(ref, view.ledger)):
        return Verdict(tag, "recorded", overridden)
    if not serving:
        return Verdict(
            tag, "recorded", f"not deployed: no module of the composition is made from {ref.tag.package}"
        )
    last = _last_change(view.ledger, serving[0])
    if last is not None and last.outcome == "unchanged":
        text = f"{words.release_name(serving[0])} is in service already: the same code, nothing was swapped"
        return Verdict(tag, "unchanged", text)
    return _live(tag, _live_text(serving[0], last), (serving[0].name,), view)


def _live(tag: str, text: str, modules: Sequence[str], view: View) -> Verdict:
    """It is in service; and how its probation stands, if it is in one."""
    found = next((v for v in view.ledger.in_probation if not set(modules).isdisjoint(v.probation)), None)
    if found is None:
        return Verdict(tag, "live", text)
    if found.degraded is not None:
        return Verdict(tag, "degraded", f"{text}\n{words.degraded(found.degraded.reason, found.probation)}")
    if found.inconclusive is not None:
        said = words.inconclusive(found.inconclusive.reason, found.probation)
        return Verdict(tag, "live", f"{text}\nIts probation is inconclusive: {said}")
    seconds = max((view.watched[name] for name in found.probation if name in view.watched), default=None)
    return Verdict(tag, "live", f"{text}; in probation for {seconds:g} s" if seconds is not None else text)


def _kept_back(tag: str, view: View) -> Verdict | None:
    """What it waits for, if it does: others, a way back, or a person."""
    for group in view.plan.waiting:
        if tag in group.tags:
            text = f"{words.sentence(group.waits)}\n{words.serving_now(group.changes)}"
            return Verdict(tag, "waiting", f"{text} {tag} goes live by itself once that has changed.")
    for group in view.plan.ready:
        going = [change.name for change in group.changes if change.name in view.going_back]
        if tag in group.tags and going:
            text = f"{words.listed(going)} goes back to what was confirmed last; {tag} is acted on after that"
            return Verdict(tag, "under way", text)
    for group in view.plan.held:
        if tag in group.tags:
            text = f"not deployed: {group.held} deploys it, and livetag deploy {tag} does so now"
            return Verdict(tag, "recorded", text)
    return None


def _overridden(ref: TagRef, ledger: Ledger) -> str:
    """Who keeps a release from service by a command, if somebody does; empty if nobody."""
    package = ref.tag.package
    mine = {name for name, entry in ledger.table.items() if entry.package == package} | {package}
    found = [o for o in ledger.overrides.values() if o.module in mine and o.what in {"unload", "swap"}]
    if not found:
        return ""
    said = " and ".join(f"{o.module} is {o.said}" for o in found)
    return f"not deployed: {said}. That holds until a tag gives another release, or a command takes it back"


def _of_the_composition(tag: str, view: View) -> Verdict:
    if any(tag in group.tags for group in (*view.plan.ready, *view.plan.refused)):
        return Verdict(tag, "under way", "the composition is being brought into service")
    return _of_a_composition_in_force(tag, view)


def _of_a_composition_in_force(tag: str, view: View) -> Verdict:
    txn = next(
        (t for t in reversed(list(view.ledger.transactions.values())) if tag in t.trigger.split()), None
    )
    if txn is None:
        return Verdict(tag, "unchanged", "the modules in service are those it asks for")
    text = "; ".join(words.change_text(c) for c in txn.changes)
    return _live(tag, text, [change.name for change in txn.changes], view)


def _quarantined(tag: str, view: View, key: Key) -> str:
    """What failed, what is true now, what to do; and, if it is a step that is missing, how that begins."""
    ledger = view.ledger
    entry = ledger.quarantine[key]
    name = entry.tag or tag
    before = f"this commit was refused before, as {name}: " if name != tag else ""
    breached = next((t for t in reversed(list(ledger.transactions.values())) if _breached_with(t, key)), None)
    txn = breached or next(
        (t for t in reversed(list(ledger.transactions.values())) if _failed_with(t, key, name)), None
    )
    modules = [c.name for c in txn.changes] if txn is not None else []
    serving = [ledger.table[m] for m in modules if m in ledger.table]
    now = words.serving(serving) if modules else _in_force(ledger, key[0])
    others = [each for each in txn.trigger.split() if each != name] if txn is not None else []
    together = (
        f"It {'went' if breached is not None else 'was to go'} live in one transaction with {words.listed(others)}, so they "
        "are refused together. "
        if others
        else ""
    )
    new = (
        f"new tags, e.g. {words.next_tag([name, *others], view.refs)}"
        if others
        else (f"a new tag, e.g. {words.next_tag([tag], view.refs)}")
    )
    return (
        f"{before}{words.sentence(entry.reason)}\n{now}\n"
        f"{together}Fix it, commit, and push {new}. "
        f"Commit {key[1][:12]} stays in quarantine; to have it tried again as it is: livetag retry {name}."
        f"{words.to_paste(entry.paste)}"
    )


def _in_force(ledger: Ledger, package: str) -> str:
    """What serves of a package that no transaction failed with; a composition is in force instead."""
    if package != APP:
        return f"{words.versions(ledger.table, package)}."
    return (
        f"The composition {ledger.app[0]} is in force."
        if ledger.app is not None
        else "No composition is in force."
    )


def _failed_with(txn: TransactionView, key: Key, tag: str) -> bool:
    """Whether the transaction failed with that release, or with that composition, which changes no row by itself."""
    mine = any(c.after is not None and (c.after.package, c.after.commit_id) == key for c in txn.changes)
    return txn.outcome == "rolled_back" and (mine or (key[0] == APP and tag in txn.trigger.split()))


def _breached_with(txn: TransactionView, key: Key) -> bool:
    """Whether the transaction brought that release, which then did not keep its limits and went back."""
    mine = any(c.after is not None and (c.after.package, c.after.commit_id) == key for c in txn.changes)
    return txn.breach is not None and mine


def _last_change(ledger: Ledger, entry: Entry) -> TransactionView | None:
    for txn in reversed(list(ledger.transactions.values())):
        if any(c.after == entry for c in txn.changes) and txn.outcome in {"committed", "unchanged"}:
            return txn
    return None


def _live_text(entry: Entry, last: TransactionView | None) -> str:
    if last is None:
        return f"{words.release_name(entry)} is in service"
    changes = words.listed(words.change_text(c) for c in last.changes)
    waited = "message" if last.held_messages == 1 else "messages"
    return f"{changes}; pause {last.pause_us:.0f} µs, {last.held_messages} {waited} waited, none lost (transaction {last.id})"
