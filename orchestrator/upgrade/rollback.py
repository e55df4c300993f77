"""Rollback of a transaction, worked out as data: which tags on which commits, what is quarantined (DESIGN §9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.errors import UpgradeError
from orchestrator.upgrade.ledger import Ledger, TransactionView
from orchestrator.upgrade.reconfigure import Command
from orchestrator.upgrade.records import Change, Entry
from orchestrator.upgrade.way_back import composed, composition_before, undoing
from orchestrator.upgrade.words import change_text
from repo_store.release import APP, RefMap, Tag, next_free_tag, parse_tag


class RollbackRefused(UpgradeError):
    """There is nothing to go back to; the message says why and what can be done."""


@dataclass(frozen=True, slots=True)
class Step:
    """One package: from the release in service to the target, by a new tag on the target's commit."""

    modules: tuple[str, ...]
    package: str
    from_version: str
    to_version: str
    commit_id: str
    tag: Tag
    state_from: int
    state_to: int | None


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a rollback would do: the transaction it takes back, its steps, the commits it quarantines."""

    txn: int
    steps: tuple[Step, ...]
    quarantine: tuple[Key, ...]
    lifted: tuple[Key, ...] = ()  # commits that go into service again because the rollback names them
    commands: tuple[Command, ...] = ()  # that undo what was done by hand; then there are no steps
    does: tuple[str, ...] = ()  # what a composition that goes back changes, as phrases
    stays: tuple[
        str, ...
    ] = ()  # what the transaction ended that a person had done, and tags do not bring back


def plan_rollback(
    ledger: Ledger,
    refs: RefMap,
    *,
    module: str | None = None,
    txn: int | None = None,
    only: bool = False,
    to: str | None = None,
) -> Rollback:
    """Work out a rollback. Raises RollbackRefused."""
    view = _transaction(ledger, module, txn)
    if view.overrides:
        return _by_commands(view, ledger)
    changes = [c for c in view.changes if not only or c.name == module]
    if only and module is None:
        raise RollbackRefused("--only needs a module: livetag rollback MODULE --only.")
    if to is not None and len({c.after.package for c in changes if c.after is not None}) != 1:
        raise RollbackRefused("--to names the version of one package; name the module and add --only.")
    back = _composition_step(view, ledger, refs) if composed(view) and not only and to is None else None
    steps: dict[str, Step] = {APP: back} if back is not None else {}
    there: list[Entry] = []
    leaving: set[Key] = {(APP, ledger.app[1])} if back is not None and ledger.app is not None else set()
    for change, live in _in_service(changes, ledger, with_composition=back is not None):
        step = _step(view.id, change, live, refs, to)
        if step.commit_id == live.commit_id:
            there.append(live)
            continue
        leaving.add((live.package, live.commit_id))
        if step.package in steps:
            step = _joined(steps[step.package], step)
        steps[step.package] = step
    if there and not steps:
        raise RollbackRefused(
            f"{there[0].package} {there[0].version} is in service from that commit already; nothing to do."
        )
    if not steps:
        raise RollbackRefused(f"Transaction {view.id} left nothing in service that could go back.")
    targets = {(s.package, s.commit_id) for s in steps.values()}
    lifted = sorted(targets & set(ledger.quarantine))
    does = tuple(change_text(Change(c.name, c.after, c.before)) for c in changes) if back is not None else ()
    stays = tuple(text for c in changes for text in _stays(c)) if back is None else ()
    return Rollback(
        view.id, tuple(steps.values()), tuple(sorted(leaving - targets)), tuple(lifted), (), does, stays
    )


def _stays(change: Change) -> Iterator[str]:
    """What was done by hand before and ended with the transaction: a command does it again."""
    before, after = change.before, change.after
    if before is None or after is None:
        return
    for name in before.also:
        if name not in after.also:
            yield f"{name} is not bound again; livetag bind {name} {change.name}"
    if before.enabled and not after.enabled:
        yield f"{change.name} stays disabled; livetag enable {change.name}"
    if after.enabled and not before.enabled:
        yield f"{change.name} stays enabled; livetag disable {change.name}"


def _in_service(
    changes: Sequence[Change], ledger: Ledger, *, with_composition: bool
) -> Iterator[tuple[Change, Entry]]:
    """The changes whose module is there and goes back by a tag of its package; a composition says of the others."""
    for change in changes:
        live = ledger.table.get(change.name)
        by_composition = change.before is None or (live is not None and live.tag.startswith(f"{APP}/"))
        if live is not None and not (with_composition and by_composition):
            yield change, live


def _by_commands(view: TransactionView, ledger: Ledger) -> Rollback:
    commands = tuple(undoing(view, ledger, "livetag rollback", ""))
    if not commands:
        raise RollbackRefused(
            f"What transaction {view.id} did by hand ({view.trigger}) is over already; nothing to do."
        )
    return Rollback(view.id, (), (), (), commands)


def _composition_step(view: TransactionView, ledger: Ledger, refs: RefMap) -> Step | None:
    """The composition before, by a higher app tag on its commit: what it removed returns, what it added leaves.

    None if it is in force already.
    """
    before = composition_before(view, refs)
    mine = view.app[0] if view.app is not None else view.trigger
    if before is None:
        raise RollbackRefused(
            f"There was no composition before {mine}, so no app tag leads back to it. Delete the tag to go back to one "
            f"module for each package: git push live :{mine}; or push a higher app tag with the composition you want."
        )
    if ledger.app is not None and ledger.app[1] == before[1]:
        return None
    now = parse_tag(ledger.app[0]) if ledger.app is not None else None
    then = parse_tag(before[0])
    return Step(
        tuple(sorted(c.name for c in view.changes)),
        APP,
        str(now.version) if now is not None else "",
        str(then.version) if then is not None else "",
        before[1],
        next_free_tag(APP, refs),
        1,
        1,
    )


def _transaction(ledger: Ledger, module: str | None, txn: int | None) -> TransactionView:
    if txn is not None:
        view = ledger.transactions.get(txn)
        if view is None or view.outcome not in {"committed", "reverted"}:
            raise RollbackRefused(f"Transaction {txn} did not go live; livetag history shows those that did.")
        if module is not None and not any(c.name == module for c in view.changes):
            raise RollbackRefused(
                f"Transaction {txn} did not touch {module}; livetag history {module} shows what did."
            )
        return view
    for view in reversed(list(ledger.transactions.values())):
        touches = module is None or any(c.name == module for c in view.changes)
        if (
            view.outcome == "committed" and view.reverts is None and touches
        ):  # a way back is not itself taken back
            return view
    what = f"No transaction with {module}" if module is not None else "No transaction"
    raise RollbackRefused(f"{what} went live yet, so there is nothing to roll back.")


def _step(txn: int, change: Change, live: Entry, refs: RefMap, to: str | None) -> Step:
    if to is not None:
        commit_id, version, state = *_version_commit(live.package, to, refs), None
    else:
        before = change.before
        if before is None:
            raise RollbackRefused(
                f"{change.name} was added by transaction {txn}; there is no version before it. "
                f"Name one with --to, or take the module out of app.toml."
            )
        commit_id, version, state = before.commit_id, before.version, before.state_version
    return Step(
        (change.name,),
        live.package,
        live.version,
        version,
        commit_id,
        next_free_tag(live.package, refs),
        live.state_version,
        state,
    )


def _version_commit(package: str, version: str, refs: RefMap) -> tuple[str, str]:
    ref = refs.get(f"{package}/v{version.removeprefix('v')}")
    if ref is None or ref.commit_id is None:
        known = ", ".join(sorted(name for name in refs if name.startswith(f"{package}/")))
        raise RollbackRefused(f"There is no tag {package}/v{version}. Tags of {package}: {known or 'none'}.")
    return ref.commit_id, str(ref.tag.version)


def _joined(first: Step, second: Step) -> Step:
    if first.commit_id != second.commit_id:
        raise RollbackRefused(
            f"The modules {first.modules[0]} and {second.modules[0]} are made from one package, {first.package}, and would "
            "go back to different commits. Name the version with --to."
        )
    return Step((*first.modules, *second.modules), *_rest(first))


def _rest(step: Step) -> tuple[str, str, str, str, Tag, int, int | None]:
    return (
        step.package,
        step.from_version,
        step.to_version,
        step.commit_id,
        step.tag,
        step.state_from,
        step.state_to,
    )


def shown(rollback: Rollback) -> Mapping[str, object]:
    """The preview as plain data."""
    return {
        "txn": rollback.txn,
        "steps": [
            {
                "modules": list(step.modules),
                "from": step.from_version,
                "to": step.to_version,
                "commit": step.commit_id,
                "tag": step.tag.name,
                "state": _state_text(step),
            }
            for step in rollback.steps
        ],
        "quarantine": [f"{package} {commit[:12]}" for package, commit in rollback.quarantine],
        **({"does": list(rollback.does)} if rollback.does else {}),
        **({"stays": list(rollback.stays)} if rollback.stays else {}),
        **({"commands": [command.text for command in rollback.commands]} if rollback.commands else {}),
    }


def _state_text(step: Step) -> str:
    if step.package == APP:
        return "of modules that return: as it was kept when they left"
    if step.state_to is None or step.state_to == step.state_from:
        return "kept as it is"
    return f"kept, migrated {step.state_from}→{step.state_to}"
