"""What is looked at in a release before anything is touched: the host, the release before, the state (DESIGN §7.1). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.runtime.description import Description
from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.state import find_path
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.records import Change
from orchestrator.upgrade.skeleton import Missing, skeleton
from orchestrator.upgrade.table_checks import TableChecks, TableInService
from repo_store.manifest import ModuleManifest


@dataclass(frozen=True, slots=True)
class Live:
    """What the plan must know of a module in service: the types it accepts, its state steps, and the rest if known."""

    accepts: frozenset[str] = frozenset()
    steps: frozenset[tuple[int, int]] = frozenset()
    description: Description | None = None
    tables: Mapping[str, TableInService] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the host offers: its Python version, and its distributions (canonical name → version)."""

    python: str
    distributions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `why` says what it found.

    `about` are the modules whose releases could make it hold; `loud`: it holds, and is said to who asked all the same.
    `paste` is source with which it would hold.
    """

    what: str
    ok: bool
    why: str
    fault: Fault | None = None  # None on a check that failed: the group waits, it does not fail
    about: frozenset[str] = frozenset()
    loud: bool = False
    paste: str = ""


def release_checks(
    change: Change, candidate: Candidate | None, live: Live, environment: Environment
) -> Iterable[Check]:
    """What a release alone says against its coming into service; nothing for a module that leaves."""
    if change.after is None or candidate is None:
        return
    if candidate.problem is not None:
        problem = candidate.problem
        fault: Fault | None = None if problem.waits else problem.fault
        yield Check(f"{change.name}: staged", False, problem.reason, fault)
        return
    yield from _environment_checks(change.name, candidate.manifest, environment)
    if change.before is not None and candidate.description is not None:
        yield from _state_checks(change, candidate, live)
        one_way = candidate.manifest.one_way
        for found in TableChecks(change.name, candidate.description, live.tables, one_way).found():
            fault = "release" if found.bad else None
            yield Check(found.what, not found.bad, found.why, fault, paste=found.paste)


def _environment_checks(name: str, manifest: ModuleManifest, environment: Environment) -> Iterable[Check]:
    """Python and distributions, as `[requires]` asks for them."""
    requires = manifest.requires
    if requires.python is None and not requires.distributions:
        return
    from packaging.requirements import Requirement  # 20 ms of a host's start that few releases need
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

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


def _state_checks(change: Change, candidate: Candidate, live: Live) -> Iterable[Check]:
    """Its state has steps up and down (DESIGN §7.1)."""
    description, before = candidate.description, change.before
    assert description is not None and before is not None  # noqa: S101, PT018  # the caller looked
    start, end = before.state_version, description.state_version
    if start != end:
        cls = description.entry.rpartition(":")[2]
        steps = frozenset({*live.steps, *description.migrations})
        old = live.description.state_schema if live.description is not None else None
        new = description.state_schema
        missing = Missing(cls, start, end)
        yield _chain_check(change.name, missing, steps, skeleton(missing, old, new))
        if end > start and not candidate.manifest.one_way:
            missing = Missing(cls, end, start)
            yield _way_back_check(change.name, missing, steps, skeleton(missing, new, old))


def _chain_check(name: str, missing: Missing, steps: Collection[tuple[int, int]], paste: str) -> Check:
    start, end = missing.before, missing.after
    what = f"{name}: state {start}→{end}"
    try:
        find_path(steps, start, end)
    except MigrationMissing as error:
        why = f"{name}: {error}".replace("@YourModule.", f"@{missing.cls}.")
        return Check(what, False, why, "release", paste=paste)
    return Check(what, True, f"{name}: steps {'up' if end > start else 'down'} {start}→{end}")


def _way_back_check(name: str, missing: Missing, steps: Collection[tuple[int, int]], paste: str) -> Check:
    start, end = missing.before, missing.after
    what = f"{name}: way back {start}→{end}"
    try:
        find_path(steps, start, end)
    except MigrationMissing:
        why = (
            f"{name}: there is no way back from state version {start} to {end}, so a rollback would lose the state. "
            f"Add a step down: {missing.decorator}; or say one_way = true in module.toml"
        )
        return Check(what, False, why, "release", paste=paste)
    return Check(what, True, f"{name}: way back {start}→{end}: yes")
