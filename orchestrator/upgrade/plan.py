"""The steps that lead from what is in service to what should be: pure, no clock, no disk, no Git (DESIGN §4, §7.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from orchestrator.upgrade.candidate import Candidate, Problem, candidate_of
from orchestrator.upgrade.checks import Check, Environment, Live, release_checks
from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.overrides import Hold, Override, apart, explains, held_back
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.resulting import Resulting
from orchestrator.upgrade.states import out_of_reach
from orchestrator.upgrade.successor import acceptance_checks
from repo_store.release import APP, TagRef


@dataclass(frozen=True, slots=True)
class Group:
    """Changes that are one transaction: all that one commit, or one command, changes.

    `keys` are what its failure quarantines, `overrides` what it ends; `held` says who keeps it from going.
    """

    keys: tuple[Key, ...]
    tags: tuple[str, ...]
    changes: tuple[Change, ...]
    checks: tuple[Check, ...] = ()
    overrides: tuple[Override, ...] = ()
    held: str = ""

    @property
    def refused(self) -> Problem | None:
        """Why it cannot be deployed at all."""
        bad = [c for c in self.checks if not c.ok and c.fault is not None]
        if not bad:
            return None
        worst: Fault = "release" if any(c.fault == "release" for c in bad) else "moment"
        said = [c for c in bad if c.fault == worst]
        # Modules of one package fail for one reason, which is said once.
        whys = dict.fromkeys(c.why.rstrip(".") for c in said)
        return Problem(". ".join(whys), worst, "\n\n".join(dict.fromkeys(c.paste for c in said if c.paste)))

    @property
    def waits(self) -> str:
        """What it waits for; empty if nothing."""
        return "; ".join(c.why for c in self.checks if not c.ok and c.fault is None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups that can go, that wait, that fail as they are, that a person holds; rows that change, and nothing else does."""

    ready: tuple[Group, ...] = ()
    waiting: tuple[Group, ...] = ()
    refused: tuple[Group, ...] = ()
    unchanged: tuple[Change, ...] = ()
    held: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class Say:
    """What persons have said: the modules that leave, the overrides that hold, holds, and the tags that go through them."""

    leaving: Container[str] = ()
    overrides: Sequence[Override] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    by_hand: Container[str] = ()


def make_plan(
    candidates: Mapping[str, Candidate],
    table: Mapping[str, Entry],
    *,
    app_ref: TagRef | None,
    live: Mapping[str, Live],
    environment: Environment,
    together: Sequence[frozenset[str]] = (),
    say: Say = Say(),  # a frozen value
) -> Plan:
    """The groups that lead from the table to the candidates. `app_ref` is the composition's tag if there is one.

    `together` are sets of tags which are one transaction each, whatever their commits (a rollback of one).
    """
    found, renamed = _changes(candidates, table, say.leaving)
    out = [change for change in found if _of_the_row_alone(change, live, say)]
    changes = [change for change in found if change not in out]
    grouped = joined(_exchanging(_grouped(changes, table, app_ref, say.overrides)), together)
    checked = [_checked(group, candidates, live, environment) for group in grouped]
    groups = [replace(group, held=_held(group, say)) for group in checked]
    held = [group for group in groups if group.held]
    going = [group for group in groups if not group.held]
    resulting = Resulting(candidates, table, live)
    refused = [_with(group, resulting) for group in going if group.refused is not None]
    unread = [_with(group, resulting) for group in going if group.refused is None and group.waits]
    readable = [group for group in going if group.refused is None and not group.waits]
    ready, waiting = _settle(readable, resulting)
    unchanged = (*renamed, *_without_names_of_others(out, table))
    return Plan(tuple(ready), (*unread, *waiting), tuple(refused), unchanged, tuple(held))


def _held(group: Group, say: Say) -> str:
    """Who keeps the group from going on its own; what a person asks for by hand goes."""
    if group.overrides or any(tag in say.by_hand for tag in group.tags):
        return ""
    holds = dict.fromkeys(hold for c in group.changes if (hold := held_back(say.holds, c.name)) is not None)
    return "; ".join(hold.said for hold in holds)


def _changes(
    candidates: Mapping[str, Candidate], table: Mapping[str, Entry], leaving: Container[str]
) -> tuple[list[Change], list[Change]]:
    changes, renamed = [], []
    for name, candidate in sorted(candidates.items()):
        before, after = table.get(name), candidate.entry()
        if before is not None and candidate.description is None:  # its code is loaded already
            after = msgspec.structs.replace(after, state_version=before.state_version)
        if before is None or candidate.problem is not None or not _same_service(before, after):
            changes.append(Change(name, before, after))
        elif (before.tag, before.commit_id, before.tag_object_id) != (
            after.tag,
            after.commit_id,
            after.tag_object_id,
        ):
            renamed.append(Change(name, before, after))
    changes += [Change(name, entry, None) for name, entry in sorted(table.items()) if name in leaving]
    return changes, renamed


