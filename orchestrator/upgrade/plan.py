"""What should be in service, and the steps that lead there: pure, no clock, no disk, no Git (DESIGN §4, §7.1).

Desired state is a function of refs, quarantine and composition, never of the order of arrival.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from orchestrator.runtime.description import Description
from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.state import find_chain
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.records import Change, Entry
from repo_store.manifest import AppManifest, ModuleManifest
from repo_store.release import APP, RefMap, Release, TagRef, Version

Key = tuple[str, str]  # (package, commit id), as in the quarantine


@dataclass(frozen=True, slots=True)
class Wish:
    """One module that should be in service: its name, its package, and the tag that says which commit."""

    name: str
    package: str
    ref: TagRef
    config: Mapping[str, object] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    @property
    def commit_id(self) -> str:
        return self.ref.commit_id or ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a release cannot be used, and whose fault that is."""

    reason: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wish with what its release turned out to be; `problem` if it could not be staged."""

    wish: Wish
    release: Release | None = None
    manifest: ModuleManifest = ModuleManifest()  # noqa: RUF009  # a frozen value
    description: Description | None = None
    folder: Path | None = None  # where it is staged
    problem: Problem | None = None

    def entry(self) -> Entry:
        """The row of the release table that it would be."""
        wish, release = self.wish, self.release
        return Entry(
            name=wish.name,
            package=wish.package,
            version=release.version if release is not None else str(wish.ref.tag.version),
            tag=wish.ref.tag.name,
            commit_id=wish.commit_id,
            tree_id=release.tree_id if release is not None else "",
            tag_object_id=wish.ref.object_id,
            config=dict(wish.config),
            also=wish.also,
            state_version=self.description.state_version if self.description is not None else 1,
        )


@dataclass(frozen=True, slots=True)
class Live:
    """What the plan must know of a module in service: the types it accepts, its state steps."""

    accepts: frozenset[str] = frozenset()
    steps: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Environment:
    """What the host offers: its Python version, and its distributions (canonical name → version)."""

    python: str
    distributions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `why` says what it found."""

    what: str
    ok: bool
    why: str
    fault: Fault | None = None  # None on a check that failed: the group waits, it does not fail


