"""All checks in their order, and the repairs that are safe."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.config import Deployment
from orchestrator.control.doctor import journal, locks, place, refs, repository, stage
from orchestrator.control.doctor.findings import Case, Check, Finding
from repo_store.errors import StoreError

CHECKS: tuple[Check, ...] = (
    place.config,
    place.host,
    place.control_socket,
    place.permissions,
    place.disk,
    place.tests_only,
    journal.journal,
    journal.transaction,
    journal.modules,
    journal.starts,
    locks.left,  # before what writes refs
    repository.store,
    refs.tags,
    repository.history,
    repository.kept,
    repository.hooks,
    stage.stage,
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and what was done about it."""

    findings: tuple[Finding, ...]
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


def examine(deployment: Deployment) -> Report:
    """Look at everything, change nothing. A check that fails itself is a finding, never an exception."""
    case = case_of(deployment)
    return Report(tuple(finding for check in CHECKS for finding in _findings(check, case)))


def case_of(deployment: Deployment) -> Case:
    """What the checks look at, of this deployment as it is now."""
    pid = place.running_host(deployment)
    try:
        return Case(deployment, pid, journal.read_ledger(deployment.journal))
    except journal.ERRORS:
        return Case(deployment, pid, None)


def _findings(check: Check, case: Case) -> list[Finding]:
    try:
        return list(check(case))
    except (OSError, StoreError) as error:
        name = check.__name__.replace("_", " ")
        return [Finding(name, False, f"it could not be looked at: {error}", "See to that, and look again.")]


def repair(deployment: Deployment) -> Report:
    """Do what is safe about what is wrong, then look again."""
    done = []
    for finding in examine(deployment).findings:
        if finding.ok or finding.repair is None:
            continue
        try:
            done.append(finding.repair())
        except (OSError, StoreError) as error:
            done.append(f"{finding.check}: could not be repaired: {error}")
    return Report(examine(deployment).findings, tuple(done))