def _of_the_row_alone(change: Change, live: Container[str], say: Say) -> bool:
    """Whether it changes nothing but the row of a module that is not loaded: its names, or whether it is to be in service.

    To load its release for that is to try once more what could not come back, or has ended the host. The failure would be
    held against the composition, which may be in force, and a death against nobody, as the change brings no code. What a
    person says of it is refused, and answered, as a command.
    """
    before, after = change.before, change.after
    if before is None or after is None or change.brings_code or change.name in live:
        return False
    if _same_service(before, after):  # its release cannot be staged: that is said, and changes no row
        return False
    return not any(o.module == change.name and explains(o, change) for o in say.overrides)


def _without_names_of_others(changes: Sequence[Change], table: Mapping[str, Entry]) -> list[Change]:
    """The changes of rows, without those that take a name which another row has until its own change is done.

    Two rows of one name would end each start of the host.
    """
    rows = {**table, **{change.name: change.after for change in changes if change.after is not None}}
    owners = Counter(name for row in rows.values() for name in {row.name, *row.also})
    free = [c for c in changes if c.after is not None and all(owners[also] == 1 for also in c.after.also)]
    return free if len(free) == len(changes) else _without_names_of_others(free, table)


def _same_service(before: Entry, after: Entry) -> bool:
    """In service means tree, config and bindings, enabled or not: if none differs nothing is to be done (DESIGN §4)."""
    return (before.tree_id, *_composed(before)) == (after.tree_id, *_composed(after))


def _composed(entry: Entry) -> tuple[object, ...]:
    """What the composition says of a module."""
    return (entry.package, entry.config, frozenset(entry.also), entry.enabled)


def _grouped(
    changes: Sequence[Change],
    table: Mapping[str, Entry],
    app_ref: TagRef | None,
    overrides: Sequence[Override],
) -> list[Group]:
    """One group per command and one per commit, in the same order in every run."""
    commanded: list[Group] = []
    by_commit: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        asked = tuple(override for override in overrides if explains(override, change))
        mine, rest = apart(change, asked) if asked else (None, change)
        if mine is not None:
            tags = tuple(dict.fromkeys(override.command for override in asked))
            commanded.append(Group((), tags, (mine,), overrides=asked))
        if rest is not None:
            by_commit.setdefault(_together_by(rest, app_ref), []).append(rest)
    commanded = _joined_where(commanded, lambda a, b: bool(set(a.overrides) & set(b.overrides)))
    return [*commanded, *_of_commits(by_commit, table, app_ref)]


def _of_commits(
    by_commit: Mapping[tuple[str, str], list[Change]], table: Mapping[str, Entry], app_ref: TagRef | None
) -> list[Group]:
    serving = {(entry.package, entry.commit_id) for entry in table.values()}
    groups = []
    for members in sorted(by_commit.values(), key=lambda changes: changes[0].name):
        after = [c.after for c in members if c.after is not None and not _only_composed(c)]
        keys = {(e.package, e.commit_id) for e in after}
        composed = app_ref is not None and any(_by_composition(change) for change in members)
        if composed:  # a release that serves already is not to blame if a composition that uses it anew fails
            keys -= serving
        tags = {e.tag for e in after if (e.package, e.commit_id) in keys}
        if composed and app_ref is not None:
            keys.add((APP, app_ref.commit_id or ""))
            tags.add(app_ref.tag.name)
        tags = tags or {entry.tag for c in members if (entry := c.after or c.before) is not None}
        groups.append(Group(tuple(sorted(keys)), tuple(sorted(tags)), tuple(members)))
    return groups


def _only_composed(change: Change) -> bool:
    """Whether the release of a module stays: only what the composition or a person says of it changes."""
    before, after = change.before, change.after
    return before is not None and after is not None and before.commit_id == after.commit_id


def _exchanging(groups: Sequence[Group]) -> list[Group]:
    """The groups, with those one where a name that one of them frees is taken by another: it moves in one switch."""

    def names(changes: Iterable[Entry | None]) -> set[str]:
        return {name for entry in changes if entry is not None for name in (entry.name, *entry.also)}

    def hands_on(one: Group, other: Group) -> bool:
        freed = names(c.before for c in one.changes) - names(c.after for c in one.changes)
        return bool(freed & (names(c.after for c in other.changes) - names(c.before for c in other.changes)))

    return _joined_where(groups, lambda one, other: hands_on(one, other) or hands_on(other, one))


