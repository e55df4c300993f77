"""What a plan would do, to be shown: transactions in their order, state, way back, pause, checks (DESIGN §7.1). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.runtime.errors import MigrationMissing
from orchestrator.runtime.state import find_path
from orchestrator.upgrade import shadow_words, words
from orchestrator.upgrade.candidate import Candidate, Problem
from orchestrator.upgrade.checks import Check, Live
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.plan import Group, Plan
from orchestrator.upgrade.records import Change, Entry

Kind = Literal["ready", "waiting", "held", "refused"]
WOULD: Mapping[Kind, str] = {
    "ready": "would do",
    "waiting": "would wait",
    "held": "would be held",
    "refused": "would be refused",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """What the trial of one module found: how long it took, what its migration would take, what the way back loses.

    `on` says on what of the live module, as a phrase; empty: as at a first start. `down`: the state, or a Table, would go
    down, and `lost` is what that loses.
    """

    on: str = ""
    seconds: float = 0.0
    migration_s: float | None = None
    lost: tuple[str, ...] | None = None
    problem: Problem | None = None
    down: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forecast is made from, beside the plan."""

    candidates: Mapping[str, Candidate]
    ledger: Ledger
    live: Mapping[str, Live]
    kept: Mapping[str, int]  # module → the version of the state that waits for it
    tried: Mapping[str, Tried]
    shadows: bool = True  # whether the host shadows releases


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction does to one module; `states` are the state versions that it passes, one if it is kept."""

    change: Change
    states: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """One transaction. `number` is its place among those that can go; `expected_us` None: nothing was measured."""

    kind: Kind
    number: int | None
    group: Group
    steps: tuple[Step, ...]
    expected_us: float | None
    pause: str

    @property
    def checks(self) -> tuple[Check, ...]:
        return self.group.checks

    @property
    def why(self) -> str:
        """Why it waits, is held, or is refused; empty if it can go."""
        if self.kind in {"waiting", "held"}:
            return self.group.waits if self.kind == "waiting" else self.group.held
        return self.group.refused.reason if self.group.refused is not None else ""

    @property
    def text(self) -> str:
        """What it would do, in a line."""
        changes = words.listed([words.change_text(s.change) for s in self.steps]) or "app.toml"
        return f"{WOULD[self.kind]}: {changes}"

    @property
    def full_text(self) -> str:
        """What it would do, and why not."""
        return f"{self.text}. {words.sentence(self.why)}" if self.why else self.text


def groups_of(plan: Plan, tags: Collection[str] = ()) -> list[tuple[Kind, int | None, Group]]:
    """The groups that have to do with one of the tags (all, if none is named), in the order in which they would go."""
    named: tuple[tuple[Kind, tuple[Group, ...]], ...] = (
        ("ready", plan.ready),
        ("waiting", plan.waiting),
        ("held", plan.held),
        ("refused", plan.refused),
    )
    return [
        (kind, number if kind == "ready" else None, group)
        for kind, groups in named
        for number, group in enumerate(groups, 1)
        if not tags or set(tags) & set(group.tags)
    ]


def foresee(kind: Kind, number: int | None, group: Group, seen: Seen) -> Forecast:
    """The forecast of one group, with what its trials found."""
    steps = tuple(Step(change, _states(change, seen)) for change in group.changes)
    checks = [
        *_completed(group, seen),
        *_trial_checks(group, seen),
        *_shadow_checks(group, seen),
        *_budget_check(group, seen),
    ]
    group = replace(group, checks=tuple(checks))
    expected_us, pause = _pause(steps, seen)
    if kind in {"ready", "held"} and group.refused is not None:
        kind, number = "refused", None
    return Forecast(kind, number, group, steps, expected_us, pause)


def _states(change: Change, seen: Seen) -> tuple[int, ...]:
    """The state versions from the state there is to the one that is to come."""
    after, candidate = change.after, seen.candidates.get(change.name)
    start = change.before.state_version if change.before is not None else seen.kept.get(change.name)
    if after is None or candidate is None:
        return () if start is None else (start,)
    end = after.state_version
    if start is None:
        return (end,)
    description = candidate.description
    own = description.migrations if description is not None else ()
    try:
        return tuple(find_path({*seen.live.get(change.name, Live()).steps, *own}, start, end))
    except MigrationMissing:
        return (start, end)  # a check says what is missing


def _completed(group: Group, seen: Seen) -> Iterable[Check]:
    """The checks of the plan; what the trial knows better of a way back takes the place of what the steps promise."""
    known = {
        _way_back(c.name, c.before, c.after): words.way_back(c, tried.lost)
        for c in group.changes
        if c.before is not None and c.after is not None
        if (tried := seen.tried.get(c.name)) is not None
        and tried.lost is not None
        and tried.on
        and not tried.down
    }
    for check in group.checks:
        yield replace(check, why=known.pop(check.what)) if check.ok and check.what in known else check
    for what, why in known.items():  # what the records of a Table lose, whose state version stays
        yield Check(what, True, why)


def _way_back(name: str, before: Entry, after: Entry) -> str:
    between = (
        f" {after.state_version}→{before.state_version}"
        if after.state_version != before.state_version
        else ""
    )
    return f"{name}: way back{between}"


def _trial_checks(group: Group, seen: Seen) -> Iterable[Check]:
    for change in group.changes:
        if change.after is None:
            why = "its state is kept with its Tables, and given back if it returns; what waits for it is a dead letter"
            yield Check(f"{change.name}: leaves", True, why)
        tried = seen.tried.get(change.name)
        if tried is None:
            continue
        what = f"{change.name}: trial"
        if tried.problem is not None:
            yield Check(what, False, tried.problem.reason, tried.problem.fault)
            continue
        on = f"on {tried.on}" if tried.on else "as at a first start"
        yield Check(what, True, f"passed in {tried.seconds:.2f} s, {on}")
        if tried.down and change.before is not None and change.after is not None:
            yield _loss_check(change.name, change.before, change.after, tried)


def _shadow_checks(group: Group, seen: Seen) -> Iterable[Check]:
    """Which modules are shadowed before they may switch; of one that would be and is not, why."""
    for change in group.changes:
        candidate = seen.candidates.get(change.name)
        if candidate is None or change.after is None or not change.brings_code:
            continue
        shadow = candidate.manifest.shadow
        if shadow.messages:
            why_not = shadow_words.why_not(change, seen.ledger, host=seen.shadows)
            why = f"none: {why_not}" if why_not else shadow_words.to_come(change, shadow)
            yield Check(f"{change.name}: shadow", True, why)


def _loss_check(name: str, before: Entry, after: Entry, tried: Tried) -> Check:
    """What going back to an older state loses, found with the steps of the version that would leave."""
    states = (
        f" {before.state_version}→{after.state_version}" if after.state_version < before.state_version else ""
    )
    if tried.lost is None:
        found = f"what that loses is not known: {name} {before.version} has no steps up again"
    elif tried.lost:
        found = (
            f"what {after.version} cannot hold is lost, and kept nowhere: {', '.join(tried.lost)}. Keep it first: "
            f"livetag state {name} --export FILE"
        )
    else:
        found = "nothing is lost"
    return Check(f"{name}: going back{states}", True, found)


def _budget_check(group: Group, seen: Seen) -> Iterable[Check]:
    """Whether the migrations alone, as the trial measured them, keep within the shortest budget."""
    measured = [t.migration_s for c in group.changes if (t := seen.tried.get(c.name)) is not None]
    took_ms = sum(s for s in measured if s is not None) * 1000
    if took_ms == 0:
        return
    candidates = [seen.candidates[c.name] for c in group.changes if c.name in seen.candidates]
    budget_ms = min(c.manifest.limits.pause_ms for c in candidates)
    ok = took_ms <= budget_ms
    if ok:
        fact = f"the migration takes about {words.milliseconds(took_ms)}; limits.pause_ms = {budget_ms:g}"
        yield Check("pause budget", True, fact)
    else:
        yield Check("pause budget", False, words.over_budget(took_ms, budget_ms), "release")


def _pause(steps: Iterable[Step], seen: Seen) -> tuple[float | None, str]:
    """The pause to expect, from what was measured and nothing else (P6)."""
    held = [s for s in steps if s.change.before is not None]
    if not held:
        return None, "no pause: nothing that is in service is touched"
    unknown = [s for s in held if len(s.states) > 1 and not _measured(s, seen)]
    if unknown:
        which = words.listed([f"{s.change.name} {_arrows(s.states)}" for s in unknown])
        return None, f"not measured: no trial has run the migration of {which}"
    migrations_us = sum((_measured(s, seen) or 0.0) * 1e6 for s in held)
    last = [(us, s.change.name) for s in held if (us := _last_pause(s.change.name, seen.ledger)) is not None]
    facts = [f"migration {_us(migrations_us)} in the trial"] if migrations_us else []
    if last:
        us, name = max(last)
        facts.append(f"last pause of {name}: {_us(us)}")
        migrations_us += us
    if not facts:
        return None, f"not measured: no switch of {words.listed([s.change.name for s in held])} yet"
    return migrations_us, f"about {_us(migrations_us)} ({', '.join(facts)})"


def _measured(step: Step, seen: Seen) -> float | None:
    tried = seen.tried.get(step.change.name)
    return tried.migration_s if tried is not None else None


def _last_pause(name: str, ledger: Ledger) -> float | None:
    """The pause of the last switch that touched a module while it was in service, in microseconds."""
    for view in reversed(list(ledger.transactions.values())):
        touched = any(c.name == name and c.before is not None for c in view.changes)
        if touched and view.outcome in {"committed", "reverted"}:
            return view.pause_us
    return None


def _arrows(states: Iterable[int]) -> str:
    return "→".join(map(str, states))


def _us(us: float) -> str:
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"


def state_text(states: tuple[int, ...]) -> str:
    """`1→2→3`, or one version if it is kept as it is; empty if there is none."""
    return _arrows(states)


def is_remark(check: Check) -> bool:
    """Whether a check that holds is said as a remark: loudly, or as an edge, of which only the odd ones are checks."""
    return check.ok and (check.loud or " → " in check.what.partition(": ")[0])


def check_text(check: Check) -> str:
    """What was looked at and what it found, said once: `counter: way back 2→1: yes, loses by_key`."""
    module = check.what.partition(": ")[0]
    why = check.why if check.why.startswith(check.what) else check.why.removeprefix(f"{module}: ")
    return why if why.startswith(check.what) or not check.what else f"{check.what}: {why}"
