"""Does a release take what the one that it replaces took? Types and shapes: such messages may be waiting (DESIGN §7.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.runtime.description import Description
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.shapes import narrower
from repo_store.release import Version


def goes_back(change: Change) -> bool:
    """Whether the release is older than the one it replaces, by its own version, whatever tag selected it."""
    if change.before is None or change.after is None:
        return False
    return Version.parse(change.after.version) < Version.parse(change.before.version)


def acceptance_checks(change: Change, candidate: Candidate | None, live: Live) -> Iterable[Check]:
    """What the release no longer takes and does not name in `drops` is its fault; of a way back it is only said.

    An older version cannot have named what it did not know yet.
    """
    before, after = change.before, change.after
    if before is None or after is None or candidate is None or candidate.description is None:
        return
    what = f"{change.name}: accepts what {before.version} accepted"
    lost = [*_types(change, candidate, live), *_shapes(change, candidate, live)]
    if not lost:
        yield Check(what, True, "it handles every type that may be waiting")
    back = goes_back(change)
    for fact, types, way_out in lost:
        if back:
            why = f"{change.name}: going back, so messages of type {types} that still wait go to the dead letters: {fact}"
            yield Check(what, True, why, loud=True)
        else:
            yield Check(
                what, False, f"{fact}. {way_out}, or give it up in module.toml: drops = [{types}]", "release"
            )


def _types(change: Change, candidate: Candidate, live: Live) -> Iterable[tuple[str, str, str]]:
    """(what is lost, the types, what to do) for types that have no handler any more."""
    before, description = change.before, candidate.description
    assert before is not None and description is not None  # noqa: S101, PT018  # the caller looked
    missing = sorted(live.accepts - set(description.handles) - set(candidate.manifest.drops))
    if missing:
        named = _quoted(missing)
        fact = f"{change.name} no longer handles {named}, which {before.version} accepts, and such messages may be waiting"
        yield fact, named, f"Handle {named}"


def _shapes(change: Change, candidate: Candidate, live: Live) -> Iterable[tuple[str, str, str]]:
    """The same for types whose handler takes less."""
    before, after, old, new = change.before, change.after, live.description, candidate.description
    assert before is not None and after is not None and new is not None  # noqa: S101, PT018  # the caller looked
    if old is None:
        return
    for type_ in sorted(set(old.handles) & set(new.handles) - set(candidate.manifest.drops)):
        wrong = _narrower(type_, old, new)
        if wrong:
            number = len(old.upcasts.get(type_, ())) + 1
            fact = (
                f"{change.name} {after.version} does not take every {type_!r} that {before.version} takes, and such "
                f"messages may be waiting: {'; '.join(wrong)}"
            )
            yield (
                fact,
                _quoted([type_]),
                f'Take the old shape too, by @upcasts("{type_}", {number}, {number + 1})',
            )


def _narrower(type_: str, old: Description, new: Description) -> list[str]:
    accepted = (old.handles[type_], *old.upcasts.get(type_, ()))
    upcasts = new.upcasts.get(type_, ())
    return list(dict.fromkeys(p for shape in accepted for p in narrower(shape, new.handles[type_], upcasts)))


def _quoted(types: Sequence[str]) -> str:
    return ", ".join(map(repr, types))