def _joined_where(groups: Sequence[Group], related: Callable[[Group, Group], bool]) -> list[Group]:
    """The groups, with those that are related made one."""
    found: list[Group] = []
    for group in groups:
        joined_ = group
        for other in [o for o in found if related(o, group)]:
            found.remove(other)
            joined_ = _merged([other, joined_])
        found.append(joined_)
    return found


def _by_composition(change: Change) -> bool:
    """Whether the composition asks for it: a module comes, leaves, or gets another config or name."""
    before, after = change.before, change.after
    if before is None or after is None:
        return True
    return _composed(before) != _composed(after)


def _together_by(change: Change, app_ref: TagRef | None) -> tuple[str, str]:
    """What makes changes one transaction: the commit that asks for them.

    Without a composition none asks for one that keeps its release, and each is by itself: one that cannot be done, and that
    nobody could be blamed for, would keep the others from it for ever.
    """
    alone = app_ref is None and _only_composed(change)
    return _commit_of(change, app_ref), change.name if alone else ""


def _commit_of(change: Change, app_ref: TagRef | None) -> str:
    """The commit that asks for a change: the release's; the composition's for all that the composition differs in."""
    app_commit = app_ref.commit_id if app_ref is not None and app_ref.commit_id is not None else ""
    if change.after is None or (app_commit and _by_composition(change)):
        return app_commit
    return change.after.commit_id


def _checked(
    group: Group, candidates: Mapping[str, Candidate], live: Mapping[str, Live], environment: Environment
) -> Group:
    checks = [
        check
        for c in group.changes
        for check in _of_one(c, candidate_of(c, candidates), live.get(c.name, Live()), environment)
    ]
    return replace(group, checks=(*_not_loaded(group, live), *checks))


def _not_loaded(group: Group, live: Mapping[str, Live]) -> Iterator[Check]:
    """A command is for what is loaded, and brings no code: what could not come back it would have to load anew.

    Its release may be the one that ends each host, and the one that is staged may be another, which waits or is held.
    """
    for change in group.changes if group.overrides else ():
        if _only_composed(change) and change.name not in live:
            yield Check(f"{change.name}: loaded", False, out_of_reach(change.name))


def _of_one(
    change: Change, candidate: Candidate | None, live: Live, environment: Environment
) -> Iterator[Check]:
    yield from release_checks(change, candidate, live, environment)
    yield from acceptance_checks(change, candidate, live)


def _settle(groups: Sequence[Group], resulting: Resulting) -> tuple[list[Group], list[Group]]:
    """Order the groups so that what each needs of the others holds when it goes; what never holds waits (DESIGN §4)."""
    ready: list[Group] = []
    left = list(groups)
    while (members := _next(left, resulting)) is not None:
        left = [group for group in left if group not in members]
        group = members[0] if len(members) == 1 else _merged(members)
        ready.append(_with(group, resulting))
        resulting.settle(group.changes)
    return ready, [_with(group, resulting) for group in left]


def _with(group: Group, resulting: Resulting) -> Group:
    return replace(group, checks=(*group.checks, *resulting.checks(group.changes)))


def _next(left: Sequence[Group], resulting: Resulting) -> list[Group] | None:
    """One that holds by itself, else the fewest that hold only together, which are one transaction; None: there are none."""
    for group in left:
        if not resulting.unmet(group.changes):
            return [group]
    return next((members for group in left if (members := _together(group, left, resulting))), None)


def _together(group: Group, left: Sequence[Group], resulting: Resulting) -> list[Group] | None:
    """The group and, again and again, those that change a module which its unmet checks are about."""
    members = [group]
    while unmet := resulting.unmet([change for member in members for change in member.changes]):
        about = {name for check in unmet for name in check.about}
        more = [g for g in left if g not in members and any(change.name in about for change in g.changes)]
        if not more:
            return None
        members += more
    return sorted(members, key=left.index)


def _merged(groups: Sequence[Group]) -> Group:
    return Group(
        tuple(sorted({key for g in groups for key in g.keys})),
        tuple(sorted({tag for g in groups for tag in g.tags})),
        tuple(c for g in groups for c in g.changes),
        tuple(c for g in groups for c in g.checks),
        tuple(dict.fromkeys(override for g in groups for override in g.overrides)),
        "; ".join(dict.fromkeys(g.held for g in groups if g.held)),
    )


def joined(groups: Sequence[Group], together: Sequence[frozenset[str]]) -> list[Group]:
    """The groups with those of each set of tags made one."""
    left = list(groups)
    for tags in together:
        members = [group for group in left if tags.intersection(group.tags)]
        if len(members) > 1:
            left = [_merged(members), *(group for group in left if group not in members)]
    return left
