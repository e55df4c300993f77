"""Does a release take what the one that it replaces took? Types and shapes: such messages may be waiting (DESIGN §7.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.shapes import narrower
from repo_store.release import Version


def goes_back(change: Change) -> bool:
    """Whether the release is older than the one it replaces, by its own version, whatever tag selected it."""
    if change.before is None or change.after is None:
        return False
    return Version.parse(change.after.version) < Version.parse(change.before.version)


@dataclass(frozen=True, slots=True)
class Loss:
    """What a release no longer takes: the types, the fact, more about it, and what would keep them."""

    types: tuple[str, ...]
    fact: str
    more: str
    way_out: str

    @property
    def named(self) -> str:
        return ", ".join(map(repr, self.types))

    @property
    def fault(self) -> str:
        fact = f"{self.fact}, and such messages may be waiting{self.more}"
        return f"{fact}. {self.way_out}, or give it up in module.toml: drops = [{self.named}]"


def acceptance_checks(change: Change, candidate: Candidate | None, live: Live) -> Iterable[Check]:
    """What the release no longer takes and does not name in `drops` is its fault; of a way back it is only said.

    An older version cannot have named what it did not know yet.
    """
    before, after = change.before, change.after
    if before is None or after is None or candidate is None or candidate.description is None:
        return
    what = f"{change.name}: accepts what {before.version} accepted"
    drops = candidate.manifest.drops
    lost = [
        *_types(before, candidate.description, live, drops),
        *_shapes(before, after, candidate.description, live, drops),
    ]
    if not lost:
        yield Check(what, True, "it handles every type that may be waiting")
    back = goes_back(change)
    for loss in lost:
        if back:
            waiting = f"messages of type {loss.named} that still wait go to the dead letters{loss.more}"
            yield Check(what, True, f"{change.name}: going back, so {waiting}", loud=True)
        else:
            yield Check(what, False, loss.fault, "release")


def _types(before: Entry, new: Description, live: Live, drops: Sequence[str]) -> Iterable[Loss]:
    """Types that have no handler any more."""
    missing = tuple(sorted(live.accepts - set(new.handles) - set(drops)))
    if missing:
        named = ", ".join(map(repr, missing))
        fact = f"{before.name} no longer handles {named}, which {before.version} accepts"
        yield Loss(missing, fact, "", f"Handle {named}")


def _shapes(
    before: Entry, after: Entry, new: Description, live: Live, drops: Sequence[str]
) -> Iterable[Loss]:
    """Types whose handler takes less."""
    old = live.description
    if old is None:
        return
    for type_ in sorted(set(old.handles) & set(new.handles) - set(drops)):
        wrong = _narrower(type_, old, new)
        if wrong:
            number = len(old.upcasts.get(type_, ())) + 1
            fact = f"{before.name} {after.version} does not take every {type_!r} that {before.version} takes"
            way_out = f'Take the old shape too, by @upcasts("{type_}", {number}, {number + 1})'
            yield Loss((type_,), fact, f": {'; '.join(wrong)}", way_out)


def _narrower(type_: str, old: Description, new: Description) -> list[str]:
    accepted = (old.handles[type_], *old.upcasts.get(type_, ()))
    upcasts = new.upcasts.get(type_, ())
    return list(dict.fromkeys(p for shape in accepted for p in narrower(shape, new.handles[type_], upcasts)))