@dataclass(frozen=True, slots=True)
class Group:
    """Changes that are one transaction: all that one commit changes. `keys` are what its failure quarantines."""

    keys: tuple[Key, ...]
    tags: tuple[str, ...]
    changes: tuple[Change, ...]
    checks: tuple[Check, ...] = ()

    @property
    def refused(self) -> Problem | None:
        """Why it cannot be deployed at all."""
        bad = [c for c in self.checks if not c.ok and c.fault is not None]
        if not bad:
            return None
        worst: Fault = "release" if any(c.fault == "release" for c in bad) else "moment"
        return Problem(". ".join(c.why.rstrip(".") for c in bad if c.fault == worst), worst)

    @property
    def waits(self) -> str:
        """What it waits for; empty if nothing."""
        return "; ".join(c.why for c in self.checks if not c.ok and c.fault is None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups that can go, those that wait, those that fail as they are, and rows that only change their tag."""

    ready: tuple[Group, ...] = ()
    waiting: tuple[Group, ...] = ()
    refused: tuple[Group, ...] = ()
    unchanged: tuple[Change, ...] = ()


def desired(refs: RefMap, quarantine: Container[Key], *, prereleases: bool) -> dict[str, TagRef]:
    """Package → the highest version tag whose commit is not quarantined for it."""
    best: dict[str, TagRef] = {}
    for ref in refs.values():
        package, version = ref.tag.package, ref.tag.version
        if ref.commit_id is None or (package, ref.commit_id) in quarantine:
            continue
        if version.is_prerelease and not prereleases:
            continue
        if package not in best or best[package].tag.version < version:
            best[package] = ref
    return best


def wishes(
    tags: Mapping[str, TagRef], app: AppManifest | None, quarantine: Container[Key] = ()
) -> dict[str, Wish]:
    """Module name → wish. Without a composition every released package is one module under its own name."""
    if app is None:
        return {package: Wish(package, package, ref) for package, ref in tags.items() if package != APP}
    found = {}
    for name, spec in app.modules.items():
        package = spec.package or name
        ref = tags.get(package) or _from_app(tags[APP], package, quarantine)
        if spec.enabled and ref is not None:
            found[name] = Wish(name, package, ref, dict(spec.config), tuple(spec.also))
    return found


def _from_app(app: TagRef, package: str, quarantine: Container[Key]) -> TagRef | None:
    """A package without a tag of its own comes from the commit of the composition."""
    return None if (package, app.commit_id or "") in quarantine else app


def make_plan(
    candidates: Mapping[str, Candidate],
    table: Mapping[str, Entry],
    *,
    app_ref: TagRef | None,
    live: Mapping[str, Live],
    environment: Environment,
) -> Plan:
    """The groups that lead from the table to the candidates.

    `app_ref` is the composition's tag if there is one: only then a module that is no candidate leaves.
    """
    changes, renamed = _changes(candidates, table, leaving=app_ref is not None)
    groups = [_with_own_checks(g, candidates, live, environment) for g in _grouped(changes, table, app_ref)]
    refused = [g for g in groups if g.refused is not None]
    ready, waiting = _settle([g for g in groups if g.refused is None], candidates, table)
    return Plan(tuple(ready), tuple(waiting), tuple(refused), tuple(renamed))


def _changes(
    candidates: Mapping[str, Candidate], table: Mapping[str, Entry], *, leaving: bool
) -> tuple[list[Change], list[Change]]:
    changes, renamed = [], []
    for name, candidate in sorted(candidates.items()):
        before, after = table.get(name), candidate.entry()
        if before is None or candidate.problem is not None or not _same_service(before, after):
            changes.append(Change(name, before, after))
        elif (before.tag, before.commit_id, before.tag_object_id) != (
            after.tag,
            after.commit_id,
            after.tag_object_id,
        ):
            renamed.append(
                Change(name, before, _with_state_version(after, state_version=before.state_version))
            )
    if leaving:
        changes += [Change(name, table[name], None) for name in sorted(table) if name not in candidates]
    return changes, renamed


def _with_state_version(entry: Entry, *, state_version: int) -> Entry:
    """The entry with another state version."""
    return msgspec.structs.replace(entry, state_version=state_version)


def _same_service(before: Entry, after: Entry) -> bool:
    """In service means tree, config and bindings: if none differs there is nothing to swap (DESIGN §4)."""
    return (before.tree_id, before.package, before.config, before.also) == (
        after.tree_id,
        after.package,
        after.config,
        after.also,
    )


def _grouped(changes: Sequence[Change], table: Mapping[str, Entry], app_ref: TagRef | None) -> list[Group]:
    """One group per commit, in the same order in every run."""
    by_commit: dict[str, list[Change]] = {}
    for change in changes:
        by_commit.setdefault(_commit_of(change, app_ref), []).append(change)
    serving = {(entry.package, entry.commit_id) for entry in table.values()}
    groups = []
    for members in sorted(by_commit.values(), key=lambda changes: changes[0].name):
        after = [c.after for c in members if c.after is not None]
        keys = {(e.package, e.commit_id) for e in after}
        composed = app_ref is not None and any(_by_composition(change) for change in members)
        if composed:  # a release that serves already is not to blame if a composition that uses it anew fails
            keys -= serving
        tags = {e.tag for e in after if (e.package, e.commit_id) in keys}
        if composed and app_ref is not None:
            keys.add((APP, app_ref.commit_id or ""))
            tags.add(app_ref.tag.name)
        groups.append(Group(tuple(sorted(keys)), tuple(sorted(tags)), tuple(members)))
    return groups


def _by_composition(change: Change) -> bool:
    """Whether the composition asks for it: a module comes, leaves, or gets another config or name."""
    before, after = change.before, change.after
    if before is None or after is None:
        return True
    return (before.package, before.config, before.also) != (after.package, after.config, after.also)


def _commit_of(change: Change, app_ref: TagRef | None) -> str:
    """The commit that asks for a change: the release's; the composition's if only the composition differs."""
    app_commit = app_ref.commit_id if app_ref is not None and app_ref.commit_id is not None else ""
    if change.after is None:
        return app_commit
    before = change.before
    if before is not None and before.commit_id == change.after.commit_id and app_commit:
        return app_commit
    return change.after.commit_id


def _with_own_checks(
    group: Group, candidates: Mapping[str, Candidate], live: Mapping[str, Live], environment: Environment
) -> Group:
    checks: list[Check] = []
    for change in group.changes:
        candidate = candidates.get(change.name)
        if change.after is None or candidate is None:
            continue
        if candidate.problem is not None:
            problem = candidate.problem
            checks.append(Check(f"{change.name}: staged", False, problem.reason, problem.fault))
            continue
        checks += _environment_checks(change.name, candidate.manifest, environment)
        if change.before is not None and candidate.description is not None:
            checks += _successor_checks(change, candidate, live.get(change.name, Live()))
    return replace(group, checks=tuple(checks))


def _environment_checks(name: str, manifest: ModuleManifest, environment: Environment) -> Iterable[Check]:
    """Python and distributions, as `[requires]` asks for them."""
    requires = manifest.requires
    if requires.python is not None:
        ok = SpecifierSet(requires.python).contains(environment.python, prereleases=True)
        advice = "Lower requires.python in its module.toml, or run the host on such a Python"
        fact = f"{name} requires Python {requires.python}, this host runs {environment.python}"
        why = fact if ok else f"{fact}. {advice}"
        yield Check(f"{name}: Python {requires.python}", ok, why, None if ok else "release")
    for text in requires.distributions:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = environment.distributions.get(canonicalize_name(requirement.name))
        ok = found is not None and requirement.specifier.contains(found, prereleases=True)
        has = f"the host has {found}" if found is not None else "the host does not have it"
        advice = (
            "Install it into the host's environment, then livetag restart, livetag retry and push again; "
            "or do without it in module.toml"
        )
        fact = f"{name} requires the distribution {text}; {has}"
        why = fact if ok else f"{fact}. {advice}"
        yield Check(f"{name}: {text}", ok, why, None if ok else "release")


def _successor_checks(change: Change, candidate: Candidate, live: Live) -> Iterable[Check]:
    """A new release accepts what the one before accepted, and its state has steps up and down (DESIGN §7.1)."""
    description, before = candidate.description, change.before
    assert description is not None and before is not None  # noqa: S101, PT018  # the caller looked
    missing = sorted(live.accepts - set(description.handles) - set(candidate.manifest.drops))
    named = ", ".join(map(repr, missing))
    if missing and _goes_back(change):  # an older version cannot have named what it did not know yet
        why = f"{change.name}: going back, so messages of type {named} that still wait go to the dead letters"
        yield Check(f"{change.name}: accepts what {before.version} accepted", True, why)
        missing = []
    yield Check(
        f"{change.name}: accepts what {before.version} accepted",
        not missing,
        f"{change.name} no longer handles {named}, which {before.version} accepts, and such messages may be waiting. "
        f"Handle {named}, or give it up in module.toml: drops = [{named}]"
        if missing
        else "it handles every type that may be waiting",
        "release" if missing else None,
    )
    start, end = before.state_version, description.state_version
    if start != end:
        cls = description.entry.rpartition(":")[2]
        steps = dict.fromkeys({*live.steps, *description.migrations}, _no_step)
        yield _chain_check(change.name, cls, steps, start, end)
        if end > start and not candidate.manifest.one_way:
            yield _way_back_check(change.name, cls, steps, end, start)


def _goes_back(change: Change) -> bool:
    """Whether the release is older than the one it replaces, by its own version, whatever tag selected it."""
    if change.before is None or change.after is None:
        return False
    return Version.parse(change.after.version) < Version.parse(change.before.version)


def _no_step(state: object) -> object:
    return state


def _chain_check(name: str, cls: str, steps: Mapping[tuple[int, int], object], start: int, end: int) -> Check:
    what = f"{name}: state {start}→{end}"
    try:
        find_chain(dict.fromkeys(steps, _no_step), start, end)
    except MigrationMissing as error:
        return Check(what, False, f"{name}: {error}".replace("@YourModule.", f"@{cls}."), "release")
    return Check(what, True, f"{name}: steps {'up' if end > start else 'down'} {start}→{end}")


def _way_back_check(
    name: str, cls: str, steps: Mapping[tuple[int, int], object], start: int, end: int
) -> Check:
    what = f"{name}: way back {start}→{end}"
    try:
        find_chain(dict.fromkeys(steps, _no_step), start, end)
    except MigrationMissing:
        why = (
            f"{name}: there is no way back from state version {start} to {end}, so a rollback would lose the state. "
            f"Add a step down: @{cls}.migrates({start}, {end}); or say one_way = true in module.toml"
        )
        return Check(what, False, why, "release")
    return Check(what, True, f"{name}: way back {start}→{end}: yes")


def _settle(
    groups: Sequence[Group], candidates: Mapping[str, Candidate], table: Mapping[str, Entry]
) -> tuple[list[Group], list[Group]]:
    """Order the groups so that each one's `requires.modules` hold when it goes; those that never hold wait."""
    ready: list[Group] = []
    left = list(groups)
    versions = {name: entry.version for name, entry in table.items()}
    while left:
        fit = next((g for g in left if not _unmet([g], candidates, versions)), None)
        if fit is not None:
            left.remove(fit)
            ready.append(fit)
            versions = _after([fit], versions)
            continue
        if len(left) > 1 and not _unmet(left, candidates, versions):
            ready.append(_merged(left))  # they hold only together: one transaction
            left = []
        break
    waiting = [replace(g, checks=(*g.checks, *_unmet([g], candidates, versions))) for g in left]
    return ready, waiting


def _after(groups: Iterable[Group], versions: Mapping[str, str]) -> dict[str, str]:
    result = dict(versions)
    for change in (c for g in groups for c in g.changes):
        if change.after is None:
            result.pop(change.name, None)
        else:
            result[change.name] = change.after.version
    return result


def _unmet(
    groups: Sequence[Group], candidates: Mapping[str, Candidate], versions: Mapping[str, str]
) -> list[Check]:
    """The requirements of these groups on other modules that the resulting table would not meet."""
    result = _after(groups, versions)
    unmet = []
    for change in (c for g in groups for c in g.changes if c.after is not None):
        candidate = candidates.get(change.name)
        wants = candidate.manifest.requires.modules if candidate is not None else {}
        for other, specifiers in sorted(wants.items()):
            has = result.get(other)
            if has is None or not Version.parse(has).satisfies(specifiers):
                state = f"{other} {has} is" if has is not None else f"no {other} is"
                why = f"{change.name} requires {other} {specifiers}, and {state} in service"
                unmet.append(Check(f"{change.name}: {other} {specifiers}", False, why))
    return unmet


def _merged(groups: Sequence[Group]) -> Group:
    return Group(
        tuple(sorted({key for g in groups for key in g.keys})),
        tuple(sorted({tag for g in groups for tag in g.tags})),
        tuple(c for g in groups for c in g.changes),
        tuple(c for g in groups for c in g.checks),
    )


def joined(plan: Plan, together: Sequence[frozenset[str]]) -> Plan:
    """The plan with the ready groups of each set of tags made one transaction."""
    ready = list(plan.ready)
    for tags in together:
        members = [group for group in ready if tags.intersection(group.tags)]
        if len(members) > 1:
            ready = [_merged(members), *(group for group in ready if group not in members)]
    return replace(plan, ready=tuple(ready))
